"""Tiny pipelines with random weights, of the real classes and as published in structure, one per family, for tests.

They draw pictures of 32 x 32 when called with ``CALL_ARGUMENTS``.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
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
    IFSuperResolutionPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from loco_core.toyworld import WEIGHTS
from loco_core.toyworld.training.transformer import METASPACE, make_word_tokenizer
from loco_core.toyworld.world import vocabulary

SEED = 11
# Pixels; latents are a fourth of it.
SIDE, LATENT_SIDE = 32, 8
# Widths of the embeddings of two CLIP encoders, of the second one's projection, of T5 and of Gemma. All differ, so that
# a mix-up shows.
CLIP_L, CLIP_G, PROJECTION_G, T5, GEMMA = 16, 32, 24, 64, 48

_PIXELS = MappingProxyType({"height": SIDE, "width": SIDE})
_NO_BINS = MappingProxyType({"use_resolution_binning": False, "clean_caption": False})
# What a call needs besides a prompt. Sana and Flux take their native side from no configuration, bins of resolutions
# are for the published sample sizes only, and captions are cleaned with packages that the project does without.
CALL_ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sdxl": {},
        "deepfloyd_if": {"clean_caption": False},
        "pixart_alpha": {**_PIXELS, **_NO_BINS},
        "pixart_sigma": {**_PIXELS, **_NO_BINS},
        "sana": {**_PIXELS, **_NO_BINS},
        "sd3": {},
        "flux": {**_PIXELS},
    }
)


def clip_tokenizer(max_length: int, **changes: Any) -> CLIPTokenizer:
    """Returns the bundled models' tokenizer with another length."""
    known = json.loads(((WEIGHTS / "clip") / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [tuple(pair) for pair in known["merges"]]
    return CLIPTokenizer(vocab=known["vocab"], merges=merges, model_max_length=max_length, **changes)


def gemma_tokenizer() -> GemmaTokenizer:
    """Builds a byte-pair tokenizer in which every word of the toy world is one token, with and without a space."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    alphabet = [METASPACE, "\n", *string.digits, *string.ascii_letters, *string.punctuation]
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    learner = Tokenizer(models.BPE())
    learner.train_from_iterator([start + word for word in vocabulary() for start in ("", METASPACE)], trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    return GemmaTokenizer(vocab=learned["vocab"], merges=merges, model_max_length=8192, add_bos_token=True)


def clip_encoder(kind: type[Any], tokenizer: CLIPTokenizer, width: int, projection: int, **changes: Any) -> Any:
    """Builds a text encoder of three layers, whose last but one hidden state some pipelines take."""
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
            num_attention_heads=2, max_position_embeddings=tokenizer.model_max_length, projection_dim=projection,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, **changes,
        )
    ).eval()  # fmt: skip


def clip_pair(first: type[Any], max_length: int) -> dict[str, Any]:
    """Builds two encoders and their tokenizers, which pad differently: with the end token, and with ``!``."""
    tokenizer, tokenizer_2 = clip_tokenizer(max_length), clip_tokenizer(max_length, pad_token="!")
    return {
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer_2,
        "text_encoder": clip_encoder(first, tokenizer, CLIP_L, CLIP_L),
        "text_encoder_2": clip_encoder(
            CLIPTextModelWithProjection, tokenizer_2, CLIP_G, PROJECTION_G, hidden_act="gelu"
        ),
    }


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Builds a text encoder of T5 version 1.1."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=T5, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip


def t5_pair(suffix: str = "") -> dict[str, Any]:
    """Builds a T5 encoder and its tokenizer, under names that end in ``suffix``."""
    tokenizer = make_word_tokenizer()
    return {f"tokenizer{suffix}": tokenizer, f"text_encoder{suffix}": t5_encoder(tokenizer)}


def vae(channels: int, **changes: Any) -> AutoencoderKL:
    """Builds an autoencoder that enlarges fourfold."""
    return AutoencoderKL(
        latent_channels=channels, sample_size=SIDE, block_out_channels=(8, 16, 16), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1,
        **changes,
    )  # fmt: skip


def flow_vae(**changes: Any) -> AutoencoderKL:
    """Builds the autoencoder of 16 channels that Stable Diffusion 3 and Flux have."""
    return vae(16, use_quant_conv=False, use_post_quant_conv=False, **changes)


def heed_text(transformer: Any, gain: float = 4.0) -> Any:
    """Strengthens the text's keys and values in joint attention: nothing masks the hundreds of padding tokens there."""
    with torch.no_grad():
        for module in transformer.modules():
            if getattr(module, "add_k_proj", None) is not None:
                (module.norm_added_k or module.add_k_proj).weight.mul_(gain)
                module.add_v_proj.weight.mul_(gain)
    return transformer


def stable_diffusion(**changes: Any) -> StableDiffusionPipeline:
    """Builds Stable Diffusion 1, of two levels; changes are of the denoiser."""
    tokenizer = clip_tokenizer(16)
    unet = UNet2DConditionModel(
        **{
            "sample_size": LATENT_SIDE, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 2,
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": CLIP_L, **changes,
        }
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae(4), unet=unet, scheduler=scheduler, tokenizer=tokenizer, safety_checker=None, feature_extractor=None,
        text_encoder=clip_encoder(CLIPTextModel, tokenizer, CLIP_L, CLIP_L), requires_safety_checker=False,
    )  # fmt: skip


def sdxl_around(unet: UNet2DConditionModel) -> StableDiffusionXLPipeline:
    """Builds Stable Diffusion XL with a UNet of one's own."""
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    return StableDiffusionXLPipeline(
        vae=vae(4, scaling_factor=0.13025), unet=unet, scheduler=scheduler, force_zeros_for_empty_prompt=True,
        **clip_pair(CLIPTextModel, 16),
    )  # fmt: skip


def sdxl() -> StableDiffusionXLPipeline:
    """Builds Stable Diffusion XL: several transformer blocks at a place, all reading the same two encoders."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE, in_channels=4, out_channels=4, block_out_channels=(8, 16, 24), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3), attention_head_dim=(1, 2, 3), use_linear_projection=True,
        cross_attention_dim=CLIP_L + CLIP_G, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + PROJECTION_G, norm_num_groups=4,
    )  # fmt: skip
    return sdxl_around(unet)


def deepfloyd_parts(sample_size: int, layers: int, **changes: Any) -> dict[str, Any]:
    """Builds what the two stages of DeepFloyd IF share: attention to text and image at once, on pixels."""
    unet = UNet2DConditionModel(
        sample_size=sample_size, out_channels=6, block_out_channels=(16, 16, 32, 32), layers_per_block=layers,
        down_block_types=("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
        # Of the text as attention reads it; it passes a norm of 32 groups.
        cross_attention_dim=32, cross_attention_norm="group_norm", attention_head_dim=8, norm_num_groups=8,
        encoder_hid_dim=T5, encoder_hid_dim_type="text_proj", addition_embed_type="text",
        addition_embed_type_num_heads=4, act_fn="gelu", resnet_time_scale_shift="scale_shift", **changes,
    )  # fmt: skip
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True,
        dynamic_thresholding_ratio=0.95, sample_max_value=1.5,
    )  # fmt: skip
    none = {"safety_checker": None, "feature_extractor": None, "watermarker": None, "requires_safety_checker": False}
    return {"unet": unet, "scheduler": scheduler, **none, **t5_pair()}


def deepfloyd_if() -> IFPipeline:
    """Builds the first stage of DeepFloyd IF."""
    return IFPipeline(**deepfloyd_parts(SIDE, 2, in_channels=3))


def deepfloyd_if_ii() -> IFSuperResolutionPipeline:
    """Builds its second stage, with a text encoder of its own, which nothing is to read."""
    parts = deepfloyd_parts(2 * SIDE, 1, in_channels=6, class_embed_type="timestep")
    return IFSuperResolutionPipeline(image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"), **parts)


def pixart_parts(sample_size: int, layers: int, **changes: Any) -> dict[str, Any]:
    """Builds what the two PixArt pipelines share; their transformer predicts a variance too."""
    transformer = PixArtTransformer2DModel(
        sample_size=sample_size, num_layers=layers, num_attention_heads=3, attention_head_dim=16, in_channels=4,
        out_channels=8, cross_attention_dim=48, caption_channels=T5, **changes,
    )  # fmt: skip
    return {"transformer": transformer, "scheduler": DPMSolverMultistepScheduler(), **t5_pair()}


def pixart_alpha(sample_size: int = LATENT_SIDE) -> PixArtAlphaPipeline:
    """Builds PixArt-alpha; with a sample size of 128, and only then, it is told the picture's size as published."""
    return PixArtAlphaPipeline(vae=vae(4), **pixart_parts(sample_size, 4))


def pixart_sigma() -> PixArtSigmaPipeline:
    """Builds PixArt-Sigma with so many blocks that their names do not sort as their numbers do."""
    return PixArtSigmaPipeline(
        vae=vae(4, scaling_factor=0.13025), **pixart_parts(LATENT_SIDE, 12, use_additional_conditions=False)
    )


def gemma_pair() -> dict[str, Any]:
    """Builds a Gemma 2 and its tokenizer, as components of a pipeline."""
    tokenizer = gemma_tokenizer()
    encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=GEMMA, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16,
        )
    ).eval()  # fmt: skip
    return {"text_encoder": encoder, "tokenizer": tokenizer}


def sana() -> SanaPipeline:
    """Builds Sana: linear self-attention, and captions from a language model."""
    captions = gemma_pair()
    transformer = SanaTransformer2DModel(
        sample_size=LATENT_SIDE, in_channels=8, out_channels=8, num_layers=4, num_attention_heads=2,
        attention_head_dim=16, num_cross_attention_heads=4, cross_attention_head_dim=8, cross_attention_dim=32,
        caption_channels=GEMMA,
    )  # fmt: skip
    kinds, widths, scales = ("ResBlock", "ResBlock", "EfficientViTBlock"), (8, 16, 16), ((), (), (5,))
    autoencoder = AutoencoderDC(
        latent_channels=8, attention_head_dim=8, encoder_block_types=kinds, decoder_block_types=kinds,
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1), encoder_qkv_multiscales=scales, decoder_qkv_multiscales=scales,
        upsample_block_type="interpolate", downsample_block_type="Conv", scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, final_sigmas_type="zero"
    )
    return SanaPipeline(vae=autoencoder, transformer=transformer, scheduler=scheduler, **captions)


def sd3(dual_attention_layers: tuple[int, ...] = (), qk_norm: str | None = None) -> StableDiffusion3Pipeline:
    """Builds Stable Diffusion 3; 3.5 has blocks with a second self-attention, and ``rms_norm``."""
    transformer = SD3Transformer2DModel(
        sample_size=LATENT_SIDE, in_channels=16, out_channels=16, num_layers=4, num_attention_heads=2,
        attention_head_dim=16, caption_projection_dim=32, joint_attention_dim=T5,
        pooled_projection_dim=CLIP_L + PROJECTION_G, pos_embed_max_size=LATENT_SIDE,
        dual_attention_layers=dual_attention_layers, qk_norm=qk_norm,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        vae=flow_vae(scaling_factor=1.5305, shift_factor=0.0609), transformer=heed_text(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **clip_pair(CLIPTextModelWithProjection, 77),
        **t5_pair("_3"),
    )  # fmt: skip


def flux(guidance_embeds: bool = True) -> FluxPipeline:
    """Builds Flux in a distilled form, which may read the guidance scale: blocks of two streams, then of one."""
    transformer = FluxTransformer2DModel(
        in_channels=4 * 16, num_layers=2, num_single_layers=3, num_attention_heads=2, attention_head_dim=16,
        axes_dims_rope=(4, 6, 6), joint_attention_dim=T5, pooled_projection_dim=CLIP_L, guidance_embeds=guidance_embeds,
    )  # fmt: skip
    tokenizer = clip_tokenizer(77)
    return FluxPipeline(
        vae=flow_vae(scaling_factor=0.3611, shift_factor=0.1159), transformer=heed_text(transformer),
        tokenizer=tokenizer, text_encoder=clip_encoder(CLIPTextModel, tokenizer, CLIP_L, CLIP_L),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), **t5_pair("_2"),
    )  # fmt: skip


def save(make: Callable[[], Any], folder: Path) -> None:
    """Saves a pipeline with always the same weights; the random state of the caller stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        make().save_pretrained(folder)


BUILDERS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {make.__name__: partial(save, make) for make in (sdxl, deepfloyd_if, pixart_alpha, pixart_sigma, sana, sd3, flux)}
)


def build_second_stage(folder: Path) -> Path:
    """Saves the tiny second stage of DeepFloyd IF in a folder, and returns the folder."""
    save(deepfloyd_if_ii, folder)
    return folder


def build(name: str, folder: Path) -> Path:
    """Saves the tiny pipeline of a family in a folder, and returns the folder."""
    BUILDERS[name](folder)
    return folder
