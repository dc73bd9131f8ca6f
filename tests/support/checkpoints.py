"""Tiny pipelines, and of each of them what people would share: one file, LoRAs, words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers

from loco_core.quiet import quiet_libraries
from tests.support.adapters import diffusers_lora, inversion, kohya_lora
from tests.support.single_files import checkpoint, write
from tests.support.tiny_models import CLIP_G, CLIP_L, flux, save, sd3, sdxl, stable_diffusion

MAKERS: Mapping[str, Callable[[], Any]] = {"stable_diffusion": stable_diffusion, "sdxl": sdxl, "sd3": sd3}
LORAS = [
    ("stable_diffusion", "peft"),
    ("stable_diffusion", "kohya"),
    ("sdxl", "peft"),
    ("sdxl", "kohya"),
    ("sd3", "peft"),
    ("flux", "peft"),
]
"""A family, and how its LoRA names its tensors."""
WIDTHS = {
    "stable_diffusion": {"emb_params": CLIP_L},
    "sdxl": {"clip_l": CLIP_L, "clip_g": CLIP_G},
    "flux": {"clip_l": CLIP_L},
}
"""Widths of embeddings by the name of their tensor, of families that learn words."""
NO_CHECKER = {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None}


def build_all(folder: Path) -> Path:
    """Writes ``NAME/``, ``NAME.safetensors``, ``NAME.peft.safetensors``, ``NAME.word.safetensors`` and so on."""
    quiet_libraries()
    for name, make in {**MAKERS, "flux": flux}.items():
        save(make, folder / name)
    for name in MAKERS:
        write(checkpoint(plain(folder / name)), folder / f"{name}.safetensors")
    for name, kind in LORAS:
        make_lora = {"peft": diffusers_lora, "kohya": kohya_lora}[kind]
        make_lora(plain(folder / name), folder / f"{name}.{kind}.safetensors")
    for name, widths in WIDTHS.items():
        inversion(folder / f"{name}.word.safetensors", widths, 2)
    return folder


def plain(folder: Path, **options: Any) -> Any:
    """Loads a folder by diffusers alone."""
    name = diffusers.DiffusionPipeline.load_config(folder)["_class_name"]
    more = NO_CHECKER if name == "StableDiffusionPipeline" else {}
    pipeline = getattr(diffusers, name).from_pretrained(folder, **more, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
