"""Tiny pipelines of families in which text and image attend to each other; see `tests.support.tiny_models`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImage,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    ByT5Tokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from loco_core.toyworld.world import vocabulary
from tests.support.tiny_models import SIDE, T5, flow_vae, flux, heed_text, save, t5_pair
from tests.support.tiny_streams import QWEN_CHAT

# Of embeddings of Qwen and of ByT5; unlike all other widths, so that a mix-up shows.
QWEN, BYT5 = 40, 20
_PIXELS = MappingProxyType({"height": SIDE, "width": SIDE})
CALL_ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "qwen_image": {**_PIXELS, "negative_prompt": " "},
        "chroma": {**_PIXELS},
        "hunyuan_image": {**_PIXELS},
        "flux_schnell": {**_PIXELS},
        "ovis_image": {**_PIXELS},
    }
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
# Words of the templates of conversations, each of them one token as in the published vocabulary.
TEMPLATES = (
    "system user assistant Describe the image by detailing the color shape size texture quantity text spatial "
    "relationships of the objects and background"
)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Builds a byte-pair tokenizer in which every word of the toy world and of the templates is one token."""
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer, learner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = [*vocabulary(), *TEMPLATES.split()]
    learner.train_from_iterator([start + word for word in words for start in ("", " ")], trainer)
    learned = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(vocab=learned["vocab"], merges=[tuple(pair) for pair in learned["merges"]])
    tokenizer.add_tokens(list(SPECIAL), special_tokens=True)
    return tokenizer


def qwen_vl(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Builds a Qwen2.5-VL of two layers, with an eye as small as it can be."""
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    text = {
        "vocab_size": len(tokenizer), "hidden_size": QWEN, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default", "mrope_section": [2, 4, 4]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": QWEN,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen_image() -> QwenImagePipeline:
    """Builds Qwen-Image: every block of two streams, and the text of a language model."""
    tokenizer = qwen_tokenizer()
    transformer = QwenImageTransformer2DModel(
        in_channels=4 * 16, out_channels=16, num_layers=4, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=QWEN, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8, dim_mult=[1, 1, 2], num_res_blocks=1, temperal_downsample=[False, True]
    )
    return QwenImagePipeline(
        tokenizer=tokenizer, text_encoder=qwen_vl(tokenizer), transformer=heed_text(transformer), vae=autoencoder,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


def flux_schnell() -> FluxPipeline:
    """Builds Flux as it is where nothing reads a guidance scale."""
    pipeline = flux(guidance_embeds=False)
    with torch.no_grad():
        for block in pipeline.transformer.transformer_blocks:
            # So that the text heeds the picture.
            block.attn.to_add_out.weight.mul_(16.0)
    return pipeline


def flux_kontext() -> FluxKontextPipeline:
    """Builds Flux as the pipeline that may read a picture beside the text."""
    return FluxKontextPipeline(**flux().components)


def chroma() -> ChromaPipeline:
    """Builds Chroma: Flux's blocks, T5 alone, padding masked, and modulation from the time alone."""
    transformer = ChromaTransformer2DModel(
        in_channels=4 * 16, num_layers=2, num_single_layers=3, num_attention_heads=2, attention_head_dim=16,
        axes_dims_rope=(4, 6, 6), joint_attention_dim=T5, approximator_hidden_dim=32, approximator_layers=1,
    )  # fmt: skip
    return ChromaPipeline(
        vae=flow_vae(scaling_factor=0.3611, shift_factor=0.1159), transformer=heed_text(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), **t5_pair(),
    )  # fmt: skip


def ovis_image() -> OvisImagePipeline:
    """Builds Ovis-Image: Flux's blocks over Qwen3, in a chat whose words in front of a prompt are cut off."""
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = QWEN_CHAT
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=QWEN, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=512,
        )
    ).eval()  # fmt: skip
    transformer = OvisImageTransformer2DModel(
        in_channels=4 * 16, out_channels=4 * 16, num_layers=2, num_single_layers=3, num_attention_heads=2,
        attention_head_dim=16, joint_attention_dim=QWEN, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    with torch.no_grad():
        # So that the text heeds the picture: gates are nearly shut, and most tokens are padding.
        for block in transformer.transformer_blocks:
            block.attn.to_add_out.weight.mul_(16.0)
            block.norm1_context.linear.weight.mul_(16.0)
        for block in transformer.single_transformer_blocks:
            block.norm.linear.weight.mul_(16.0)
    return OvisImagePipeline(
        vae=flow_vae(scaling_factor=0.3611, shift_factor=0.1159), transformer=heed_text(transformer),
        tokenizer=tokenizer, text_encoder=encoder,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


def hunyuan_image() -> HunyuanImagePipeline:
    """Builds HunyuanImage 2.1: a text that is refined first, single blocks that begin with the image, and a guider."""
    tokenizer = qwen_tokenizer()
    transformer = HunyuanImageTransformer2DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, num_layers=2, num_single_layers=3,
        num_refiner_layers=1, text_embed_dim=QWEN, text_embed_2_dim=BYT5, rope_axes_dim=(8, 8),
    )  # fmt: skip
    autoencoder = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=8, block_out_channels=(32, 32, 64), layers_per_block=1,
        spatial_compression_ratio=4, sample_size=SIDE, scaling_factor=0.75,
    )  # fmt: skip
    letters = T5Config(
        vocab_size=384, d_model=BYT5, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return HunyuanImagePipeline(
        tokenizer=tokenizer, text_encoder=qwen_vl(tokenizer), tokenizer_2=ByT5Tokenizer(),
        text_encoder_2=T5EncoderModel(letters).eval(), transformer=heed_text(transformer), vae=autoencoder,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=AdaptiveProjectedMixGuidance(guidance_scale=3.0, adaptive_projected_guidance_start_step=1),
    )  # fmt: skip


BUILDERS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {make.__name__: partial(save, make) for make in (qwen_image, chroma, ovis_image, hunyuan_image)}
)


VARIANTS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {make.__name__: partial(save, make) for make in (flux_schnell, flux_kontext)}
)
"""Further pipelines of a family that others are built of."""


def build(name: str, folder: Path) -> Path:
    """Saves the tiny pipeline of a family in a folder, and returns the folder."""
    {**BUILDERS, **VARIANTS}[name](folder)
    return folder
