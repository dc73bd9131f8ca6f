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
from transformers import Gemma2Config, Gemma2Model

from tests.support.tiny_models import GEMMA, LATENT_SIDE, gemma_tokenizer, save, vae


def lumina() -> LuminaPipeline:
    """Builds Lumina-Next: cross-attention beside self-attention in each of three blocks."""
    tokenizer = gemma_tokenizer()
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=GEMMA, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16,
        )
    ).eval()  # fmt: skip
    transformer = LuminaNextDiT2DModel(
        sample_size=LATENT_SIDE, patch_size=2, in_channels=4, hidden_size=24, num_layers=3, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, ffn_dim_multiplier=None, norm_eps=1e-5, learn_sigma=True, qk_norm=True,
        cross_attention_dim=GEMMA, scaling_factor=1.0,
    )  # fmt: skip
    return LuminaPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(4), text_encoder=encoder,
        tokenizer=tokenizer,
    )  # fmt: skip


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
