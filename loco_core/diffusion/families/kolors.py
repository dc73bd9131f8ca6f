"""Kolors: the UNet of Stable Diffusion XL, which reads ChatGLM3 through a projection shared by all sites.

ChatGLM pads in front: the words stand at the end. Its last position, after it has read them all, is the pooled text.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.families import sdxl
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import largest_side, unet_site_names
from loco_core.diffusion.tokens import Reading, check_lengths

LENGTH = 256
_UNET = {
    "sample_size": 128, "layers_per_block": 2, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 5632,
    "use_linear_projection": True, "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj",
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("KolorsPipeline",),
    models={
        "kolors": ModelInfo(
            13.0,
            "Kwai-Kolors/Kolors-diffusers",
            # That of SDXL, with the 6.2 billion weights of ChatGLM3 in place of the 0.8 of both CLIP encoders.
            gigabytes=24,
            published=_UNET,
            dtype="float16",
        )
    },
    seconds_per_image=13.0,
    config_file="unet/config.json",
    site_names=unet_site_names,
    native_side=lambda config: 8 * largest_side(config),
    encoders="ChatGLM3 6B, through a projection shared by all sites",
    text_encoders={"text_encoder": 0},
    pooled="ChatGLM's last position, added to the time embedding",
    reading=lambda _: Reading("tokenizer", LENGTH, encoder="text_encoder"),
    guidance_scale=5.0,
)


class Family(sdxl.Family):
    """Loads and prompts a ``KolorsPipeline``."""

    pipeline_class = "KolorsPipeline"
    left_out = MappingProxyType({"feature_extractor": None, "image_encoder": None})
    text_width = "encoder_hid_dim"

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with ChatGLM."""
        import torch

        tokenizer = pipeline.tokenizer
        check_lengths(prompts, [len(tokenizer(text).input_ids) for text in prompts], LENGTH)
        with torch.no_grad():
            embeds, _, pooled, _ = pipeline.encode_prompt(
                prompts, device=self.where(pipeline)["device"], do_classifier_free_guidance=False
            )
        read = tokenizer(prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        return PromptEmbeds(embeds, read.input_ids, read.attention_mask.bool().to(embeds.device), pooled=pooled)
