"""FLUX.2 [klein]: the blocks of FLUX.2, fewer and narrower, over three layers of Qwen3 side by side.

Its base models run guidance in two calls of the denoiser; the models distilled from them, which their folder says, run
none whatever the scale.
"""

from __future__ import annotations

from typing import Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import SEPARATE, FamilyInfo, ModelInfo
from loco_core.diffusion.families import flux2
from loco_core.diffusion.tokens import Reading

_SMALL = {
    "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "attention_head_dim": 128,
    "joint_attention_dim": 7680, "in_channels": 128, "guidance_embeds": False,
}  # fmt: skip
_LARGE = {
    **_SMALL, "num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288
}  # fmt: skip
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
"""What the published tokenizer makes of a request; the loaded pipeline takes its own tokenizer's word."""
INFO = FamilyInfo(
    pipelines=("Flux2KleinPipeline",),
    models={
        "flux2-klein-4b": ModelInfo(
            12.0,
            "black-forest-labs/FLUX.2-klein-4B",
            gigabytes=16,
            published=_SMALL,
            dtype="bfloat16",
            steps=4,
            guidance_scale=1.0,
        ),
        "flux2-klein-base-4b": ModelInfo(
            25.0, "black-forest-labs/FLUX.2-klein-base-4B", gigabytes=16, published=_SMALL, dtype="bfloat16"
        ),
        "flux2-klein-9b": ModelInfo(
            25.0,
            "black-forest-labs/FLUX.2-klein-9B",
            gigabytes=35,
            published=_LARGE,
            dtype="bfloat16",
            steps=4,
            guidance_scale=1.0,
        ),
        "flux2-klein-base-9b": ModelInfo(
            50.0, "black-forest-labs/FLUX.2-klein-base-9B", gigabytes=35, published=_LARGE, dtype="bfloat16"
        ),
    },
    seconds_per_image=50.0,
    config_file="transformer/config.json",
    site_names=flux2.site_names,
    native_side=lambda _: 1024,
    encoders="Qwen3 (layers 9, 18 and 27 side by side) in a chat",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable=flux2.INFO.editable,
    shared=flux2.INFO.shared,
    passes=SEPARATE,
    steps=50,
    guidance_scale=4.0,
    side_multiple=flux2.PIXELS,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    reading=lambda _: Reading("tokenizer", flux2.LENGTH, encoder="text_encoder", template=CHAT),
)


class Family(flux2.Family):
    """Loads and prompts a ``Flux2KleinPipeline``."""

    pipeline_class = "Flux2KleinPipeline"
    load = DiffusersFamily.load

    def written(self, pipeline: Any, prompt: str) -> str:
        """Returns a prompt as the pipeline writes it into its chat."""
        found: str = pipeline.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return found
