"""LoRAs and textual inversions of tiny pipelines, in the namings in which people share them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from tests.support.single_files import Weights, write

DENOISER = ("to_q", "to_k", "to_v", "to_out.0")
# Of kohya's naming diffusers knows an encoder by all four.
ENCODER = ("q_proj", "k_proj", "v_proj", "out_proj")
RANK = 3


def factors(pipeline: Any, seed: int = 5) -> dict[str, Weights]:
    """Returns random factors for the attention of a pipeline's denoiser and CLIP text encoders, by component.

    The pipeline is of no more use afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = {}
        for name in ("unet", "transformer", "text_encoder", "text_encoder_2"):
            model = getattr(pipeline, name, None)
            if model is None or type(model).__name__.startswith("T5"):
                continue
            targets = ENCODER if name.startswith("text") else DENOISER
            config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(targets), init_lora_weights=False)
            model.add_adapter(config)
            weights = get_peft_model_state_dict(model, adapter_name="default")
            # Large enough to be seen, on weights that are as small as those of an untrained model.
            found[name] = {key: 0.2 * torch.randn_like(value) for key, value in weights.items()}
        return found


def diffusers_lora(pipeline: Any, file: Path, seed: int = 5) -> Path:
    """Writes a LoRA as diffusers and peft name it."""
    parts = factors(pipeline, seed)
    return write({f"{part}.{key}": value for part, weights in parts.items() for key, value in weights.items()}, file)


def kohya_lora(pipeline: Any, file: Path, seed: int = 5) -> Path:
    """Writes a LoRA as kohya's scripts name it: with underscores, and a strength beside each pair of factors."""
    several = getattr(pipeline, "text_encoder_2", None) is not None
    starts = {
        "unet": "lora_unet_",
        "text_encoder": "lora_te1_" if several else "lora_te_",
        "text_encoder_2": "lora_te2_",
    }
    found: Weights = {}
    for part, weights in factors(pipeline, seed).items():
        for key, value in weights.items():
            module, which = re.fullmatch(r"(.+)\.lora_(A|B)\.weight", key).groups()  # type: ignore[union-attr]
            if part.startswith("text") and not module.startswith("text_model"):
                module = f"text_model.{module}"
            name = starts[part] + module.replace(".", "_")
            found[f"{name}.lora_{'down' if which == 'A' else 'up'}.weight"] = value
            found[f"{name}.alpha"] = torch.tensor(2.0)
    return write(found, file)


def inversion(file: Path, widths: dict[str, int], vectors: int, seed: int = 6) -> Path:
    """Writes a textual inversion of some vectors for each text encoder, under the names of its tensors."""
    generator = torch.Generator().manual_seed(seed)
    return write({key: torch.randn(vectors, width, generator=generator) for key, width in widths.items()}, file)
