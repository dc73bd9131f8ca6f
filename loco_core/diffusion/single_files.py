"""Checkpoints in one file, as they are shared beside diffusers' folders: of which family, told from keys. No torch.

A family declares the layouts of its files; nothing else knows of one family or another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from loco_core.diffusion.headers import PICKLE_SUFFIXES, SUFFIX, Header, named_file, read_header
from loco_core.errors import ModelError

_LORA = ("lora_", ".lora.", ".lora_", "lokr_", "hada_")
# What is written beside weights that were rounded to a grid, which diffusers would read as the weights themselves.
_QUANTIZED = ("scaled_fp8", "scale_weight", "weight_scale", "absmax", "quant_map", "quant_state")
DENOISER = "model.diffusion_model."
"""How the names of a denoiser's tensors begin in a file that holds other components, too."""


@dataclass(frozen=True)
class Layout:
    """How a single file of a family names its tensors.

    Attributes:
        name: what such a file is, in words.
        fits: tells from a header whether a file is one.
        parts: beginnings of the names of the tensors of each component of the pipeline, the denoiser's among them.
        model: name of a model that the family knows, which lends its configuration where nobody names another; empty
            where it knows none that fits.
        noise: ends of the names of the tensors that read and write noise: where more channels are read than written, a
            picture is read, too; None where there are no such files.
    """

    name: str
    fits: Callable[[Header], bool]
    parts: Mapping[str, tuple[str, ...]]
    model: str = ""
    noise: tuple[str, str] | None = None


@dataclass(frozen=True)
class SingleFile:
    """A checkpoint in one file.

    Attributes:
        path: its path.
        family: key of its family.
        layout: how it names its tensors.
        parts: components of the pipeline that it holds.
        velocity: whether it says that it predicts velocity, by an empty tensor that is called so; most say nothing.
    """

    path: str
    family: str
    layout: Layout
    parts: frozenset[str]
    velocity: bool = False


def holds(header: Header, name: str) -> bool:
    """Tells whether a file holds a tensor of a denoiser: files of a denoiser alone leave out the first words."""
    return name in header or DENOISER + name in header


def is_single_file(path: str) -> bool:
    """Tells whether a model's path means one file, by its name alone."""
    return path.lower().endswith((SUFFIX, *PICKLE_SUFFIXES)) and not Path(path).is_dir()


def identify(path: str, layouts: Mapping[str, tuple[Layout, ...]]) -> SingleFile:
    """Returns what a checkpoint in one file is.

    Args:
        path: path of the file.
        layouts: layouts of every family, by its key.

    Raises:
        ModelError: it is missing, damaged, a pickle, or no checkpoint of a known family: a LoRA, a VAE alone.
    """
    header = read_header(named_file(path, "a checkpoint"))
    for family, known in layouts.items():
        for layout in known:
            if layout.fits(header):
                _check_usable(path, layout, header)
                held = {part for part, starts in layout.parts.items() if any(key.startswith(starts) for key in header)}
                return SingleFile(path, family, layout, frozenset(held), "v_pred" in header)
    names = ", ".join(layout.name for known in layouts.values() for layout in known)
    raise ModelError(f"{path} {_what_else(header)}; known single files are of {names}")


def _check_usable(path: str, layout: Layout, header: Header) -> None:
    """Refuses weights that diffusers would read as others, and denoisers that read a picture beside the prompt."""
    rounded = next((key for key in header if key.rpartition(".")[2] in _QUANTIZED or key in _QUANTIZED), None)
    if rounded is not None:
        raise ModelError(
            f"{path} is a {layout.name} checkpoint with quantized weights ({rounded} says how); expected one in "
            "float16, bfloat16 or float32"
        )
    for read, written in [layout.noise] if layout.noise else []:
        shapes = [(header.get(key) or header[DENOISER + key]).shape for key in (read, written) if holds(header, key)]
        if len(shapes) == 2 and shapes[0][1] != shapes[1][0]:
            raise ModelError(
                f"{path} is a {layout.name} checkpoint that reads a picture beside the prompt ({shapes[0][1]} "
                f"channels, of which it writes {shapes[1][0]}), as for inpainting; expected one for text to image"
            )


def _what_else(header: Header) -> str:
    """Says what a file is that is no checkpoint, and what to do with it."""
    if any(sign in key for key in header for sign in _LORA):
        return "is a LoRA; expected it under loras, in the entry of its model"
    if _is_embedding(header):
        return "is a textual inversion; expected it under textual_inversions, in the entry of its model"
    tops = {key.partition(".")[0] for key in header}
    if tops and tops <= {"encoder", "decoder", "quant_conv", "post_quant_conv", "first_stage_model", "vae", "bn"}:
        return "holds a VAE and no denoiser; expected a whole checkpoint, or a diffusers folder whose vae/ it replaces"
    if any(key.startswith(("control_model.", "controlnet_")) for key in header):
        return "is a ControlNet, which reads a picture beside the prompt; expected a checkpoint for text to image"
    if any(key.startswith(("down_blocks.", "transformer_blocks.", "mid_block.")) for key in header):
        return (
            "is one component as diffusers saves it, without the others; expected the folder of the whole pipeline, "
            "which holds model_index.json"
        )
    if any(key.startswith(("text_model.", "encoder.block.", "vision_model.", "logit_scale")) for key in header):
        return "holds a text encoder and no denoiser; expected a whole checkpoint"
    if not header:
        return "holds no tensors; expected a checkpoint"
    first = next(iter(header))
    return f"holds no denoiser of a known layout (its first tensor is {first})"


def _is_embedding(header: Header) -> bool:
    names = {"emb_params", "clip_l", "clip_g"}
    small = len(header) <= 3 and all(len(entry.shape) <= 2 for entry in header.values())
    return small and (bool(names & set(header)) or len(header) == 1)
