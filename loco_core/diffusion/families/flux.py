"""FLUX.1: double blocks with K and V of the text, then single blocks that serve text and image with one projection.

Its guidance is distilled: the scale is a number that the transformer reads, and there is no unconditional half. That of
schnell reads none. Kontext, without a picture to change, draws a text as the others do.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import UNGUIDED, FamilyInfo, ModelInfo
from loco_core.diffusion.headers import Header
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.single_files import DENOISER, Layout, holds
from loco_core.diffusion.sites import block_names
from loco_core.diffusion.tokens import Reading, t5_tokens

if TYPE_CHECKING:
    import torch

_TRANSFORMER = {
    "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "in_channels": 64, "guidance_embeds": True,
}  # fmt: skip
_PARTS = {
    "transformer": (f"{DENOISER}double_blocks.", "double_blocks."), "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("text_encoders.clip_l.",), "text_encoder_2": ("text_encoders.t5xxl.",),
}  # fmt: skip
_NOISE = ("img_in.weight", "final_layer.linear.weight")
PIXELS = 16
"""Side of what one image token stands for."""


def _is_flux(header: Header) -> bool:
    """Tells FLUX.1 from Chroma, which replaced its modulation, and FLUX.2, which shares one among blocks."""
    return holds(header, "double_blocks.0.img_mod.lin.weight") and holds(header, "vector_in.in_layer.weight")


INFO = FamilyInfo(
    pipelines=("FluxPipeline", "FluxKontextPipeline"),
    models={
        "flux": ModelInfo(40.0, "black-forest-labs/FLUX.1-dev", gigabytes=37, published=_TRANSFORMER, dtype="bfloat16"),
        "flux-schnell": ModelInfo(
            40.0,
            "black-forest-labs/FLUX.1-schnell",
            gigabytes=37,
            dtype="bfloat16",
            steps=4,
            guidance_scale=0.0,
            published={**_TRANSFORMER, "guidance_embeds": False},
        ),
        "flux-kontext": ModelInfo(
            40.0, "black-forest-labs/FLUX.1-Kontext-dev", gigabytes=37, published=_TRANSFORMER, dtype="bfloat16"
        ),
    },
    steps=28,
    guidance_scale=3.5,
    seconds_per_image=40.0,
    config_file="transformer/config.json",
    site_names=lambda config: (
        block_names("transformer_blocks", config["num_layers"])
        + block_names("single_transformer_blocks", config["num_single_layers"])
    ),
    native_side=lambda _: 1024,
    encoders="T5-XXL; CLIP ViT-L for the pooled text only",
    text_encoders={"text_encoder_2": 0},
    stream="evolving",
    pooled="CLIP's pooled text, added to the time embedding",
    editable="K and V of the text in double blocks, fitted on what they read at the first step; single blocks share "
    "theirs with the image and admit no edit of the text alone",
    shared="single_transformer_blocks.",
    passes=UNGUIDED,
    guidance_example="FLUX.1-dev 3.5",
    side_multiple=PIXELS,
    schedulers=("FlowMatchEulerDiscreteScheduler",),
    reading=lambda _: Reading("tokenizer_2", 512, encoder="text_encoder_2"),
    layouts=(
        Layout(
            "FLUX.1",
            lambda header: _is_flux(header) and holds(header, "guidance_in.in_layer.weight"),
            _PARTS,
            "flux",
            _NOISE,
        ),
        Layout("FLUX.1 schnell", _is_flux, _PARTS, noise=_NOISE),
    ),
)


class Family(DiffusersFamily):
    """Loads and prompts a ``FluxPipeline``; of the parts of a ``FluxKontextPipeline`` it makes one.

    That one's own call would draw every picture as large as a square of 1,024 pixels.
    """

    pipeline_class = "FluxPipeline"
    left_out = MappingProxyType({"feature_extractor": None, "image_encoder": None})
    text_width = "joint_attention_dim"
    pooled_width = "pooled_projection_dim"

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with T5, pooled texts with CLIP."""
        import torch

        with torch.no_grad():
            embeds, pooled, _ = pipeline.encode_prompt(prompts, prompts, device=self.where(pipeline)["device"])
        ids, words = t5_tokens(pipeline.tokenizer_2, prompts, embeds.shape[1])
        return PromptEmbeds(embeds, ids, words.to(embeds.device), pooled=pooled)

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the transformer once, on the same noise for every prompt, at the first step's time, for 512 pixels.

        The guidance scale is that of FLUX.1-dev, 3.5.
        """
        import torch

        denoiser = pipeline.transformer
        ones = torch.ones(len(prompts.embeds), **self.where(pipeline))
        denoiser(
            **picture(self, pipeline, prompts),
            pooled_projections=prompts.pooled,
            timestep=ones,
            guidance=3.5 * ones if denoiser.config.guidance_embeds else None,
        )


def picture(family: DiffusersFamily, pipeline: Any, prompts: PromptEmbeds) -> dict[str, torch.Tensor]:
    """Returns the arguments of one noise for every prompt, of 512 pixels, beside prompts, and the places of both.

    Args:
        family: whose transformer it is.
        pipeline: the pipeline.
        prompts: the prompts.
    """
    import torch

    (n, count), side, where = prompts.embeds.shape[:2], 512 // PIXELS, family.where(pipeline)
    places = torch.tensor([[0, row, column] for row in range(side) for column in range(side)], **where)
    return {
        "hidden_states": family.noise(pipeline, n, side * side, pipeline.transformer.config.in_channels),
        "encoder_hidden_states": prompts.embeds,
        "txt_ids": torch.zeros(count, 3, **where),
        "img_ids": places,
    }
