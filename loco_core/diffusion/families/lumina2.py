"""Lumina-Image 2: text and image in one sequence in every block, text in front, read from Gemma 2.

Every text has as many tokens as it has: it is encoded behind a system prompt, and its padding is cut off. The empty
prompt goes without the system prompt, as in the pipeline.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import SEPARATE, FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.packed import aligned, refiners
from loco_core.diffusion.sites import block_names, largest_side
from loco_core.diffusion.tokens import Reading, check_lengths

if TYPE_CHECKING:
    import torch

LENGTH = 256
SAID = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> {}"
)
"""A prompt behind the system prompt."""
_TRANSFORMER = {
    "sample_size": 128, "num_layers": 26, "num_attention_heads": 24, "num_kv_heads": 8, "hidden_size": 2304,
    "in_channels": 16, "cap_feat_dim": 2304,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("Lumina2Pipeline",),
    models={
        "lumina2": ModelInfo(
            20.0, "Alpha-VLLM/Lumina-Image-2.0", gigabytes=14, published=_TRANSFORMER, dtype="bfloat16"
        ),
    },
    seconds_per_image=20.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("layers", config["num_layers"]),
    native_side=lambda config: 8 * largest_side(config),
    encoders="Gemma 2 2B behind a system prompt",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable="nothing: every site shares K and V with the image",
    shared="layers.",
    side_multiple=16,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    passes=SEPARATE,
    refiners="context_refiner.",
    reading=lambda _: Reading("tokenizer", LENGTH, encoder="text_encoder", template=SAID),
    steps=30,
    guidance_scale=4.0,
)


class Family(DiffusersFamily):
    """Loads and prompts a ``Lumina2Pipeline``."""

    pipeline_class = "Lumina2Pipeline"
    text_width = "cap_feat_dim"
    mask_argument = ""

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts behind the system prompt, the empty one without; each by itself."""
        return aligned([self._encoded(pipeline, text) for text in prompts])

    def _encoded(self, pipeline: Any, text: str) -> PromptEmbeds:
        import torch

        said = SAID.replace("{}", text) if text else ""
        ids = torch.tensor([pipeline.tokenizer(said).input_ids])
        check_lengths([text], [ids.shape[1]], LENGTH)
        with torch.no_grad():
            made = pipeline.encode_prompt(
                [text], not text, device=self.where(pipeline)["device"], max_sequence_length=LENGTH
            )
        # What it encodes as the negative prompt where it is given none is the empty prompt.
        embeds = made[0 if text else 2][:, : ids.shape[1]]
        return PromptEmbeds(embeds, ids, torch.ones_like(ids, dtype=torch.bool).to(embeds.device))

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns embeddings as texts of one length; what is in front of shorter ones is hidden elsewhere."""
        return {"prompt_embeds": texts.embeds, "prompt_attention_mask": _whole(texts)}

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once."""
        import torch

        from loco_core.diffusion.attention_calls import attention_calls

        denoiser, n, where = pipeline.transformer, len(prompts.embeds), self.where(pipeline)
        side = 2 * int(denoiser.config.patch_size)
        image = torch.zeros(n, denoiser.config.in_channels, side, side, **where)
        # Ones hide nothing, and are of another device where nothing but shapes is computed.
        with attention_calls(
            denoiser, refiners(denoiser, INFO.refiners), lambda _, call: replace(call, attn_mask=None)
        ):
            denoiser(image, torch.zeros(n, **where), prompts.embeds, _whole(prompts))


def _whole(texts: PromptEmbeds) -> torch.Tensor:
    """Returns ``(rows, tokens)`` ones: the pipeline counts positions of texts and images by it."""
    import torch

    # Lengths are read of it, also where nothing but shapes is computed.
    device = "cpu" if texts.embeds.is_meta else texts.embeds.device
    return torch.ones(texts.embeds.shape[:2], dtype=torch.long, device=device)
