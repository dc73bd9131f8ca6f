"""Files of published size, of which there are names and shapes alone: what they are, and that all of them is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from loco_core.diffusion.facts import families, left_out, single_file
from loco_core.diffusion.headers import read_header
from loco_core.diffusion.loading import check_weights
from loco_core.errors import ModelError
from loco_core.types import Extras
from tests.support.single_files import (
    Weights,
    clip_keys,
    flux_keys,
    open_clip_keys,
    outline,
    sd3_keys,
    unet_keys,
    vae_keys,
)
from tests.support.tiny_models import clip_tokenizer, t5_pair

LEVELS = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2,
}  # fmt: skip


def encoder(kind: Any, width: int, layers: int, heads: int, projection: int, act: str = "quick_gelu") -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=heads, projection_dim=projection, hidden_act=act,
        )
    )  # fmt: skip


def published(name: str) -> Mapping[str, Any]:
    """The denoiser's configuration as the families know it."""
    found = [model for family in families().values() for key, model in family.models.items() if key == name]
    return dict(found[0].published)


def unet_of(name: str) -> Any:
    return diffusers.UNet2DConditionModel(**published(name))


def sd15() -> tuple[dict[str, Any], Weights]:
    parts = {
        "unet": unet_of("sd15"), "vae": diffusers.AutoencoderKL(**LEVELS),
        "text_encoder": encoder(CLIPTextModel, 768, 12, 12, 768),
    }  # fmt: skip
    clip = clip_keys(parts["text_encoder"], "cond_stage_model.transformer.")
    return parts, {**unet_keys(parts["unet"]), **vae_keys(parts["vae"]), **clip}


def sd21() -> tuple[dict[str, Any], Weights]:
    parts = {
        "unet": unet_of("sd21"), "vae": diffusers.AutoencoderKL(**LEVELS),
        "text_encoder": encoder(CLIPTextModel, 1024, 23, 16, 512, "gelu"),
    }  # fmt: skip
    clip = open_clip_keys(parts["text_encoder"], "cond_stage_model.model.")
    clip["cond_stage_model.model.text_projection"] = torch.empty(1024, 1024)
    return parts, {**unet_keys(parts["unet"]), **vae_keys(parts["vae"]), **clip}


def sdxl() -> tuple[dict[str, Any], Weights]:
    parts = {
        "unet": unet_of("sdxl"), "vae": diffusers.AutoencoderKL(**LEVELS),
        "text_encoder": encoder(CLIPTextModel, 768, 12, 12, 768),
        "text_encoder_2": encoder(CLIPTextModelWithProjection, 1280, 32, 20, 1280, "gelu"),
    }  # fmt: skip
    first = clip_keys(parts["text_encoder"], "conditioner.embedders.0.transformer.")
    second = open_clip_keys(parts["text_encoder_2"], "conditioner.embedders.1.model.")
    return parts, {**unet_keys(parts["unet"]), **vae_keys(parts["vae"]), **first, **second}


def sd3() -> tuple[dict[str, Any], Weights]:
    transformer = diffusers.SD3Transformer2DModel(**published("sd3"))
    return {"transformer": transformer}, sd3_keys(transformer)


def sd35() -> tuple[dict[str, Any], Weights]:
    transformer = diffusers.SD3Transformer2DModel(**published("sd35-large"))
    return {"transformer": transformer}, sd3_keys(transformer)


def flux() -> tuple[dict[str, Any], Weights]:
    transformer = diffusers.FluxTransformer2DModel(**published("flux"))
    return {"transformer": transformer}, flux_keys(transformer)


CLASSES = {
    "sd15": "StableDiffusionPipeline", "sd21": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline", "sd35": "StableDiffusion3Pipeline", "flux": "FluxPipeline",
}  # fmt: skip
KINDS: Mapping[str, tuple[Callable[[], tuple[dict[str, Any], Weights]], str, str]] = {
    "sd15": (sd15, "stable_diffusion", "Stable Diffusion 1"), "sd21": (sd21, "stable_diffusion", "Stable Diffusion 2"),
    "sdxl": (sdxl, "sdxl", "Stable Diffusion XL"), "sd3": (sd3, "sd3", "Stable Diffusion 3"),
    "sd35": (sd35, "sd3", "Stable Diffusion 3.5 large"), "flux": (flux, "flux", "FLUX.1"),
}  # fmt: skip


def lender(name: str, parts: Mapping[str, Any], folder: Path) -> Path:
    """A folder of configurations without weights, as if the pipeline had been saved without what the file lacks."""
    index: dict[str, Any] = {"_class_name": CLASSES[name], "scheduler": ["diffusers", "DDIMScheduler"]}
    if name in ("sd3", "sd35", "flux"):
        index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    getattr(diffusers, index["scheduler"][1])().save_pretrained(folder / "scheduler")
    for key, part in parts.items():
        index[key] = ["transformers" if key.startswith("text") else "diffusers", type(part).__name__]
        if key.startswith("text"):
            part.config.save_pretrained(folder / key)
        else:
            part.save_config(folder / key)
    takes = (
        diffusers.DiffusionPipeline.__class__
        and getattr(diffusers, CLASSES[name])._get_signature_keys(getattr(diffusers, CLASSES[name]))[0]
    )
    for key in takes - index.keys():
        index[key] = [None, None]
        if key.startswith("tokenizer"):
            second = name == "flux" and key == "tokenizer_2"
            made = t5_pair()["tokenizer"] if key == "tokenizer_3" or second else clip_tokenizer(77)
            made.save_pretrained(folder / key)
            index[key] = ["transformers", type(made).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_every_layout_of_published_size_is_known_and_read_whole(name: str, tmp_path: Path) -> None:
    make, family, layout = KINDS[name]
    with torch.device("meta"):
        parts, weights = make()
    file, folder = outline(weights, tmp_path / "x.safetensors"), lender(name, parts, tmp_path / "lender")
    found = single_file(str(file))
    assert (found.family, found.layout.name, found.parts) == (family, layout, frozenset(parts))
    without, extras = left_out(family), Extras(str(folder), parts=found.parts)
    check_weights(folder, f"{name} whole", without, str(file), extras)
    # One tensor less of a component, another one of each kind, and it is refused by its name.
    part = sorted(parts)[0]
    key = [key for key in weights if key.startswith(found.layout.parts[part]) and "attn" in key][-1]
    fewer = outline({other: value for other, value in weights.items() if other != key}, tmp_path / "y.safetensors")
    with pytest.raises(ModelError, match="lack"):
        check_weights(folder, f"{name} without {key}", without, str(fewer), extras)


def test_a_header_says_names_shapes_and_formats_and_reads_nothing_else(tmp_path: Path) -> None:
    file = outline({"a": torch.empty(3, 5, device="meta"), "b": torch.empty(7, device="meta")}, tmp_path / "x")
    assert {key: (entry.dtype, entry.shape) for key, entry in read_header(file).items()} == {
        "a": ("F16", (3, 5)), "b": ("F16", (7,)),
    }  # fmt: skip
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1)
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        read_header(file)


@pytest.mark.parametrize(
    ("more", "less", "said"),
    [
        ("distilled_guidance_layer.in_proj.bias", "vector_in", "holds no denoiser of a known layout"),
        ("single_stream_modulation.lin.weight", "img_mod", "holds no denoiser of a known layout"),
    ],
    ids=["Chroma", "FLUX.2"],
)
def test_relatives_of_flux_are_not_taken_for_it(more: str, less: str, said: str, tmp_path: Path) -> None:
    keys = ("double_blocks.0.img_mod.lin.weight", "vector_in.in_layer.weight", "guidance_in.in_layer.weight")
    made = {key: torch.empty(2, 2, device="meta") for key in (*keys, more) if less not in key}
    with pytest.raises(ModelError, match=said):
        single_file(str(outline(made, tmp_path / "x.safetensors")))


def test_schnell_is_told_from_dev_by_the_guidance_that_it_does_not_read(tmp_path: Path) -> None:
    keys = ("double_blocks.0.img_mod.lin.weight", "vector_in.in_layer.weight", "guidance_in.in_layer.weight")
    weights = {f"model.diffusion_model.{key}": torch.empty(2, 2, device="meta") for key in keys}
    assert single_file(str(outline(weights, tmp_path / "x.safetensors"))).layout.name == "FLUX.1"
    weights.popitem()
    found = single_file(str(outline(weights, tmp_path / "x.safetensors")))
    assert (found.layout.name, found.parts) == ("FLUX.1 schnell", {"transformer"})
