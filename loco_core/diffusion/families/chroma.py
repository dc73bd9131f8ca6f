"""Chroma: FLUX.1's blocks without a pooled text and without distilled guidance, over T5 whose padding is masked.

All padding but its first token is masked, in double and in single blocks: the first beside the words was left on in
training. What diffusers 0.42 makes of the mask are numbers that it adds to the scores, 1 where a query may look at a
key and 0 elsewhere. Rows here are drawn as that pipeline draws them, so that padding is read less, and not left out.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import SEPARATE, FamilyInfo, ModelInfo
from loco_core.diffusion.families import flux
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.tokens import Reading, t5_tokens

if TYPE_CHECKING:
    import torch

LENGTH = 512
_TRANSFORMER = {
    "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128,
    "joint_attention_dim": 4096, "in_channels": 64, "approximator_num_channels": 64, "approximator_hidden_dim": 5120,
    "approximator_layers": 5,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("ChromaPipeline",),
    models={
        # Memory is that of flux, less what the weights differ by at half precision: 8.9 of 11.9 billion.
        "chroma": ModelInfo(60.0, "lodestones/Chroma1-HD", gigabytes=31, published=_TRANSFORMER, dtype="bfloat16")
    },
    steps=35,
    guidance_scale=5.0,
    seconds_per_image=60.0,
    config_file="transformer/config.json",
    site_names=flux.INFO.site_names,
    native_side=lambda _: 1024,
    encoders="T5-XXL",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable=flux.INFO.editable,
    shared=flux.INFO.shared,
    passes=SEPARATE,
    side_multiple=flux.PIXELS,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    reading=lambda _: Reading("tokenizer", LENGTH, encoder="text_encoder"),
)


class Family(DiffusersFamily):
    """Loads and prompts a ``ChromaPipeline``."""

    pipeline_class = "ChromaPipeline"
    left_out = MappingProxyType({"feature_extractor": None, "image_encoder": None})
    text_width = "joint_attention_dim"
    masked = True

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with T5, which looks at no padding."""
        import torch

        with torch.no_grad():
            embeds, _, mask, *_ = pipeline.encode_prompt(
                prompts, device=self.where(pipeline)["device"], do_classifier_free_guidance=False
            )
        ids, words = t5_tokens(pipeline.tokenizer, prompts, embeds.shape[1])
        return PromptEmbeds(embeds, ids, words.to(embeds.device), mask=mask.long())

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns embeddings, and their mask in the same format, as the pipeline has it."""
        found = super().prompt_arguments(pipeline, texts, pooled)
        return {name: value.to(texts.embeds) for name, value in found.items()}

    def attention_mask(self, own: torch.Tensor, seen: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor | None:
        """Returns the mask of queries and keys, text and image: queries of the row's own text, keys of the one seen."""
        if given is None:
            return None
        queries, keys = (_with_image(mask.to(given), given.shape[-1]) for mask in (own, seen))
        return queries[:, None, :, None] * keys[:, None, None, :]

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once, on the same noise for every prompt, at the first step's time, for 512 pixels."""
        import torch

        where = self.where(pipeline)
        given = flux.picture(self, pipeline, prompts)
        tokens = prompts.embeds.shape[1] + given["hidden_states"].shape[1]
        mask = None if prompts.mask is None else _with_image(prompts.mask.to(**where), tokens)
        pipeline.transformer(**given, timestep=torch.ones(len(prompts.embeds), **where), attention_mask=mask)


def _with_image(mask: torch.Tensor, tokens: int) -> torch.Tensor:
    """Returns a mask of the text with that of the image behind it, of so many tokens in all."""
    import torch

    return torch.cat([mask, mask.new_ones(len(mask), tokens - mask.shape[1])], 1)
