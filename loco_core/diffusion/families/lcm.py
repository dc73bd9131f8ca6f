"""Latent consistency models: a distilled Stable Diffusion of few steps, whose guidance scale is a number that it reads.

There is no unconditional half.
"""

from __future__ import annotations

from loco_core.diffusion.facts import UNGUIDED, FamilyInfo, ModelInfo
from loco_core.diffusion.families import stable_diffusion
from loco_core.diffusion.sites import largest_side, unet_site_names
from loco_core.diffusion.tokens import Reading

# Distilled at 768 pixels.
_UNET = {
    "sample_size": 96, "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, "time_cond_proj_dim": 256,
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("LatentConsistencyModelPipeline",),
    models={
        "lcm": ModelInfo(3.0, "SimianLuo/LCM_Dreamshaper_v7", gigabytes=3, encoder_layers=12, published=_UNET),
    },
    seconds_per_image=3.0,
    config_file="unet/config.json",
    site_names=unet_site_names,
    native_side=lambda config: 8 * largest_side(config),
    encoders="CLIP ViT-L",
    clip_encoders=("text_encoder",),
    passes=UNGUIDED,
    guidance_example="LCM_Dreamshaper_v7 8.5",
    schedulers=("LCMScheduler",),
    reading=lambda _: Reading("tokenizer", encoder="text_encoder"),
    steps=4,
    guidance_scale=8.5,
)


class Family(stable_diffusion.Family):
    """Loads and prompts a ``LatentConsistencyModelPipeline``, without its safety checker."""

    pipeline_class = "LatentConsistencyModelPipeline"
