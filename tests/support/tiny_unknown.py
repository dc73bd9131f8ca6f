"""Tiny random pipelines of diffusers classes that no family serves, for tests of what is said of them."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    UNet2DModel,
)

from tests.support.tiny_models import GEMMA, LATENT_SIDE, gemma_pair, save, vae


def lumina() -> LuminaPipeline:
    """Builds Lumina-Next: cross-attention beside self-attention in each of three blocks."""
    captions = gemma_pair()
    transformer = LuminaNextDiT2DModel(
        sample_size=LATENT_SIDE, patch_size=2, in_channels=4, hidden_size=24, num_layers=3, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, ffn_dim_multiplier=None, norm_eps=1e-5, learn_sigma=True, qk_norm=True,
        cross_attention_dim=GEMMA, scaling_factor=1.0,
    )  # fmt: skip
    return LuminaPipeline(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(4), **captions)


def textless() -> DDPMPipeline:
    """Builds a pipeline that reads no text."""
    unet = UNet2DModel(
        sample_size=LATENT_SIDE, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler())


def build_lumina(folder: Path) -> Path:
    """Saves the first in a folder, and returns the folder."""
    save(lumina, folder)
    return folder


def build_textless(folder: Path) -> Path:
    """Saves the second in a folder, and returns the folder."""
    save(textless, folder)
    return folder
