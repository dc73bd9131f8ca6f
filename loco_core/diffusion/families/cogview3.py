"""CogView3+: text and image in one sequence in every block, text in front, read from T5.

Texts are padded to one length, and nothing masks padding. In place of the empty prompt its pipeline reads zeros.
"""

from __future__ import annotations

from typing import Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import block_names, largest_side
from loco_core.diffusion.tokens import Reading, t5_tokens

LENGTH = 224
_TRANSFORMER = {
    "sample_size": 128, "num_layers": 30, "num_attention_heads": 64, "attention_head_dim": 40, "text_embed_dim": 4096,
    "time_embed_dim": 512, "in_channels": 16, "out_channels": 16,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("CogView3PlusPipeline",),
    models={
        "cogview3-plus": ModelInfo(
            30.0, "THUDM/CogView3-Plus-3B", gigabytes=19, published=_TRANSFORMER, dtype="bfloat16"
        )
    },
    seconds_per_image=30.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("transformer_blocks", config["num_layers"]),
    native_side=lambda config: 8 * largest_side(config),
    encoders="T5-XXL",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable="nothing: every site shares K and V with the image",
    shared="transformer_blocks.",
    side_multiple=16,
    schedulers=("CogVideoXDDIMScheduler",),
    reading=lambda _: Reading("tokenizer", LENGTH, encoder="text_encoder"),
    steps=50,
    guidance_scale=5.0,
)


class Family(DiffusersFamily):
    """Loads and prompts a ``CogView3PlusPipeline``."""

    pipeline_class = "CogView3PlusPipeline"
    text_width = "text_embed_dim"

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts; zeros in place of the empty one."""
        import torch

        with torch.no_grad():
            embeds, _ = pipeline.encode_prompt(
                prompts, do_classifier_free_guidance=False, max_sequence_length=LENGTH,
                device=self.where(pipeline)["device"],
            )  # fmt: skip
        ids, words = t5_tokens(pipeline.tokenizer, prompts, embeds.shape[1])
        said = torch.tensor([bool(text) for text in prompts], device=embeds.device)
        return PromptEmbeds(embeds * said[:, None, None], ids, words.to(embeds.device))

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once."""
        import torch

        denoiser, n, where = pipeline.transformer, len(prompts.embeds), self.where(pipeline)
        side = 2 * int(denoiser.config.patch_size)
        sizes = torch.zeros(n, 2, **where)
        denoiser(
            torch.zeros(n, denoiser.config.in_channels, side, side, **where), prompts.embeds,
            torch.zeros(n, device=where["device"]), original_size=sizes, target_size=sizes, crop_coords=sizes,
        )  # fmt: skip
