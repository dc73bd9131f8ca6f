"""Qwen-Image: text and image attend to each other in every block, over a language model that sees; padding masked.

Prompts are encoded inside a template of a conversation, as the pipeline does; what is kept of it is the prompt and what
follows it. Nothing pads one prompt in the pipeline: here prompts are padded to one length, and the padding masked. The
empty prompt is a space, as the model's authors write it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import SEPARATE, FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import block_names
from loco_core.diffusion.tokens import Reading, chat_tokens, padded

if TYPE_CHECKING:
    import torch

LENGTH = 512
"""Tokens that are read of a prompt with what follows it in the template."""
BEHIND = 5
"""Those that follow it."""
_TRANSFORMER = {
    "num_layers": 60, "num_attention_heads": 24, "attention_head_dim": 128, "joint_attention_dim": 3584,
    "in_channels": 64, "out_channels": 16, "patch_size": 2, "axes_dims_rope": (16, 56, 56), "guidance_embeds": False,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("QwenImagePipeline",),
    models={
        # Memory is that of flux, and what the weights differ by at half precision.
        "qwen-image": ModelInfo(90.0, "Qwen/Qwen-Image", gigabytes=61, published=_TRANSFORMER, dtype="bfloat16")
    },
    guidance_scale=4.0,
    seconds_per_image=90.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("transformer_blocks", config["num_layers"]),
    native_side=lambda _: 1024,
    encoders="Qwen2.5-VL 7B inside a template",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable="K and V of the text at every site, fitted on what they read at the first step",
    passes=SEPARATE,
    scale_argument="true_cfg_scale",
    side_multiple=16,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    reading=lambda _: Reading("tokenizer", LENGTH - BEHIND),
)


class Family(DiffusersFamily):
    """Loads and prompts a ``QwenImagePipeline``."""

    pipeline_class = "QwenImagePipeline"
    text_width = "joint_attention_dim"
    masked = True
    mask_argument = "encoder_hidden_states_mask"
    call = MappingProxyType({"max_sequence_length": LENGTH})

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts inside the pipeline's template."""
        import torch

        template, before = pipeline.prompt_template_encode, pipeline.prompt_template_encode_start_idx
        texts = [text or " " for text in prompts]
        ids, words = chat_tokens(pipeline.tokenizer, texts, template, before, LENGTH)
        with torch.no_grad():
            embeds, mask = pipeline.encode_prompt(
                texts, device=self.where(pipeline)["device"], max_sequence_length=LENGTH
            )
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        length = ids.shape[1]
        return PromptEmbeds(padded(embeds, length), ids, words.to(embeds.device), mask=padded(mask, length))

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns embeddings with their mask."""
        return {"prompt_embeds": texts.embeds, "prompt_embeds_mask": texts.mask}

    def attention_mask(self, own: torch.Tensor, seen: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor | None:
        """Returns which positions of the text are looked at; the attention adds the image itself."""
        return seen.bool()

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once, on the same noise for every prompt, at the first step's time, for 512 pixels."""
        import torch

        denoiser, n = pipeline.transformer, len(prompts.embeds)
        where = self.where(pipeline)
        side = 512 // INFO.side_multiple
        denoiser(
            hidden_states=self.noise(pipeline, n, side * side, denoiser.config.in_channels),
            encoder_hidden_states=prompts.embeds,
            encoder_hidden_states_mask=prompts.mask,
            timestep=torch.ones(n, **where),
            img_shapes=[[(1, side, side)]] * n,
        )
