"""Tiny pipelines of families whose texts have lengths of their own; see `tests.support.tiny_models`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GlmConfig,
    GlmModel,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
)

from tests.support.tiny_models import GEMMA, SIDE, T5, gemma_pair, save, t5_pair

_PIXELS = MappingProxyType({"height": 2 * SIDE, "width": 2 * SIDE})
CALL_ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    # Of Z-Image as many pixels as are a multiple of 32 tokens; others are filled up.
    {
        "lumina2": {**_PIXELS},
        "z_image": {"height": 4 * SIDE, "width": 4 * SIDE},
        "cogview4": {**_PIXELS},
        "cogview3": {**_PIXELS},
    }
)
# Widths of embeddings, all different, so that a mix-up shows.
QWEN, GLM = 40, 56
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def eightfold() -> AutoencoderKL:
    """Builds an autoencoder that enlarges eightfold, as some pipelines take for granted."""
    return AutoencoderKL(
        latent_channels=16, sample_size=SIDE, block_out_channels=(8, 8, 16, 16), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159,
    )  # fmt: skip


def open_gates(blocks: Iterable[Any]) -> None:
    """Strengthens what blocks add to their tokens: at random the text would hardly heed the image."""
    with torch.no_grad():
        for block in blocks:
            block.norm1.linear.weight.mul_(16)


def lumina2() -> Lumina2Pipeline:
    """Builds Lumina-Image 2: captions of Gemma 2 behind a system prompt, heads that share keys and values."""
    captions = gemma_pair()
    transformer = Lumina2Transformer2DModel(
        sample_size=SIDE // 4, in_channels=16, hidden_size=64, num_layers=4, num_refiner_layers=1,
        num_attention_heads=4, num_kv_heads=2, multiple_of=16, axes_dim_rope=(4, 6, 6), cap_feat_dim=GEMMA,
    )  # fmt: skip
    open_gates(transformer.layers)
    return Lumina2Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0), vae=eightfold(), **captions
    )


def letters(special: tuple[str, ...]) -> Tokenizer:
    """Builds a tokenizer of bytes, so that sentences differ in more than the multiples that texts are filled up to."""
    known = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(known)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Builds a tokenizer with a template of conversations."""
    tokenizer = Qwen2Tokenizer(vocab=letters(CHAT).get_vocab(), merges=[])
    tokenizer.add_tokens(list(CHAT), special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def z_image() -> ZImagePipeline:
    """Builds Z-Image: lists of images and captions, filled up to multiples of 32 tokens."""
    tokenizer = qwen_tokenizer()
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=QWEN, intermediate_size=64, num_hidden_layers=3, head_dim=16,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1024,
        )
    ).eval()  # fmt: skip
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=4, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=QWEN,
        axes_dims=[4, 6, 6], axes_lens=[1536, 64, 64],
    )  # fmt: skip
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=eightfold(), text_encoder=encoder,
        tokenizer=tokenizer, transformer=transformer,
    )  # fmt: skip


def glm_tokenizer() -> PreTrainedTokenizerFast:
    """Builds a tokenizer that puts two tokens in front of every text, and pads on the left."""
    special = ("<|endoftext|>", "[gMASK]", "<sop>")
    byte_level = letters(special)
    front = [(name, byte_level.token_to_id(name)) for name in special[1:]]
    byte_level.post_processor = processors.TemplateProcessing("[gMASK] <sop> $A", special_tokens=front)
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level, pad_token="<|endoftext|>", eos_token="<|endoftext|>", padding_side="left",
        model_max_length=1024,
    )  # fmt: skip


def cogview4() -> CogView4Pipeline:
    """Builds CogView4: captions filled up to multiples of 16 tokens in front."""
    tokenizer = glm_tokenizer()
    encoder = GlmModel(
        GlmConfig(
            vocab_size=len(tokenizer), hidden_size=GLM, intermediate_size=64, num_hidden_layers=3, head_dim=16,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1024, pad_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    transformer = CogView4Transformer2DModel(
        in_channels=16, out_channels=16, num_layers=4, attention_head_dim=16, num_attention_heads=2, text_embed_dim=GLM,
        time_embed_dim=32, condition_dim=8, sample_size=SIDE // 4, rope_axes_dim=(16, 16),
    )  # fmt: skip
    return CogView4Pipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=eightfold(), transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


def cogview3() -> CogView3PlusPipeline:
    """Builds CogView3+: captions of T5 padded to one length, both halves of guidance in one batch."""
    transformer = CogView3PlusTransformer2DModel(
        in_channels=16, out_channels=16, num_layers=4, attention_head_dim=16, num_attention_heads=2, text_embed_dim=T5,
        time_embed_dim=32, condition_dim=8, sample_size=SIDE // 4, pos_embed_max_size=16,
    )  # fmt: skip
    open_gates(transformer.transformer_blocks)
    return CogView3PlusPipeline(
        vae=eightfold(), transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True,
            timestep_spacing="trailing", snr_shift_scale=4.0),
        **t5_pair(),
    )  # fmt: skip


BUILDERS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {make.__name__: partial(save, make) for make in (lumina2, z_image, cogview4, cogview3)}
)


def build(name: str, folder: Path) -> Path:
    """Saves the tiny pipeline of a family in a folder, and returns the folder."""
    BUILDERS[name](folder)
    return folder
