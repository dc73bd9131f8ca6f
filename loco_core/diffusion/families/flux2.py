"""FLUX.2 [dev]: joint blocks, then blocks of one projection of text and image for queries, K, V and the feed-forward.

Its text is three layers of Mistral Small side by side, read inside a chat with a system message, all 512 positions of
it, padding too. Its guidance is distilled: the scale is a number that the transformer reads.
"""

from __future__ import annotations

from typing import Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import UNGUIDED, FamilyInfo, ModelInfo
from loco_core.diffusion.hub import local_pipeline
from loco_core.diffusion.loading import load_tokenizer
from loco_core.diffusion.model import PromptEmbeds, load_pipeline
from loco_core.diffusion.sites import block_names
from loco_core.diffusion.tokens import Reading, templated_tokens
from loco_core.types import Extras

_TRANSFORMER = {
    "num_layers": 8, "num_single_layers": 48, "num_attention_heads": 48, "attention_head_dim": 128,
    "joint_attention_dim": 15360, "in_channels": 128, "guidance_embeds": True,
}  # fmt: skip
PIXELS, LENGTH = 16, 512
"""Side of what one image token stands for; tokens of a text."""


def site_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Returns the addresses of the joint blocks, then of the single ones."""
    return block_names("transformer_blocks", config["num_layers"]) + block_names(
        "single_transformer_blocks", config["num_single_layers"]
    )


INFO = FamilyInfo(
    pipelines=("Flux2Pipeline",),
    models={
        "flux2-dev": ModelInfo(
            120.0, "black-forest-labs/FLUX.2-dev", gigabytes=113, published=_TRANSFORMER, dtype="bfloat16"
        )
    },
    seconds_per_image=120.0,
    config_file="transformer/config.json",
    site_names=site_names,
    native_side=lambda _: 1024,
    encoders="Mistral Small 3 (layers 10, 20 and 30 side by side) in a chat with a system message",
    text_encoders={"text_encoder": 0},
    stream="evolving",
    editable="K and V of the text in double blocks, fitted on what they read at the first step; single blocks share "
    "theirs with the image and admit no edit of the text alone",
    shared="single_transformer_blocks.",
    passes=UNGUIDED,
    steps=50,
    guidance_scale=4.0,
    guidance_example="FLUX.2-dev 4",
    side_multiple=PIXELS,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    # The chat around a prompt takes some of them; the loaded pipeline counts exactly.
    reading=lambda _: Reading("tokenizer", LENGTH),
)


class Family(DiffusersFamily):
    """Loads and prompts a ``Flux2Pipeline``."""

    pipeline_class = "Flux2Pipeline"
    text_width = "joint_attention_dim"

    def load(self, path: str, revision: str | None, dtype: str, device_map: str | None, extras: Extras | None) -> Any:
        """Loads the pipeline, of its processor of texts and pictures the tokenizer alone."""
        folder = local_pipeline(path, revision, variant=extras.variant if extras else None)
        pipeline = load_pipeline(self.pipeline_class, path, revision, dtype, device_map, extras, tokenizer=None)
        pipeline.register_modules(tokenizer=load_tokenizer(folder / "tokenizer", "PixtralProcessor"))
        return pipeline

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts inside the pipeline's chat."""
        import torch

        with torch.no_grad():
            embeds, _ = pipeline.encode_prompt(prompts, device=self.where(pipeline)["device"])
        ids, words = templated_tokens(
            pipeline.tokenizer, lambda text: self.written(pipeline, text), prompts, embeds.shape[1]
        )
        return PromptEmbeds(embeds, ids, words.to(embeds.device))

    def written(self, pipeline: Any, prompt: str) -> str:
        """Returns a prompt as the pipeline writes it into its chat."""
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        (messages,) = format_input([prompt], pipeline.system_message)
        found: str = pipeline.tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
        return found

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once, on the same noise for every prompt, at the first step's time, for 512 pixels.

        The guidance scale, where it reads one, is the pipeline's default, 4.
        """
        import torch

        denoiser, (n, count) = pipeline.transformer, prompts.embeds.shape[:2]
        where = self.where(pipeline)
        side = 512 // PIXELS
        ones = torch.ones(n, **where)
        denoiser(
            hidden_states=self.noise(pipeline, n, side * side, denoiser.config.in_channels),
            encoder_hidden_states=prompts.embeds,
            timestep=ones,
            guidance=4.0 * ones if denoiser.config.guidance_embeds else None,
            # Time, row, column, and place in the text.
            txt_ids=torch.tensor([[0, 0, 0, at] for at in range(count)], device=where["device"]),
            img_ids=torch.tensor(
                [[0, row, column, 0] for row in range(side) for column in range(side)], device=where["device"]
            ),
        )
