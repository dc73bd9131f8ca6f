"""CogView4: text and image in one sequence in every block, text in front, read from GLM-4.

A text is filled up to a multiple of 16 tokens in front of its first word, and what fills it is read like words are.
"""

from __future__ import annotations

from typing import Any

from loco_core.diffusion.facts import SEPARATE, FamilyInfo, ModelInfo
from loco_core.diffusion.families import cogview3
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.packed import NO_TOKEN, aligned
from loco_core.diffusion.sites import block_names, largest_side
from loco_core.diffusion.tokens import Reading, check_lengths

LENGTH = 1024
_TRANSFORMER = {
    "sample_size": 128, "num_layers": 28, "num_attention_heads": 32, "attention_head_dim": 128, "text_embed_dim": 4096,
    "time_embed_dim": 512, "in_channels": 16, "out_channels": 16,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("CogView4Pipeline",),
    models={"cogview4": ModelInfo(60.0, "THUDM/CogView4-6B", gigabytes=34, published=_TRANSFORMER, dtype="bfloat16")},
    seconds_per_image=60.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("transformer_blocks", config["num_layers"]),
    native_side=lambda config: 8 * largest_side(config),
    encoders="GLM-4 9B",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable="nothing: every site shares K and V with the image",
    shared="transformer_blocks.",
    side_multiple=16,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    passes=SEPARATE,
    reading=lambda _: Reading("tokenizer", LENGTH, encoder="text_encoder"),
    steps=50,
    guidance_scale=5.0,
)


class Family(cogview3.Family):
    """Loads and prompts a ``CogView4Pipeline``, whose transformer is called as that of CogView3+."""

    pipeline_class = "CogView4Pipeline"
    mask_argument = ""

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts, each by itself."""
        return aligned([self._encoded(pipeline, text) for text in prompts])

    def _encoded(self, pipeline: Any, text: str) -> PromptEmbeds:
        import torch

        ids = torch.tensor([pipeline.tokenizer(text).input_ids], dtype=torch.long)
        check_lengths([text], [ids.shape[1]], LENGTH)
        with torch.no_grad():
            embeds, _ = pipeline.encode_prompt(
                [text], do_classifier_free_guidance=False, device=self.where(pipeline)["device"],
                max_sequence_length=LENGTH,
            )  # fmt: skip
        ids = torch.nn.functional.pad(ids, (embeds.shape[1] - ids.shape[1], 0), value=NO_TOKEN)
        return PromptEmbeds(embeds, ids, (ids != NO_TOKEN).to(embeds.device))
