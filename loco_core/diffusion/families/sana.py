"""SANA: a linear diffusion transformer with cross-attention over Gemma 2, padding masked.

Prompts are encoded behind an instruction for the language model, as the pipeline does by default; what is kept of them
is the start and what follows the instruction. The empty prompt goes without.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from loco_core.diffusion.diffusers_family import AS_GIVEN, DiffusersFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import block_names, largest_side
from loco_core.diffusion.tokens import Reading, check_lengths

if TYPE_CHECKING:
    import torch

LENGTH = 300
_TRANSFORMER = {
    "sample_size": 32, "num_layers": 20, "num_attention_heads": 70, "attention_head_dim": 32,
    "num_cross_attention_heads": 20, "cross_attention_head_dim": 112, "cross_attention_dim": 2240,
    "caption_channels": 2304, "in_channels": 32, "out_channels": 32, "patch_size": 1,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("SanaPipeline",),
    models={
        "sana": ModelInfo(
            4.0, "Efficient-Large-Model/Sana_1600M_1024px_diffusers", gigabytes=12, published=_TRANSFORMER
        )
    },
    steps=20,
    guidance_scale=4.5,
    seconds_per_image=4.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("transformer_blocks", config["num_layers"]),
    native_side=lambda config: 32 * largest_side(config),
    encoders="Gemma 2 2B behind an instruction, through a projection and a norm shared by all sites",
    text_encoders={"text_encoder": 0},
    side_multiple=32,
    schedulers=("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
    # Behind the instruction; the loaded pipeline counts exactly.
    reading=lambda _: Reading("tokenizer", LENGTH, lower=True, encoder="text_encoder"),
)


class Family(DiffusersFamily):
    """Loads and prompts a ``SanaPipeline``."""

    pipeline_class = "SanaPipeline"
    text_width = "caption_channels"
    masked = True
    call = AS_GIVEN
    encoded: ClassVar[Mapping[str, Any]] = MappingProxyType({"do_classifier_free_guidance": False})
    """Further arguments of the pipeline's encoding."""

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts behind the pipeline's instruction, the empty one without."""
        import torch

        instruction = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
        rows: list[PromptEmbeds] = []
        device = self.where(pipeline)["device"]
        for text in prompts:
            asked = instruction if text else []
            with torch.no_grad():
                embeds, mask, *_ = pipeline.encode_prompt(
                    [text], device=device, clean_caption=False, max_sequence_length=LENGTH,
                    complex_human_instruction=asked, **self.encoded,
                )  # fmt: skip
            ids = _ids(pipeline, text, "\n".join(asked))
            words = mask.bool() & (ids.to(mask.device) != pipeline.tokenizer.eos_token_id)
            rows.append(PromptEmbeds(embeds, ids, words, mask=mask))
        masks = [row.mask for row in rows if row.mask is not None]
        return PromptEmbeds(
            torch.cat([row.embeds for row in rows]),
            torch.cat([row.ids for row in rows]),
            torch.cat([row.words for row in rows]),
            mask=torch.cat(masks),
        )

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once."""
        import torch

        denoiser, n = pipeline.transformer, len(prompts.embeds)
        where = self.where(pipeline)
        side = 2 * int(denoiser.config.patch_size)
        denoiser(
            torch.zeros(n, denoiser.config.in_channels, side, side, **where),
            prompts.embeds,
            torch.zeros(n, **where),
            # Of one whose guidance is distilled.
            guidance=torch.zeros(n, **where) if denoiser.config.get("guidance_embeds") else None,
            encoder_attention_mask=prompts.mask,
        )


def _ids(pipeline: Any, text: str, instruction: str) -> torch.Tensor:
    """Returns ``(1, LENGTH)`` ids of what the pipeline keeps: the start, and the last positions."""
    (said,) = pipeline._text_preprocessing([text], clean_caption=False)
    longest = LENGTH + (len(pipeline.tokenizer.encode(instruction)) - 2 if instruction else 0)
    check_lengths([text], [len(pipeline.tokenizer(instruction + said).input_ids)], longest)
    ids: torch.Tensor = pipeline.tokenizer(
        [instruction + said], padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
    ).input_ids
    return ids[:, [0, *range(1 - LENGTH, 0)]]
