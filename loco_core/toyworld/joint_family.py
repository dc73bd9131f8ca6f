"""The bundled joint-stream transformer: Stable Diffusion 3 without T5, and without the 256 zeros in its place.

A picture has 16 image tokens here, and a caption as many words: the zeros would take most of the time, and most of the
attention. The pipeline alone leaves them out with ``max_sequence_length=0``. A folder of its class is taken for Stable
Diffusion 3 itself; what ships with the project is named.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from loco_core.diffusion.families import sd3
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.tokens import Reading, clip_tokens

INFO = replace(
    sd3.INFO, pipelines=(), models={}, seconds_per_image=0.5, steps=20, guidance_scale=3.0, layouts=(),
    encoders="the bundled CLIP, twice side by side", clip_encoders=("text_encoder", "text_encoder_2"),
    text_encoders={"text_encoder": 0, "text_encoder_2": 0}, side_multiple=8,
    reading=lambda index: Reading("tokenizer", encoder="text_encoder"),
)  # fmt: skip


class Family(sd3.Family):
    """Loads and prompts a ``StableDiffusion3Pipeline`` whose prompts are CLIP's tokens alone."""

    call = MappingProxyType({"max_sequence_length": 0})

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with both encoders."""
        import torch

        with torch.no_grad():
            embeds, _, pooled, _ = pipeline.encode_prompt(
                prompts, None, None, device=self.where(pipeline)["device"], do_classifier_free_guidance=False,
                max_sequence_length=0,
            )  # fmt: skip
        ids, words = clip_tokens(pipeline.tokenizer, prompts)
        return PromptEmbeds(embeds, ids, words.to(embeds.device), pooled=pooled)
