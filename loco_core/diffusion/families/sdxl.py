"""Stable Diffusion XL and its pruned forms: two CLIP text encoders side by side.

The pooled text of the second stands beside the time.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from loco_core.diffusion.diffusers_family import UNetFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.headers import Header
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.single_files import DENOISER, Layout
from loco_core.diffusion.sites import largest_side, unet_site_names
from loco_core.diffusion.tokens import Reading, clip_tokens

_UNET = {
    "sample_size": 128, "layers_per_block": 2, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}  # fmt: skip
# Pruned: each attention has a depth of its own, and the middle block has none.
_SSD = {
    **_UNET, "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": ((1, 1), (2, 2), (4, 4)),
    "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), (1, 1, 1)),
}  # fmt: skip
_VEGA = {**_UNET, "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": (1, 1, 2)}
_PARTS = {
    "unet": (DENOISER,), "vae": ("first_stage_model.",), "text_encoder": ("conditioner.embedders.0.transformer.",),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}  # fmt: skip


def _is_base(header: Header) -> bool:
    """Tells the base model from its refiner, which draws nothing alone, and whose first encoder is OpenCLIP."""
    refiner = any(key.startswith("conditioner.embedders.0.model.") for key in header)
    return f"{DENOISER}label_emb.0.0.weight" in header and not refiner


INFO = FamilyInfo(
    pipelines=("StableDiffusionXLPipeline",),
    models={
        "sdxl": ModelInfo(
            12.0,
            "stabilityai/stable-diffusion-xl-base-1.0",
            "462165984030d82259a11f4367a4eed129e94a7b",
            # While the autoencoder decodes in float32.
            gigabytes=13,
            encoder_layers=12 + 32,
            published=_UNET,
        ),
        # Memory is that of SDXL less what the weights differ by at half precision: 1.33 and 0.75 of 2.57 billion.
        "ssd-1b": ModelInfo(8.0, "segmind/SSD-1B", gigabytes=11, encoder_layers=12 + 32, published=_SSD),
        "segmind-vega": ModelInfo(6.0, "segmind/Segmind-Vega", gigabytes=10, encoder_layers=12 + 32, published=_VEGA),
    },
    guidance_scale=5.0,
    seconds_per_image=12.0,
    config_file="unet/config.json",
    site_names=unet_site_names,
    native_side=lambda config: 8 * largest_side(config),
    encoders="CLIP ViT-L and OpenCLIP ViT-bigG, side by side",
    clip_encoders=("text_encoder", "text_encoder_2"),
    pooled="the second encoder's projection, added to the time embedding",
    reading=lambda _: Reading("tokenizer", encoder="text_encoder"),
    layouts=(Layout("Stable Diffusion XL", _is_base, _PARTS, "sdxl", ("input_blocks.0.0.weight", "out.2.weight")),),
)


class Family(UNetFamily):
    """Loads and prompts a ``StableDiffusionXLPipeline``."""

    pipeline_class = "StableDiffusionXLPipeline"
    # It would be drawn wherever its package happens to be installed.
    left_out = MappingProxyType({"add_watermarker": False, "feature_extractor": None, "image_encoder": None})
    text_width = "cross_attention_dim"

    def width_of_pooled(self, config: Any) -> int:
        """Returns what six sizes and crops leave of the width of the added embedding."""
        return int(config["projection_class_embeddings_input_dim"]) - 6 * int(config["addition_time_embed_dim"])

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with both encoders; the empty one as zeros where the pipeline is configured so."""
        import torch

        with torch.no_grad():
            embeds, _, pooled, _ = pipeline.encode_prompt(
                prompts,
                device=self.where(pipeline)["device"],
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
        if pipeline.config.force_zeros_for_empty_prompt:
            said = torch.tensor([bool(text) for text in prompts], device=embeds.device)
            embeds, pooled = embeds * said[:, None, None], pooled * said[:, None]
        ids, words = clip_tokens(pipeline.tokenizer, prompts)
        return PromptEmbeds(embeds, ids, words.to(embeds.device), pooled=pooled)

    def conditions(self, prompts: PromptEmbeds, where: dict[str, Any]) -> dict[str, Any]:
        """Returns pooled texts, and zeros for sizes and crops."""
        import torch

        sizes = torch.zeros(len(prompts.embeds), 6, **where)
        return {"added_cond_kwargs": {"text_embeds": prompts.pooled, "time_ids": sizes}}
