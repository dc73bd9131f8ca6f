"""HunyuanImage 2.1: double blocks, then single blocks with the image in front, over a language model that sees.

Prompts are encoded inside a template of a conversation, as the pipeline does, and padding is masked. The pipeline pads
to 1,000 tokens and adds 128 empty ones of ByT5, which reads words in quotation marks alone. As masked tokens change
nothing, prompts here are as long as the longest of them, and one empty token. Words in quotation marks are refused:
what ByT5 makes of them stands in front of the prompt, and a whole batch is guided otherwise because of them.

Guidance is no argument of the pipeline's call: one of its parts, the guider, has it. From its seventh step on the
published one projects what guidance adds, with a scale of its own, which the guidance scale does not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import SEPARATE, FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import block_names
from loco_core.diffusion.tokens import UNQUOTED, Reading, chat_tokens, padded, quoted
from loco_core.errors import ModelError
from loco_core.types import Extras

if TYPE_CHECKING:
    import torch

LENGTH = 1000
"""Tokens that are read of a prompt with what follows it in the template."""
BEHIND = 1
"""Those that follow it."""
PIXELS = 32
"""Side of what one image token stands for."""
_TRANSFORMER = {
    "num_layers": 20, "num_single_layers": 40, "num_refiner_layers": 2, "num_attention_heads": 28,
    "attention_head_dim": 128, "in_channels": 64, "out_channels": 64, "patch_size": (1, 1), "text_embed_dim": 3584,
    "text_embed_2_dim": 1472, "rope_axes_dim": (64, 64), "guidance_embeds": False,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("HunyuanImagePipeline",),
    models={
        # Memory is that of flux, and what the weights differ by at half precision.
        "hunyuan-image": ModelInfo(
            100.0,
            "hunyuanvideo-community/HunyuanImage-2.1-Diffusers",
            gigabytes=56,
            published=_TRANSFORMER,
            dtype="bfloat16",
        )
    },
    guidance_scale=3.5,
    seconds_per_image=100.0,
    config_file="transformer/config.json",
    site_names=lambda config: (
        block_names("transformer_blocks", config["num_layers"])
        + block_names("single_transformer_blocks", config["num_single_layers"])
    ),
    native_side=lambda _: 2048,
    encoders="Qwen2.5-VL 7B inside a template, its third hidden layer from the end, refined by two blocks of attention",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable="K and V of the text in double blocks, fitted on what they read at the first step; single blocks share "
    "theirs with the image and admit no edit of the text alone",
    shared="single_transformer_blocks.",
    passes=SEPARATE,
    scale_argument="",
    text_last=True,
    side_multiple=PIXELS,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    reading=lambda _: Reading("tokenizer", LENGTH - BEHIND, unquoted=True),
)


class Family(DiffusersFamily):
    """Loads and prompts a ``HunyuanImagePipeline``."""

    pipeline_class = "HunyuanImagePipeline"
    text_width = "text_embed_dim"
    masked = True

    def load(self, path: str, revision: str | None, dtype: str, device_map: str | None, extras: Extras | None) -> Any:
        """Loads the pipeline.

        Raises:
            ModelError: its guidance is distilled, or its guider is not that of HunyuanImage 2.1 for all steps.
        """
        pipeline = super().load(path, revision, dtype, device_map, extras)
        config = pipeline.transformer.config
        if config.guidance_embeds or config.use_meanflow:
            raise ModelError(
                f"{path} is a distilled HunyuanImage, which reads guidance and two times as numbers; expected one with "
                "a guider, such as hunyuanvideo-community/HunyuanImage-2.1-Diffusers"
            )
        guider = pipeline.guider
        name = type(guider).__name__
        if name != "AdaptiveProjectedMixGuidance" or (guider.config.start, guider.config.stop) != (0.0, 1.0):
            raise ModelError(
                f"the guider of {path} is {name} {dict(getattr(guider, 'config', {}))}; expected an "
                "AdaptiveProjectedMixGuidance from start: 0.0 to stop: 1.0, so that every step calls the denoiser twice"
            )
        return pipeline

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts inside the pipeline's template.

        Raises:
            ModelError: a prompt has words in quotation marks, or is too long.
        """
        import torch

        for text in prompts:
            if quoted(text):
                raise ModelError(f'the prompt "{text[:60]}" {UNQUOTED}')
        template, before = pipeline.prompt_template_encode, pipeline.prompt_template_encode_start_idx
        ids, words = chat_tokens(pipeline.tokenizer, prompts, template, before, LENGTH)
        with torch.no_grad():
            embeds, mask = pipeline._get_qwen_prompt_embeds(
                pipeline.tokenizer, pipeline.text_encoder, prompts, device=self.where(pipeline)["device"],
                tokenizer_max_length=ids.shape[1], template=template, drop_idx=before,
            )  # fmt: skip
        # With the empty token of ByT5, which stands where padding begins.
        more = ids.shape[1] + 1
        return PromptEmbeds(
            padded(embeds, more), padded(ids, more), padded(words, more).to(embeds.device), mask=padded(mask, more)
        )

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns embeddings with their mask, and one empty token in place of what ByT5 makes."""
        embeds, mask = texts.embeds, texts.mask
        assert mask is not None
        return {
            "prompt_embeds": embeds[:, :-1],
            "prompt_embeds_mask": mask[:, :-1],
            "prompt_embeds_2": embeds.new_zeros(len(embeds), 1, pipeline.transformer.config.text_embed_2_dim),
            "prompt_embeds_mask_2": mask.new_zeros(len(embeds), 1),
        }

    def guide(self, pipeline: Any, argument: str, scale: float, *, guided: bool) -> dict[str, Any]:
        """Gives the scale to the pipeline's guider, and no argument to its call."""
        pipeline.guider = pipeline.guider.new(guidance_scale=scale, enabled=guided)
        return {}

    def attention_mask(self, own: torch.Tensor, seen: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor | None:
        """Returns the keys that are looked at, the image in front of the text: ``(rows, 1, 1, tokens)``."""
        import torch

        if given is None:
            return None
        image = seen.new_ones(len(seen), given.shape[-1] - seen.shape[1])
        return torch.cat([image, seen], 1).bool()[:, None, None]

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once, on the same noise for every prompt, at the first step's time, for 1,024 pixels."""
        import torch

        denoiser, n = pipeline.transformer, len(prompts.embeds)
        where = self.where(pipeline)
        side = 1024 // PIXELS
        texts = self.prompt_arguments(pipeline, prompts, prompts)
        denoiser(
            self.noise(pipeline, n, denoiser.config.in_channels, side, side),
            torch.full((n,), 1000.0, **where),
            texts["prompt_embeds"],
            texts["prompt_embeds_mask"],
            encoder_hidden_states_2=texts["prompt_embeds_2"],
            encoder_attention_mask_2=texts["prompt_embeds_mask_2"],
        )
