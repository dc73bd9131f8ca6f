"""Models, LoRAs and words that are none or do not fit, and the line that says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.support.adapters import inversion
from tests.support.single_files import write


def write_pickle(file: Path) -> None:
    torch.save({"state_dict": {}}, file)


def cut(source: Path, file: Path) -> None:
    file.write_bytes(source.read_bytes()[:-100])


def without(source: Path, file: Path, part: str) -> None:
    write({key: value for key, value in load_file(source).items() if part not in key}, file)


def having(source: Path, file: Path, part: str) -> None:
    write({key: value for key, value in load_file(source).items() if part in key}, file)


Build = Callable[[Path, Path], Mapping[str, Any]]


def model_of(change: Callable[[Path, Path], None], name: str = "x.safetensors", **more: str) -> Build:
    """A single file that something was done to."""

    def build(home: Path, folder: Path) -> Mapping[str, Any]:
        change(home, folder / name)
        return {"path": f"./{name}", **{key: str(home / value) for key, value in more.items()}}

    return build


def with_lora(family: str, change: Callable[[Path, Path], None], name: str = "x.safetensors") -> Build:
    def build(home: Path, folder: Path) -> Mapping[str, Any]:
        change(home, folder / name)
        return {"path": str(home / family), "loras": [{"path": f"./{name}", "scale": 0.5}]}

    return build


def with_word(family: str, change: Callable[[Path, Path], None], token: str = "<cat>") -> Build:
    def build(home: Path, folder: Path) -> Mapping[str, Any]:
        change(home, folder / "x.safetensors")
        return {"path": str(home / family), "textual_inversions": [{"path": "x.safetensors", "token": token}]}

    return build


def copied(name: str) -> Callable[[Path, Path], None]:
    return lambda home, file: shutil.copy(home / name, file)


def extended(source: Path, file: Path) -> None:
    more = {f"unet.up_blocks.9.attentions.0.to_k.lora_{half}.weight": torch.ones(3, 3) for half in "AB"}
    write({**load_file(source), **more}, file)


def renamed(source: Path, file: Path) -> None:
    write({key.replace("text_encoder.", "text_encoder_2."): value for key, value in load_file(source).items()}, file)


SD, XL = "stable_diffusion.safetensors", "sdxl.safetensors"
WRONG: Mapping[str, tuple[Build, str]] = {
    "a pickle": (
        model_of(lambda home, file: write_pickle(file), "x.ckpt", config="stable_diffusion"),
        r"x\.ckpt is a pickle, which runs code .* expected a checkpoint as \.safetensors",
    ),
    "a file that is not there": (
        lambda home, folder: {"path": "deep/none.safetensors"},
        r"there is no file .*deep/none\.safetensors",
    ),
    "half a download": (
        model_of(lambda home, file: cut(home / SD, file), config="stable_diffusion"),
        "is damaged: not a whole .* once more",
    ),
    "a VAE alone": (
        model_of(lambda home, file: having(home / SD, file, "first_stage_model.")),
        "holds a VAE and no denoiser; expected",
    ),
    "a LoRA as a model": (model_of(copied("sdxl.kohya.safetensors")), "is a LoRA; expected it under loras"),
    "a word as a model": (
        model_of(copied("sdxl.word.safetensors")),
        "is a textual inversion; expected it under textual_inversions",
    ),
    "a component as a model": (
        model_of(copied("stable_diffusion/unet/diffusion_pytorch_model.safetensors")),
        "is one component .* model_index",
    ),
    "no configuration": (
        model_of(copied(SD)),
        "is a Stable Diffusion 1 checkpoint in one file: .*stable-diffusion-v1-5.* expected config: a folder or hub "
        "id of a Stable Diffusion 1 pipeline, which lends its configurations, tokenizers, scheduler",
    ),
    "a configuration of another kind": (
        model_of(copied(SD), config="sdxl"),
        "is a Stable Diffusion 1 checkpoint, and .*sdxl is a StableDiffusionXLPipeline",
    ),
    "weights that are missing": (
        model_of(lambda home, file: without(home / SD, file, "attn2.to_k"), config="stable_diffusion"),
        r"x\.safetensors lack .*attn2\.to_k.* of UNet2DConditionModel",
    ),
    "an encoder that is missing": (
        model_of(lambda home, file: without(home / XL, file, "resblocks.1.mlp"), config="sdxl"),
        r"x\.safetensors lack .*layers\.1\.mlp.* of CLIPTextModelWithProjection",
    ),
    "a checkpoint for inpainting": (
        model_of(
            lambda home, file: write(
                {**load_file(home / SD), "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}, file
            ),
            config="stable_diffusion",
        ),
        r"reads a picture beside the prompt \(9 channels, of which it writes 4\)",
    ),
    "quantized weights": (
        model_of(
            lambda home, file: write(
                {**load_file(home / SD), "model.diffusion_model.out.2.scale_weight": torch.ones(1)}, file
            ),
            config="stable_diffusion",
        ),
        "with quantized weights .* expected one in float16",
    ),
    "a scheduler for noise of a model of velocity": (
        model_of(
            lambda home, file: write({**load_file(home / SD), "v_pred": torch.zeros(0)}, file),
            config="stable_diffusion",
        ),
        r"predicts velocity \(v_pred\), and the scheduler of .* is set for epsilon; expected prediction_type: v_pred",
    ),
    "a configuration for a folder": (
        lambda home, folder: {"path": str(home / "sdxl"), "config": str(home / "sdxl")},
        "config: it is for a path that is one",
    ),
    "a variant that is not there": (
        lambda home, folder: {"path": str(home / "sdxl"), "variant": "fp16"},
        "no weights of the variant fp16; expected no variant",
    ),
    "a LoRA of another model": (
        with_lora("stable_diffusion", copied("sdxl.peft.safetensors")),
        r"x\.safetensors is no LoRA of this StableDiffusionPipeline: .*; expected one trained on a model like it",
    ),
    "a LoRA of another family": (
        with_lora("sdxl", copied("sd3.peft.safetensors")),
        "is no LoRA of this StableDiffusionXLPipeline: .*expected one trained",
    ),
    "a LoRA that fits in part": (
        with_lora("stable_diffusion", lambda home, file: extended(home / "stable_diffusion.peft.safetensors", file)),
        r"1 of the \d+ layers that it changes are not there, such as unet\.up_blocks\.9\.attentions\.0\.to_k; expected",
    ),
    "a LoRA for an encoder too many": (
        with_lora("stable_diffusion", lambda home, file: renamed(home / "stable_diffusion.peft.safetensors", file)),
        r"\d+ of the \d+ layers that it changes are not there, such as text_encoder_2\.",
    ),
    "a pickled LoRA": (
        with_lora("sdxl", lambda home, file: write_pickle(file), "x.pt"),
        r"x\.pt is a pickle, .* expected a LoRA as \.safetensors",
    ),
    "a checkpoint as a LoRA": (with_lora("sdxl", copied(XL)), "is no LoRA: .*whole checkpoint goes under path"),
    "a word as a LoRA": (
        with_lora("sdxl", copied("sdxl.word.safetensors")),
        "is a textual inversion; expected it under textual_inversions",
    ),
    "a LoRA of SDXL for FLUX": (
        with_lora("flux", copied("sdxl.peft.safetensors")),
        "is no LoRA of this FluxPipeline",
    ),
    "a word that is known": (
        with_word("stable_diffusion", copied("stable_diffusion.word.safetensors"), "circle"),
        r"circle is a word that the model knows already; expected one of your own, such as <circle-1>",
    ),
    "a word of another width": (
        with_word("stable_diffusion", lambda home, file: inversion(file, {"emb_params": 40}, 1)),
        r"embeddings of width 40, and the model reads 16 \(text_encoder\)",
    ),
    "a word for one encoder of two": (
        with_word("sdxl", copied("stable_diffusion.word.safetensors")),
        "teaches <cat> to text_encoder alone, .* clip_l and clip_g",
    ),
    "a word for a pipeline that takes none": (
        with_word("sd3", copied("sdxl.word.safetensors")),
        "a StableDiffusion3Pipeline takes no textual inversions",
    ),
    "a LoRA as a word": (with_word("sdxl", copied("sdxl.peft.safetensors")), "is a LoRA; expected it under loras"),
    "a word with spaces": (
        with_word("sdxl", copied("sdxl.word.safetensors"), "my cat"),
        "expected a word without spaces",
    ),
}
