"""Wan 2.1 and 2.2: transformers for videos with cross-attention over UMT5, drawn as one picture: a video of one frame.

The autoencoder keeps a first frame alone, before it takes four frames together, so that a picture is a video of one.
What stands behind a prompt is read as zeros, and nothing masks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import SEPARATE, FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import block_names
from loco_core.diffusion.tokens import Reading, t5_tokens

if TYPE_CHECKING:
    import torch

LENGTH = 512
SIDES = (480, 832)
"""Height and width that the pipeline draws by default."""
_TRANSFORMER = {
    "num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "freq_dim": 256,
    "text_dim": 4096, "in_channels": 16, "out_channels": 16, "patch_size": (1, 2, 2), "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024,
}  # fmt: skip
_14B = {**_TRANSFORMER, "num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824}
_5B = {**_TRANSFORMER, "num_attention_heads": 24, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}


def _refused(index: Mapping[str, Any]) -> str:
    """Says why a pipeline of two experts is not served: the same sites are in both, and each draws some of the steps.

    Args:
        index: index of the pipeline's folder.
    """
    second = index.get("transformer_2")
    two = isinstance(second, list | tuple) and bool(second) and bool(second[-1])
    if index.get("boundary_ratio") is not None:
        why = "two denoisers take turns, one at the early steps and another at the late ones"
    elif two:
        why = "it holds a second denoiser, and no boundary_ratio says which steps are its own"
    else:
        return ""
    return (
        f"{why}, and a sweep intervenes on one; expected a model of one, such as Wan-AI/Wan2.2-TI2V-5B-Diffusers or "
        "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    )


INFO = FamilyInfo(
    pipelines=("WanPipeline",),
    models={
        # Memory is that of pixart, and what the weights differ by at half precision, those of UMT5-XXL among them.
        "wan21-1.3b": ModelInfo(10.0, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", gigabytes=18, published=_TRANSFORMER),
        "wan21-14b": ModelInfo(60.0, "Wan-AI/Wan2.1-T2V-14B-Diffusers", gigabytes=44, published=_14B, dtype="bfloat16"),
        "wan22-5b": ModelInfo(10.0, "Wan-AI/Wan2.2-TI2V-5B-Diffusers", gigabytes=26, published=_5B),
    },
    guidance_scale=5.0,
    seconds_per_image=20.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("blocks", config["num_layers"]),
    native_side=lambda _: max(SIDES),
    encoders="UMT5-XXL, padding read as zeros, through a projection shared by all sites",
    text_encoders={"text_encoder": 0},
    passes=SEPARATE,
    # Of the models of 2.2; those of 2.1 take half of it.
    side_multiple=32,
    schedulers=("UniPCMultistepScheduler", "DPMSolverMultistepScheduler"),
    reading=lambda _: Reading("tokenizer", LENGTH, encoder="text_encoder"),
    refuses=_refused,
)


class Family(DiffusersFamily):
    """Loads and prompts a ``WanPipeline`` of one denoiser."""

    pipeline_class = "WanPipeline"
    text_width = "text_dim"
    call = MappingProxyType({"num_frames": 1})

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts, zeros in place of padding."""
        import torch
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        with torch.no_grad():
            embeds, _ = pipeline.encode_prompt(
                prompts, do_classifier_free_guidance=False, max_sequence_length=LENGTH,
                device=self.where(pipeline)["device"],
            )  # fmt: skip
        ids, words = t5_tokens(pipeline.tokenizer, [prompt_clean(text) for text in prompts], LENGTH)
        return PromptEmbeds(embeds, ids, words.to(embeds.device))

    def images(self, output: torch.Tensor) -> torch.Tensor:
        """Returns the one frame of every video: ``(n, 3, height, width)`` in [0, 1]."""
        return output[:, 0]

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once, on a frame of two patches a side."""
        import torch

        denoiser, n, where = pipeline.transformer, len(prompts.embeds), self.where(pipeline)
        frames, height, width = denoiser.config.patch_size
        denoiser(
            torch.zeros(n, denoiser.config.in_channels, frames, 2 * height, 2 * width, **where),
            torch.zeros(n, device=where["device"]),
            prompts.embeds,
        )
