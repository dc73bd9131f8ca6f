"""Stable Diffusion 3 and 3.5: text and image attend to each other in every block, so that the text evolves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.headers import Header
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.single_files import DENOISER, Layout, holds
from loco_core.diffusion.sites import block_names, largest_side
from loco_core.diffusion.tokens import Reading, clip_tokens, t5_tokens

_MEDIUM = {
    "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64,
    "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "in_channels": 16,
    "out_channels": 16, "pos_embed_max_size": 192,
}  # fmt: skip
_LARGE = {
    **_MEDIUM, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm",
}  # fmt: skip


T5_TOKENS = 256
"""What the pipeline reads by default."""


def _reading(index: Mapping[str, Any]) -> Reading:
    """What CLIP cuts T5 reads, where the pipeline has one."""
    if (index.get("text_encoder_3") or [None])[0] is None:
        return Reading("tokenizer", encoder="text_encoder")
    return Reading("tokenizer_3", T5_TOKENS, encoder="text_encoder_3")


_PARTS = {
    "transformer": (f"{DENOISER}joint_blocks.", "joint_blocks."), "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("text_encoders.clip_l.",), "text_encoder_2": ("text_encoders.clip_g.",),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}  # fmt: skip


def _block(number: int, part: str) -> Callable[[Header], bool]:
    return lambda header: holds(header, f"joint_blocks.{number}.{part}")


INFO = FamilyInfo(
    pipelines=("StableDiffusion3Pipeline",),
    models={
        "sd3": ModelInfo(
            12.0, "stabilityai/stable-diffusion-3-medium-diffusers", gigabytes=19, published=_MEDIUM, dtype="float16"
        ),
        "sd35-large": ModelInfo(
            30.0, "stabilityai/stable-diffusion-3.5-large", gigabytes=31, published=_LARGE, dtype="bfloat16"
        ),
    },
    steps=28,
    guidance_scale=7.0,
    seconds_per_image=12.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("transformer_blocks", config["num_layers"]),
    native_side=lambda config: 8 * largest_side(config),
    encoders="CLIP ViT-L and OpenCLIP ViT-bigG side by side, T5-XXL behind them",
    text_encoders={"text_encoder": 0, "text_encoder_2": 0, "text_encoder_3": 1},
    clip_encoders=("text_encoder", "text_encoder_2"),
    stream="evolving",
    pooled="both CLIP encoders' projections, added to the time embedding",
    editable="K and V of the text at every site, fitted on what they read at the first step",
    side_multiple=16,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    reading=_reading,
    layouts=(
        Layout("Stable Diffusion 3.5 large", _block(37, "x_block.attn.qkv.weight"), _PARTS, "sd35-large"),
        Layout("Stable Diffusion 3.5 medium", _block(0, "x_block.attn2.qkv.weight"), _PARTS),
        Layout("Stable Diffusion 3", _block(0, "x_block.attn.qkv.weight"), _PARTS, "sd3"),
    ),
)


def place_of_t5(pipeline: Any) -> int:
    """Returns how many tokens stand behind those of CLIP, of T5 or zeros.

    None where both CLIP encoders fill the width that the denoiser reads: it was built without a T5. Those published are
    twice as wide.
    """
    own = pipeline.text_encoder.config.hidden_size + pipeline.text_encoder_2.config.hidden_size
    alone = pipeline.text_encoder_3 is None and own == pipeline.transformer.config.joint_attention_dim
    return 0 if alone else T5_TOKENS


class Family(DiffusersFamily):
    """Loads and prompts a ``StableDiffusion3Pipeline``."""

    pipeline_class = "StableDiffusion3Pipeline"
    left_out = MappingProxyType({"feature_extractor": None, "image_encoder": None})
    text_width = "joint_attention_dim"
    pooled_width = "pooled_projection_dim"

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with all encoders that the pipeline has; the place of a T5 that is left out holds zeros."""
        import torch

        with torch.no_grad():
            embeds, _, pooled, _ = pipeline.encode_prompt(
                prompts, None, None, device=self.where(pipeline)["device"], do_classifier_free_guidance=False,
                max_sequence_length=place_of_t5(pipeline),
            )  # fmt: skip
        ids, words = clip_tokens(pipeline.tokenizer, prompts, cut=pipeline.text_encoder_3 is not None)
        behind = embeds.shape[1] - ids.shape[1]
        if pipeline.text_encoder_3 is None:
            more, said = torch.zeros(len(prompts), behind, dtype=torch.long), torch.zeros(len(prompts), behind).bool()
        else:
            more, said = t5_tokens(pipeline.tokenizer_3, prompts, behind)
        return PromptEmbeds(
            embeds,
            torch.cat([ids, more], 1),
            torch.cat([words, said], 1).to(embeds.device),
            pooled=pooled,
            segments=(ids.shape[1], behind) if behind else (),
        )

    def arguments(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> dict[str, Any]:
        """Returns the arguments of both halves of guidance, and how many tokens of T5 the pipeline makes room for."""
        found = super().arguments(pipeline, texts, pooled, negative)
        return {**found, "max_sequence_length": place_of_t5(pipeline)}

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once, on the same noise for every prompt, at the first step's time and full size."""
        import torch

        denoiser, n = pipeline.transformer, len(prompts.embeds)
        where = self.where(pipeline)
        side = int(denoiser.config.sample_size)
        denoiser(
            self.noise(pipeline, n, denoiser.config.in_channels, side, side),
            encoder_hidden_states=prompts.embeds,
            pooled_projections=prompts.pooled,
            timestep=torch.full((n,), 1000.0, device=where["device"]),
        )
