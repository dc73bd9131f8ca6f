"""PixArt-alpha, PixArt-Sigma and bundled models: a transformer with cross-attention over T5, padding masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import AS_GIVEN, DiffusersFamily, OfNoise
from loco_core.diffusion.facts import FamilyInfo, ModelInfo, plain_class
from loco_core.diffusion.model import PromptEmbeds, load_pipeline
from loco_core.diffusion.sites import block_names, largest_side
from loco_core.diffusion.tokens import Reading, t5_tokens
from loco_core.types import Extras

if TYPE_CHECKING:
    import torch

_TRANSFORMER = {
    "sample_size": 128, "num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4,
    "out_channels": 8, "patch_size": 2, "cross_attention_dim": 1152, "caption_channels": 4096,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline"),
    models={
        "pixart": ModelInfo(10.0, "PixArt-alpha/PixArt-XL-2-1024-MS", gigabytes=14, published=_TRANSFORMER),
        "pixart-sigma": ModelInfo(10.0, "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", gigabytes=14, published=_TRANSFORMER),
    },
    steps=20,
    guidance_scale=4.5,
    seconds_per_image=10.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("transformer_blocks", config["num_layers"]),
    native_side=lambda config: 8 * largest_side(config),
    encoders="T5-XXL, through a caption projection shared by all sites",
    attackable=True,
    text_encoders={"text_encoder": 0},
    side_multiple=16,
    reading=lambda index: Reading(
        "tokenizer", 120 if index["_class_name"] == "PixArtAlphaPipeline" else 300, lower=True, encoder="text_encoder"
    ),
)


class Family(OfNoise, DiffusersFamily):
    """Loads and prompts a ``PixArtAlphaPipeline`` or ``PixArtSigmaPipeline``, as its folder names it."""

    text_width = "caption_channels"
    masked = True
    call = AS_GIVEN

    def load(self, path: str, revision: str | None, dtype: str, device_map: str | None, extras: Extras | None) -> Any:
        """Loads the pipeline as the class that its folder names, without perturbed-attention guidance."""
        from loco_core.diffusion.checkpoints import class_of

        return load_pipeline(plain_class(class_of(path, revision)), path, revision, dtype, device_map, extras)

    def read(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with T5."""
        embeds, mask, _, _ = pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.where(pipeline)["device"], clean_caption=False
        )
        texts = pipeline._text_preprocessing(prompts, clean_caption=False)
        ids, words = t5_tokens(pipeline.tokenizer, texts, embeds.shape[1])
        return PromptEmbeds(embeds, ids, words.to(embeds.device), mask=mask)

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once."""
        import torch

        denoiser, n = pipeline.transformer, len(prompts.embeds)
        where = self.where(pipeline)
        side = 2 * int(denoiser.config.patch_size)
        denoiser(
            torch.zeros(n, denoiser.config.in_channels, side, side, **where),
            encoder_hidden_states=prompts.embeds,
            encoder_attention_mask=prompts.mask,
            timestep=torch.zeros(n, dtype=torch.long, device=where["device"]),
            # Micro-conditions, which the models of 1024 pixels read.
            added_cond_kwargs={"resolution": torch.ones(n, 2, **where), "aspect_ratio": torch.ones(n, 1, **where)},
        )

    def predict(self, pipeline: Any, noisy: torch.Tensor, times: torch.Tensor, texts: PromptEmbeds) -> torch.Tensor:
        """Runs the transformer; of what it learned beside the noise, its variance, nothing is kept."""
        denoiser, n, channels = pipeline.transformer, len(noisy), noisy.shape[1]
        height, width = (float(side * pipeline.vae_scale_factor) for side in noisy.shape[2:])
        found: torch.Tensor = denoiser(
            noisy,
            encoder_hidden_states=texts.embeds,
            encoder_attention_mask=texts.mask,
            timestep=times,
            added_cond_kwargs={
                "resolution": noisy.new_tensor([[height, width]]).expand(n, 2),
                "aspect_ratio": noisy.new_tensor([[height / width]]).expand(n, 1),
            },
        ).sample
        return found[:, :channels]
