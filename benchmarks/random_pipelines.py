"""Pipelines of published size with random weights, built on the device that is to draw with them.

What they draw means nothing; what they weigh and take does. Denoisers are those that the families know as published,
text encoders and autoencoders those of the published repositories; tokenizers are small, of the published lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    IFPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    T5Config,
    T5EncoderModel,
)

from loco_core.diffusion.facts import find_model
from loco_core.toyworld.training.transformer import make_word_tokenizer
from tests.support.tiny_models import clip_tokenizer, gemma_tokenizer

SEED = 11
GAIN = 4.0
"""Of K and V of the text: with random weights alone a prompt would change the last digits of a half-precision image."""
CLIP_VOCABULARY = 49_408


@contextmanager
def built_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Lets modules be made in place: billions of random numbers take minutes on a CPU and a second on a GPU."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def build(name: str, device: str, dtype: str) -> Any:
    """Builds a pipeline.

    Args:
        name: of a model of :data:`PIPELINES`.
        device: e.g. ``cuda``; ``meta`` for the shapes alone.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
    """
    torch.manual_seed(SEED)
    with built_on(device, getattr(torch, dtype)), torch.no_grad():
        pipeline = PIPELINES[name](dict(find_model(name)[1].published))
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.to(getattr(torch, dtype)).eval()
    heed_text(getattr(pipeline, "unet", None) or pipeline.transformer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def heed_text(denoiser: torch.nn.Module) -> None:
    """Strengthens what the denoiser reads of the text, where K and V serve the text alone."""
    with torch.no_grad():
        for module in denoiser.modules():
            names: tuple[str, ...] = ()
            if getattr(module, "add_k_proj", None) is not None:
                names = ("add_k_proj", "add_v_proj")
            elif getattr(module, "is_cross_attention", False):
                names = ("to_k", "to_v")
            for name in names:
                module.get_parameter(f"{name}.weight").mul_(GAIN)


def scheduler(kind: type[Any], **config: Any) -> Any:
    """Builds a scheduler, whose tables stay in the main memory and in float32 whatever the weights are."""
    with built_on("cpu", torch.float32):
        return kind(**config)


def clip_l(kind: type[Any] = CLIPTextModel, **changes: Any) -> dict[str, Any]:
    """Builds CLIP ViT-L's text encoder and its tokenizer."""
    return _clip(kind, {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}, 12, 768, **changes)


def clip_g(**changes: Any) -> dict[str, Any]:
    """Builds OpenCLIP ViT-bigG's text encoder and its tokenizer, as second of a pair."""
    sizes = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "hidden_act": "gelu"}
    return _clip(CLIPTextModelWithProjection, sizes, 32, 1280, suffix="_2", pad_token="!", **changes)


def _clip(
    kind: type[Any], sizes: Mapping[str, Any], layers: int, projection: int, suffix: str = "", **changes: Any
) -> dict[str, Any]:
    tokenizer = clip_tokenizer(77, **changes)
    config = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY, num_hidden_layers=layers, max_position_embeddings=77, projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **sizes,
    )  # fmt: skip
    return {f"tokenizer{suffix}": tokenizer, f"text_encoder{suffix}": kind(config)}


def t5_xxl(suffix: str = "") -> dict[str, Any]:
    """Builds the encoder of T5 version 1.1 XXL and its tokenizer."""
    config = T5Config(
        vocab_size=32_128, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    return {f"tokenizer{suffix}": make_word_tokenizer(), f"text_encoder{suffix}": T5EncoderModel(config)}


def vae(side: int, channels: int = 4, **changes: Any) -> AutoencoderKL:
    """Builds the autoencoder of Stable Diffusion, which enlarges eightfold."""
    return AutoencoderKL(
        latent_channels=channels, sample_size=side, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **changes,
    )  # fmt: skip


def flow_vae(**changes: Any) -> AutoencoderKL:
    """Builds the autoencoder of 16 channels that Stable Diffusion 3 and FLUX have."""
    return vae(1024, 16, use_quant_conv=False, use_post_quant_conv=False, **changes)


def sd15(published: dict[str, Any]) -> StableDiffusionPipeline:
    """Builds Stable Diffusion 1.5."""
    steps = scheduler(
        DDIMScheduler, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae(512), unet=UNet2DConditionModel(**published), scheduler=steps, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False, **clip_l(),
    )  # fmt: skip


def sdxl(published: dict[str, Any]) -> StableDiffusionXLPipeline:
    """Builds Stable Diffusion XL, whose autoencoder decodes in float32."""
    steps = scheduler(
        EulerDiscreteScheduler, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=vae(1024, scaling_factor=0.13025), unet=UNet2DConditionModel(**published), scheduler=steps,
        force_zeros_for_empty_prompt=True, **clip_l(), **clip_g(),
    )  # fmt: skip


def sd3(published: dict[str, Any]) -> StableDiffusion3Pipeline:
    """Builds Stable Diffusion 3 medium."""
    return StableDiffusion3Pipeline(
        vae=flow_vae(scaling_factor=1.5305, shift_factor=0.0609), transformer=SD3Transformer2DModel(**published),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0), **clip_l(CLIPTextModelWithProjection),
        **clip_g(), **t5_xxl("_3"),
    )  # fmt: skip


def pixart(published: dict[str, Any]) -> PixArtAlphaPipeline:
    """Builds PixArt-alpha."""
    return PixArtAlphaPipeline(
        vae=vae(512), transformer=PixArtTransformer2DModel(**published),
        scheduler=scheduler(DPMSolverMultistepScheduler), **t5_xxl(),
    )  # fmt: skip


def sana(published: dict[str, Any]) -> SanaPipeline:
    """Builds SANA 1.6B."""
    kinds = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    scales = ((), (), (), (5,), (5,), (5,))
    autoencoder = AutoencoderDC(
        latent_channels=32, encoder_block_types=kinds, decoder_block_types=kinds, encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales, encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
        decoder_layers_per_block=(3, 3, 3, 3, 3, 3), downsample_block_type="Conv", upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )  # fmt: skip
    steps = scheduler(
        DPMSolverMultistepScheduler, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0,
        final_sigmas_type="zero",
    )  # fmt: skip
    return SanaPipeline(
        tokenizer=gemma_tokenizer(), text_encoder=Gemma2Model(Gemma2Config()), vae=autoencoder, scheduler=steps,
        transformer=SanaTransformer2DModel(**published),
    )  # fmt: skip


def flux(published: dict[str, Any]) -> FluxPipeline:
    """Builds FLUX.1-dev."""
    return FluxPipeline(
        vae=flow_vae(scaling_factor=0.3611, shift_factor=0.1159), transformer=FluxTransformer2DModel(**published),
        scheduler=scheduler(FlowMatchEulerDiscreteScheduler, shift=3.0, use_dynamic_shifting=True), **clip_l(),
        **t5_xxl("_2"),
    )  # fmt: skip


def deepfloyd_if(published: dict[str, Any]) -> IFPipeline:
    """Builds the first stage of DeepFloyd IF XL."""
    steps = scheduler(
        DDPMScheduler, beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
    )  # fmt: skip
    return IFPipeline(
        unet=UNet2DConditionModel(**published), scheduler=steps, safety_checker=None, feature_extractor=None,
        watermarker=None, requires_safety_checker=False, **t5_xxl(),
    )  # fmt: skip


PIPELINES: Mapping[str, Callable[[dict[str, Any]], Any]] = MappingProxyType(
    {
        "sd15": sd15, "sdxl": sdxl, "sd3": sd3, "flux": flux, "pixart": pixart, "sana": sana,
        "deepfloyd-if": deepfloyd_if,
    }
)  # fmt: skip
