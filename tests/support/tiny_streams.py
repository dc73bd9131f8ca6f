"""Tiny pipelines of further families in which text and image share a stream; see `tests.support.tiny_models`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    UMT5Config,
    UMT5EncoderModel,
)

from loco_core.toyworld.training.transformer import make_word_tokenizer
from loco_core.toyworld.world import vocabulary
from tests.support.tiny_models import LATENT_SIDE, SIDE, T5, heed_text, save, vae

# Widths of the language models' hidden states; of those of FLUX.2 three are taken side by side.
QWEN, MISTRAL = 32, 32

_PIXELS = MappingProxyType({"height": SIDE, "width": SIDE})
# What a call needs besides a prompt; see `tests.support.tiny_models`.
CALL_ARGUMENTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"flux2": _PIXELS, "flux2_klein": _PIXELS, "aura_flow": _PIXELS}
)

# What matters of the published ones: special tokens around roles and turns.
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
MISTRAL_CHAT = (
    "<s>{% for message in messages %}"
    "{{ '[SYSTEM_PROMPT]' if message.role == 'system' else '[INST]' }}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}"
    "{{ '[/SYSTEM_PROMPT]' if message.role == 'system' else '[/INST]' }}{% endfor %}"
)


def byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learns byte pairs in which every word of the toy world is one token, with and without a space."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    learner.train_from_iterator([start + word for word in vocabulary() for start in ("", " ")], trainer)
    learned = json.loads(learner.to_str())["model"]
    return learned["vocab"], [tuple(pair) for pair in learned["merges"]]


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Builds a tokenizer of Qwen with a chat, which pads on the right."""
    vocab, merges = byte_pairs()
    special = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    return Qwen2Tokenizer(
        vocab=vocab, merges=merges, model_max_length=4096, padding_side="right", extra_special_tokens=special,
        chat_template=QWEN_CHAT,
    )  # fmt: skip


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """Builds a tokenizer of Mistral with a chat, which pads on the left."""
    vocab, merges = byte_pairs()
    pairs = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    pairs.pre_tokenizer, pairs.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]"]
    return PreTrainedTokenizerFast(
        tokenizer_object=pairs, bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=special,
        model_max_length=4096, padding_side="left", chat_template=MISTRAL_CHAT,
    )  # fmt: skip


def flux2_vae() -> AutoencoderKLFlux2:
    """Builds an autoencoder that enlarges fourfold, patches of two pixels side by side not counted."""
    made = AutoencoderKLFlux2(
        latent_channels=4, sample_size=SIDE, block_out_channels=(8, 16, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    made.bn.running_mean.normal_()
    return made


def flux2_transformer(width: int, *, guidance: bool) -> Flux2Transformer2DModel:
    """Builds two joint blocks, then three whose one projection makes queries, K, V and the feed-forward."""
    made = Flux2Transformer2DModel(
        in_channels=4 * 4, num_layers=2, num_single_layers=3, num_attention_heads=2, attention_head_dim=16,
        joint_attention_dim=width, axes_dims_rope=(4, 4, 4, 4), timestep_guidance_channels=32,
        guidance_embeds=guidance,
    )  # fmt: skip
    with torch.no_grad():
        # As drawn, gates are nearly shut, and 16 tokens of the picture are lost among 512 of the text.
        for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"):
            getattr(made, name).linear.weight.mul_(16)
        for block in made.transformer_blocks:
            block.attn.norm_k.weight.mul_(4)
            block.attn.to_v.weight.mul_(4)
    return heed_text(made)


def flux2() -> Flux2Pipeline:
    """Builds FLUX.2 [dev], over a language model of as many layers as are asked for."""
    tokenizer = mistral_tokenizer()
    text = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=MISTRAL, intermediate_size=32, num_hidden_layers=31,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, initializer_range=0.2,
    )  # fmt: skip
    seen = PixtralVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    encoder = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=seen)).eval()
    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=flux2_vae(),
        text_encoder=encoder, tokenizer=tokenizer, transformer=flux2_transformer(3 * MISTRAL, guidance=True),
    )  # fmt: skip


def qwen3(tokenizer: Qwen2Tokenizer, layers: int) -> Qwen3ForCausalLM:
    """Builds a language model of Qwen3."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=QWEN, intermediate_size=32, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=1024,
            initializer_range=0.2, tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip


def flux2_klein(*, is_distilled: bool = False) -> Flux2KleinPipeline:
    """Builds FLUX.2 [klein], the base model or one that is distilled from it."""
    tokenizer = qwen_tokenizer()
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=flux2_vae(),
        text_encoder=qwen3(tokenizer, 28), tokenizer=tokenizer,
        transformer=flux2_transformer(3 * QWEN, guidance=False), is_distilled=is_distilled,
    )  # fmt: skip


def aura_flow() -> AuraFlowPipeline:
    """Builds AuraFlow: joint blocks behind tokens of the transformer's own, then single ones."""
    tokenizer = make_word_tokenizer()
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer), d_model=T5, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    ).eval()  # fmt: skip
    transformer = AuraFlowTransformer2DModel(
        sample_size=LATENT_SIDE, in_channels=4, out_channels=4, num_mmdit_layers=2, num_single_dit_layers=3,
        num_attention_heads=2, attention_head_dim=16, joint_attention_dim=T5, caption_projection_dim=32,
        pos_embed_max_size=64,
    )  # fmt: skip
    with torch.no_grad():
        # As of FLUX.2: gates are nearly shut, and most tokens are padding.
        for block in (*transformer.joint_transformer_blocks, *transformer.single_transformer_blocks):
            block.norm1.linear.weight.mul_(16)
            block.attn.to_v.weight.mul_(8)
        for block in transformer.joint_transformer_blocks:
            block.norm1_context.linear.weight.mul_(16)
            block.attn.add_v_proj.weight.mul_(8)
    return AuraFlowPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae(4, scaling_factor=0.13025), transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )  # fmt: skip


def save_flux2(folder: Path) -> None:
    """Saves FLUX.2 [dev] under the class of its published tokenizer, which wants torchvision."""
    save(flux2, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PixtralProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


BUILDERS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {"flux2": save_flux2, "flux2_klein": partial(save, flux2_klein), "aura_flow": partial(save, aura_flow)}
)


def build(name: str, folder: Path) -> Path:
    """Saves the tiny pipeline of a family in a folder, and returns the folder."""
    BUILDERS[name](folder)
    return folder
