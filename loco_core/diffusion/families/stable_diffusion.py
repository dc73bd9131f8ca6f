"""Stable Diffusion 1.x and 2.x, OpenJourney, and the bundled models: one CLIP text encoder, one UNet."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import OfNoise, UNetFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.headers import Header
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.single_files import DENOISER, Layout
from loco_core.diffusion.sites import largest_side, unet_site_names
from loco_core.diffusion.tokens import Reading, clip_tokens

if TYPE_CHECKING:
    import torch

_UNET = {
    "sample_size": 64, "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
_UNET_2 = {
    **_UNET, "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # fmt: skip

_PARTS = {"unet": (DENOISER,), "vae": ("first_stage_model.",), "text_encoder": ("cond_stage_model.",)}
_NOISE = ("input_blocks.0.0.weight", "out.2.weight")


def _is_unet(header: Header) -> bool:
    """Tells a UNet that reads nothing beside one prompt: that of SDXL has an embedding of sizes and pooled text."""
    return DENOISER + _NOISE[0] in header and not any(key.startswith(f"{DENOISER}label_emb.") for key in header)


def _is_second(header: Header) -> bool:
    """Tells Stable Diffusion 2, which reads OpenCLIP, from 1."""
    reads = header.get(f"{DENOISER}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    wide = reads is not None and reads.shape[-1:] == (1024,)
    return wide or any(key.startswith("cond_stage_model.model.") for key in header)


# Seconds are of one consumer GPU, half precision.
INFO = FamilyInfo(
    pipelines=("StableDiffusionPipeline",),
    models={
        "sd14": ModelInfo(
            4.0,
            "CompVis/stable-diffusion-v1-4",
            "133a221b8aa7292a167afc5127cb63fb5005638b",
            gigabytes=3,
            encoder_layers=12,
            published=_UNET,
        ),
        "sd15": ModelInfo(
            4.0,
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            gigabytes=3,
            encoder_layers=12,
            published=_UNET,
        ),
        "sd21": ModelInfo(
            6.0,
            "stabilityai/stable-diffusion-2-1",
            "5cae40e6a2745ae2b01ad92ae5043f95f23644d6",
            gigabytes=4,
            encoder_layers=23,
            published=_UNET_2,
        ),
        "openjourney": ModelInfo(4.0, "prompthero/openjourney", gigabytes=3, encoder_layers=12, published=_UNET),
    },
    seconds_per_image=6.0,
    config_file="unet/config.json",
    site_names=unet_site_names,
    # The VAE enlarges eightfold, that of the bundled models fourfold.
    native_side=lambda config: 8 * largest_side(config),
    encoders="CLIP ViT-L (1.x), OpenCLIP ViT-H (2.x)",
    attackable=True,
    clip_encoders=("text_encoder",),
    # With the bundled model on two CPU cores, a step of 96 rows.
    channels_last=True,
    reading=lambda _: Reading("tokenizer", encoder="text_encoder"),
    layouts=(
        Layout("Stable Diffusion 2", lambda header: _is_unet(header) and _is_second(header), _PARTS, "sd21", _NOISE),
        Layout("Stable Diffusion 1", _is_unet, _PARTS, "sd15", _NOISE),
    ),
)


class Family(OfNoise, UNetFamily):
    """Loads and prompts a ``StableDiffusionPipeline``, without its safety checker: its black would pass for effects.

    What prepares pictures is left out too, as pictures are given to none.
    """

    pipeline_class = "StableDiffusionPipeline"
    left_out = MappingProxyType(
        {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None, "image_encoder": None}
    )
    text_width = "cross_attention_dim"

    def read(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with the pipeline's own text encoder, padded to its length."""
        embeds, _ = pipeline.encode_prompt(
            prompts, self.where(pipeline)["device"], num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        ids, words = clip_tokens(pipeline.tokenizer, prompts)
        return PromptEmbeds(embeds, ids, words.to(embeds.device))

    def predict(self, pipeline: Any, noisy: torch.Tensor, times: torch.Tensor, texts: PromptEmbeds) -> torch.Tensor:
        """Runs the UNet."""
        found: torch.Tensor = pipeline.unet(noisy, times, texts.embeds).sample
        return found
