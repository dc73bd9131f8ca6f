"""Ovis-Image: blocks of FLUX.1, fewer and without a pooled text, over Qwen3 in a chat; guidance by two calls a step.

The chat describes the task in front of every prompt, and most of that is cut off; padding is zeros that nothing masks.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import SEPARATE, FamilyInfo, ModelInfo
from loco_core.diffusion.families import flux, flux2_klein
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.tokens import Reading, templated_tokens

LENGTH = 256
"""Tokens that are read of a prompt, with what the chat says behind it."""
BEFORE = 28
"""Tokens of the chat in front of a prompt that are cut off."""
TASK = (
    "Describe the image by detailing the color, quantity, text, shape, size, texture, spatial relationships of the "
    "objects and background: "
)
_TRANSFORMER = {
    "num_layers": 6, "num_single_layers": 27, "num_attention_heads": 24, "attention_head_dim": 128,
    "joint_attention_dim": 2048, "in_channels": 64, "out_channels": 64, "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("OvisImagePipeline",),
    models={
        # Memory is that of flux, and what the weights differ by at half precision.
        "ovis-image": ModelInfo(45.0, "AIDC-AI/Ovis-Image-7B", gigabytes=22, published=_TRANSFORMER, dtype="bfloat16")
    },
    guidance_scale=5.0,
    seconds_per_image=45.0,
    config_file="transformer/config.json",
    site_names=flux.INFO.site_names,
    native_side=lambda _: 1024,
    encoders="Qwen3 in a chat that describes the task",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable=flux.INFO.editable,
    shared=flux.INFO.shared,
    passes=SEPARATE,
    side_multiple=flux.PIXELS,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    reading=lambda _: Reading(
        "tokenizer", BEFORE + LENGTH, encoder="text_encoder", template=flux2_klein.CHAT.replace("{}", TASK + "{}")
    ),
)


class Family(DiffusersFamily):
    """Loads and prompts an ``OvisImagePipeline``."""

    pipeline_class = "OvisImagePipeline"
    text_width = "joint_attention_dim"
    # Else its call would take an empty one beside embeddings for a contradiction.
    call = MappingProxyType({"negative_prompt": None})

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts inside the pipeline's chat, behind what it cuts off."""
        import torch

        def written(text: str) -> str:
            (found,) = pipeline._get_messages([text])
            return str(found)

        ids, words = templated_tokens(pipeline.tokenizer, written, prompts, BEFORE + LENGTH)
        with torch.no_grad():
            embeds, *_ = pipeline.encode_prompt(
                prompts, do_classifier_free_guidance=False, device=self.where(pipeline)["device"],
                max_sequence_length=LENGTH,
            )  # fmt: skip
        return PromptEmbeds(embeds, ids[:, BEFORE:], words[:, BEFORE:].to(embeds.device))

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once, on the same noise for every prompt, at the first step's time, for 512 pixels."""
        import torch

        (n, count), where = prompts.embeds.shape[:2], self.where(pipeline)
        numbers = torch.arange(count, **where)
        places = torch.stack([torch.zeros_like(numbers), numbers, numbers], 1)
        given = {**flux.picture(self, pipeline, prompts), "txt_ids": places}
        pipeline.transformer(**given, timestep=torch.ones(n, **where))
