"""Tiny models of the real classes that judges are made of, with random weights, and classes of the bundled world."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

from loco_core.attributes import attribute
from loco_core.scoring.classes import KindClasses, classes_of
from loco_core.toyworld import WEIGHTS

CLIP = WEIGHTS / "clip"


def classes() -> dict[str, KindClasses]:
    """Returns the classes of the bundled world."""
    return classes_of([attribute("style/lumio")])


def other_clip(folder: Path, share: float = 0.02) -> Path:
    """Copies the bundled CLIP model with every tensor moved by a share of its spread: other weights."""
    shutil.copytree(CLIP, folder)
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.numel() > 1:
                weight += share * weight.std() * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def siglip(folder: Path) -> Path:
    """Writes a SigLIP model with random weights that reads the words of the bundled world."""
    torch.manual_seed(6)
    text = {"vocab_size": 166, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 16, "pad_token_id": 165, "bos_token_id": 0,
            "eos_token_id": 165}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        # As trained; a random model starts at zero, where all classes are as likely.
        model.logit_scale.fill_(4.7)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CLIP / name, folder)
    return folder


def llava(folder: Path, template: str | None = None) -> Path:
    """Writes a Llava model with random weights that reads the words of the bundled world."""
    tokenizer = AutoTokenizer.from_pretrained(CLIP)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    # That of the bundled model cuts a text at 16 tokens, and fills it up to as many.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.model_max_length = 512
    for name in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        tokenizer.init_kwargs.pop(name, None)
    torch.manual_seed(7)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=16),
            text_config=LlamaConfig(**small, vocab_size=len(tokenizer), max_position_embeddings=512,
                                    bos_token_id=0, eos_token_id=165, pad_token_id=165, initializer_range=0.5),
            image_token_index=image, image_token_id=image, image_seq_length=4,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        pictures, tokenizer, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def reader(folder: Path) -> Path:
    """Writes a model with random weights that reads text from pictures, in words of the bundled world."""
    torch.manual_seed(8)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    decoder = TrOCRConfig(
        vocab_size=166, d_model=32, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=64,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=165, pad_token_id=165, decoder_start_token_id=0,
        is_decoder=True, add_cross_attention=True, init_std=0.5,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(**small, image_size=32, patch_size=16), decoder
    )
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 0, 165, 165
    model = VisionEncoderDecoderModel(config)
    model.generation_config.decoder_start_token_id = 0
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CLIP / name, folder)
    return folder


def references(folder: Path, names: Iterable[str], count: int = 3) -> Path:
    """Writes a folder of pictures per class, each class of a colour of its own with noise."""
    chance = np.random.default_rng(9)
    for name in names:
        (folder / name).mkdir(parents=True)
        colour = chance.integers(0, 200, 3)
        for number in range(count):
            pixels = colour + chance.integers(0, 55, (32, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder
