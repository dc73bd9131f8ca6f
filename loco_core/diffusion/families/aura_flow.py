"""AuraFlow: joint blocks, then blocks that serve text and image with one projection.

The transformer puts tokens of its own in front of the text, which evolve with it: they count among the text's
positions, as padding in front of the words.
"""

from __future__ import annotations

from typing import Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import block_names
from loco_core.diffusion.tokens import Reading, t5_tokens

_TRANSFORMER = {
    "sample_size": 64, "num_mmdit_layers": 4, "num_single_dit_layers": 32, "num_attention_heads": 12,
    "attention_head_dim": 256, "joint_attention_dim": 2048, "caption_projection_dim": 3072, "in_channels": 4,
}  # fmt: skip
REGISTERS, LENGTH = 8, 256
"""Tokens that the transformer puts in front of a text, and tokens of a text."""
INFO = FamilyInfo(
    pipelines=("AuraFlowPipeline",),
    models={
        "aura-flow": ModelInfo(25.0, "fal/AuraFlow-v0.3", gigabytes=17, published=_TRANSFORMER, dtype="float16"),
    },
    seconds_per_image=25.0,
    config_file="transformer/config.json",
    site_names=lambda config: (
        block_names("joint_transformer_blocks", config["num_mmdit_layers"])
        + block_names("single_transformer_blocks", config["num_single_dit_layers"])
    ),
    native_side=lambda _: 1024,
    encoders="Pile-T5-XL (a UMT5 encoder), padding read as zeros",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable="K and V of the text in joint blocks, fitted on what they read at the first step; single blocks share "
    "theirs with the image and admit no edit of the text alone",
    shared="single_transformer_blocks.",
    steps=50,
    guidance_scale=3.5,
    side_multiple=16,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    reading=lambda _: Reading("tokenizer", LENGTH, encoder="text_encoder"),
)


class Family(DiffusersFamily):
    """Loads and prompts an ``AuraFlowPipeline``."""

    pipeline_class = "AuraFlowPipeline"
    text_width = "joint_attention_dim"

    def blank(self, pipeline: Any, tokens: int = 2) -> PromptEmbeds:
        """Returns zeros in place of an encoded prompt of so many tokens, behind those of the transformer."""
        return super().blank(pipeline, REGISTERS + tokens)

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts, zeros in place of the transformer's own tokens."""
        import torch

        with torch.no_grad():
            embeds, *_ = pipeline.encode_prompt(
                prompts, do_classifier_free_guidance=False, device=self.where(pipeline)["device"]
            )
        ids, words = t5_tokens(pipeline.tokenizer, prompts, embeds.shape[1])
        front = embeds.new_zeros(len(prompts), REGISTERS, embeds.shape[2])
        return PromptEmbeds(
            torch.cat([front, embeds], 1),
            torch.cat([ids.new_full((len(prompts), REGISTERS), pipeline.tokenizer.pad_token_id), ids], 1),
            torch.cat([words.new_zeros(len(prompts), REGISTERS), words], 1).to(embeds.device),
        )

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns texts behind the transformer's own tokens, with masks, which the call asks for and ignores."""
        embeds = texts.embeds[:, REGISTERS:]
        return {"prompt_embeds": embeds, "prompt_attention_mask": embeds.new_ones(embeds.shape[:2])}

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once, on the same noise for every prompt, at the first step's time, for 512 pixels."""
        import torch

        denoiser, n, where = pipeline.transformer, len(prompts.embeds), self.where(pipeline)
        side = int(denoiser.config.sample_size)
        denoiser(
            self.noise(pipeline, n, denoiser.config.in_channels, side, side),
            encoder_hidden_states=prompts.embeds[:, REGISTERS:],
            timestep=torch.ones(n, **where),
        )
