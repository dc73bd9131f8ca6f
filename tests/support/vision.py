"""Vision models of the real classes of transformers, tiny and with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    "initializer_range": 0.5,
}  # fmt: skip


def save_vision_model(folder: Path, kind: str) -> Path:
    """Saves a model with what prepares pictures for it.

    Args:
        folder: where to.
        kind: ``vit`` or ``dinov2``.
    """
    torch.manual_seed(0)
    size = {"height": 32, "width": 32}
    model: PreTrainedModel
    if kind == "vit":
        model = ViTModel(ViTConfig(intermediate_size=32, **SIZES), add_pooling_layer=False)
        processor = ViTImageProcessorPil(size=size)
    else:
        model = Dinov2Model(Dinov2Config(mlp_ratio=2, **SIZES))
        processor = BitImageProcessorPil(
            size={"shortest_edge": 32}, crop_size=size, image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
