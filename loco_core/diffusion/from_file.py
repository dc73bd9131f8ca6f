"""Loads a checkpoint in one file by diffusers' own conversion, with a pipeline's folder for what the file lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loco_core.diffusion.folders import Component, checkpoint_of, place_of
from loco_core.diffusion.headers import read_header
from loco_core.errors import ModelError

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@contextmanager
def converted(found: list[tuple[Any, Mapping[str, Any]]], *, on_meta: bool = False) -> Iterator[None]:
    """Collects what diffusers reads into every model of a single file, within a ``with`` block.

    Args:
        found: takes every model as it is before, with the tensors for it.
        on_meta: whether only names and shapes of tensors are read, and models stay without memory.
    """
    import torch
    from diffusers.loaders import single_file, single_file_model, single_file_utils

    places: tuple[Any, ...] = (single_file_model, single_file_utils)
    original, read = single_file_utils.load_model_dict_into_meta, single_file.load_single_file_checkpoint

    def fill(model: Any, weights: Mapping[str, Any], **options: Any) -> Any:
        found.append((model, weights))
        # What does not fit is said by whoever asked, for all models at once and by name.
        known = model.state_dict()
        fits = {key: value for key, value in weights.items() if key not in known or known[key].shape == value.shape}
        return None if on_meta else original(model, fits, **options)

    def outline(path: str, **_: Any) -> dict[str, Any]:
        return {
            key: torch.empty(entry.shape, dtype=getattr(torch, _DTYPES.get(entry.dtype, "float32")), device="meta")
            for key, entry in read_header(Path(path)).items()
        }

    try:
        for place in places:
            place.load_model_dict_into_meta = fill
        if on_meta:
            single_file.load_single_file_checkpoint = outline
        yield
    finally:
        for place in places:
            place.load_model_dict_into_meta = original
        single_file.load_single_file_checkpoint = read


def lent_by(folder: Path, part: Component, variant: str | None, dtype: Any, *, on_meta: bool = False) -> Any:
    """Loads a component that a single file lacks from a pipeline's folder.

    Args:
        folder: folder of the pipeline.
        part: the component.
        variant: variant of its weights, where it has that.
        dtype: dtype of its weights.
        on_meta: whether it stays without memory.

    Raises:
        ModelError: its class is none of diffusers and transformers.
    """
    import diffusers
    import transformers

    cls: Any = getattr({"diffusers": diffusers, "transformers": transformers}.get(part.library), part.class_name, None)
    place = place_of(folder, part)
    if cls is None:
        raise ModelError(f"{place}: {part.library} has no {part.class_name}; expected a class of diffusers")
    own = variant if checkpoint_of(place, part.library, variant) is not None else None
    device = {"device_map": {"": "meta"}} if on_meta else {}
    return cls.from_pretrained(
        str(place), dtype=dtype, use_safetensors=True, variant=own, local_files_only=True, **device
    )
