"""Models that are broken as people's are, for tests of what is said of them; each is made from a sound folder."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.support.folders import change

HALF = """\
from dataclasses import replace
from types import MappingProxyType
from loco_core.diffusion.families import stable_diffusion

INFO = replace(
    stable_diffusion.INFO, pipelines=("StableDiffusionPAGPipeline",), models={},
    site_names=lambda config: stable_diffusion.INFO.site_names(config)[:8],
)

class Family(stable_diffusion.Family):
    pipeline_class = "StableDiffusionPAGPipeline"
    call = MappingProxyType({"pag_scale": 0.0})
"""
"""A family file that tells the first half of the sites."""
DEAF = """\
from dataclasses import replace
from types import MappingProxyType
from loco_core.diffusion.families import stable_diffusion

INFO = replace(stable_diffusion.INFO, pipelines=("StableDiffusionPAGPipeline",), models={})

class Family(stable_diffusion.Family):
    pipeline_class = "StableDiffusionPAGPipeline"
    call = MappingProxyType({"pag_scale": 0.0})

    def encode(self, pipeline, prompts):
        return super().encode(pipeline, [" ".join(text.split()[:-1]) for text in prompts])
"""
"""A family file that loses the last word of every prompt."""


@contextmanager
def installed(folder: Path, families: Mapping[str, str]) -> Iterator[None]:
    """Installs a package with family files as pip leaves it, for this process and those that it starts.

    Args:
        folder: where it lies.
        families: content of each file, by its key.
    """
    package = folder / "strange_families"
    about = folder / "strange_families-1.0.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").touch()
    for key, text in families.items():
        (package / f"{key}.py").write_text(text)
    points = "\n".join(f"{key} = strange_families.{key}" for key in families)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-families\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[loco_sweep.families]\n{points}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        importlib.invalidate_caches()
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "strange_families"]:
        del sys.modules[name]


def _copied(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder, symlinks=False))


def of_class(name: str, model: Path, folder: Path) -> Path:
    """Copies a model whose pipeline calls itself otherwise."""
    index = _copied(model, folder) / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", name))
    return folder


def black(model: Path, folder: Path) -> Path:
    """Copies a model with a VAE that decodes everything to black."""

    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["decoder.conv_out.weight"].zero_()
        weights["decoder.conv_out.bias"].fill_(-4.0)
        return weights

    change("vae", edit, _copied(model, folder))
    return folder


def grey(model: Path, folder: Path) -> Path:
    """Copies a model with a VAE that decodes everything to one grey."""

    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["decoder.conv_out.weight"].zero_()
        weights["decoder.conv_out.bias"].zero_()
        return weights

    change("vae", edit, _copied(model, folder))
    return folder


def wide_vae(model: Path, folder: Path) -> Path:
    """Copies a model whose VAE works in float32 and overflows in float16: what a norm behind makes small is large."""

    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in ("decoder.conv_in.weight", "decoder.conv_in.bias"):
            weights[name] *= 1e4
        for name in [name for name in weights if name.startswith("decoder.mid_block")]:
            if name.endswith(("conv2.weight", "conv2.bias", "to_out.0.weight", "to_out.0.bias")):
                weights[name] *= 1e4
        return weights

    change("vae", edit, _copied(model, folder))
    return folder


def wide_denoiser(model: Path, folder: Path) -> Path:
    """Copies a model whose UNet works in float32 and overflows in float16."""

    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # A norm follows.
        for name in ("weight", "bias"):
            weights[f"down_blocks.0.resnets.0.conv1.{name}"] *= 1e6
        return weights

    change("unet", edit, _copied(model, folder))
    return folder
