"""Tiny pipelines of further families whose text enters by cross-attention; see `tests.support.tiny_models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusers import (
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from tests.support.tiny_models import (
    CLIP_G,
    CLIP_L,
    GEMMA,
    LATENT_SIDE,
    PROJECTION_G,
    SIDE,
    clip_encoder,
    clip_pair,
    clip_tokenizer,
    sana,
    save,
    vae,
)

_PIXELS = MappingProxyType({"height": SIDE, "width": SIDE})
CALL_ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "lcm": {},
        "sana_sprint": {
            **_PIXELS, "use_resolution_binning": False, "clean_caption": False, "intermediate_timesteps": None
        },
        "sdxl_pruned": {},
    }
)  # fmt: skip


def lcm() -> LatentConsistencyModelPipeline:
    """Builds a latent consistency model: a UNet that reads its guidance scale."""
    tokenizer = clip_tokenizer(16)
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=2,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=CLIP_L, time_cond_proj_dim=16,
    )  # fmt: skip
    return LatentConsistencyModelPipeline(
        vae=vae(4), unet=unet, scheduler=LCMScheduler(), tokenizer=tokenizer, safety_checker=None,
        text_encoder=clip_encoder(CLIPTextModel, tokenizer, CLIP_L, CLIP_L), feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def sana_sprint() -> SanaSprintPipeline:
    """Builds SANA-Sprint: SANA with norms of queries and keys, and a guidance scale that it reads."""
    parts = sana()
    transformer = SanaTransformer2DModel(
        sample_size=LATENT_SIDE, in_channels=8, out_channels=8, num_layers=4, num_attention_heads=2,
        attention_head_dim=16, num_cross_attention_heads=4, cross_attention_head_dim=8, cross_attention_dim=32,
        caption_channels=GEMMA, guidance_embeds=True, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    return SanaSprintPipeline(
        tokenizer=parts.tokenizer, text_encoder=parts.text_encoder, vae=parts.vae, transformer=transformer,
        scheduler=SCMScheduler(prediction_type="trigflow", sigma_data=0.5),
    )  # fmt: skip


def sdxl_pruned() -> StableDiffusionXLPipeline:
    """Builds Stable Diffusion XL with a depth of its own for every attention, and none in the middle, as SSD-1B is."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE, in_channels=4, out_channels=4, block_out_channels=(8, 16, 24), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), mid_block_type="UNetMidBlock2D",
        transformer_layers_per_block=((1, 1), (2, 2), (2, 3)),
        reverse_transformer_layers_per_block=((3, 2, 4), (2, 1, 1), (1, 1, 1)), attention_head_dim=(1, 2, 3),
        use_linear_projection=True, cross_attention_dim=CLIP_L + CLIP_G, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + PROJECTION_G, norm_num_groups=4,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    return StableDiffusionXLPipeline(
        vae=vae(4, scaling_factor=0.13025), unet=unet, scheduler=scheduler, force_zeros_for_empty_prompt=True,
        **clip_pair(CLIPTextModel, 16),
    )  # fmt: skip


BUILDERS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {make.__name__: partial(save, make) for make in (lcm, sana_sprint, sdxl_pruned)}
)


def build(name: str, folder: Path) -> Path:
    """Saves the tiny pipeline of a family in a folder, and returns the folder."""
    BUILDERS[name](folder)
    return folder
