"""Stable Diffusion XL: two CLIP text encoders side by side, and the pooled text of the second beside the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loco_core.models import FamilyInfo, ModelInfo, PromptEmbeds, load_pipeline
from loco_core.sites import unet_site_names
from loco_core.tokens import clip_tokens

if TYPE_CHECKING:
    import torch

_UNET = {
    "sample_size": 128, "layers_per_block": 2, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("StableDiffusionXLPipeline",),
    models={
        "sdxl": ModelInfo(
            12.0,
            "stabilityai/stable-diffusion-xl-base-1.0",
            "462165984030d82259a11f4367a4eed129e94a7b",
            published=_UNET,
        ),
    },
    status="supported",
    gigabytes=10.0,
    seconds_per_image=12.0,
    config_file="unet/config.json",
    site_names=unet_site_names,
    native_side=lambda config: 8 * int(config["sample_size"]),
    encoders="CLIP ViT-L and OpenCLIP ViT-bigG, side by side",
    pooled="the second encoder's projection, added to the time embedding",
)


class Family:
    """Loads and prompts a ``StableDiffusionXLPipeline``."""

    def load(self, path: str, revision: str | None, dtype: str, device: str) -> Any:
        """Loads the pipeline."""
        return load_pipeline("StableDiffusionXLPipeline", path, revision, dtype, device)

    def denoiser(self, pipeline: Any) -> torch.nn.Module:
        """Returns the UNet."""
        unet: torch.nn.Module = pipeline.unet
        return unet

    def blank(self, pipeline: Any) -> PromptEmbeds:
        """Returns zeros in place of a prompt."""
        import torch

        unet, ids = pipeline.unet, torch.zeros(1, 2, dtype=torch.long)
        config, where = unet.config, {"dtype": unet.dtype, "device": unet.device}
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        embeds = torch.zeros(1, 2, config.cross_attention_dim, **where)
        return PromptEmbeds(embeds, ids, ids.bool(), pooled=torch.zeros(1, width, **where))

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with both encoders; the empty one as zeros where the pipeline is configured so."""
        import torch

        with torch.no_grad():
            embeds, _, pooled, _ = pipeline.encode_prompt(
                prompts, device=pipeline.unet.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        if pipeline.config.force_zeros_for_empty_prompt:
            said = torch.tensor([bool(text) for text in prompts], device=embeds.device)
            embeds, pooled = embeds * said[:, None, None], pooled * said[:, None]
        ids, words = clip_tokens(pipeline.tokenizer, prompts)
        return PromptEmbeds(embeds, ids, words.to(embeds.device), pooled=pooled)

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the UNet once."""
        import torch

        unet, n = pipeline.unet, len(prompts.embeds)
        side, where = min(int(unet.config.sample_size), 8), {"dtype": unet.dtype, "device": unet.device}
        unet(
            torch.zeros(n, unet.config.in_channels, side, side, **where),
            torch.zeros(1, dtype=torch.long, device=unet.device),
            prompts.embeds,
            added_cond_kwargs={"text_embeds": prompts.pooled, "time_ids": torch.zeros(n, 6, **where)},
        )

    def arguments(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> dict[str, Any]:
        """Returns embeddings and pooled texts."""
        return {
            "prompt_embeds": texts.embeds,
            "pooled_prompt_embeds": pooled.pooled,
            "negative_prompt_embeds": negative[0].embeds if negative else None,
            "negative_pooled_prompt_embeds": negative[1].pooled if negative else None,
        }

    def images(self, output: torch.Tensor) -> torch.Tensor:
        """Returns them as they are."""
        return output
