"""What a safetensors file holds, told from its header: names, shapes and formats of its tensors. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loco_core.errors import ModelError

SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")
"""Suffixes of pickle files, which run code when they are read."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a safetensors file.

    Attributes:
        dtype: its format as the file calls it, e.g. ``F16``.
        shape: its shape.
    """

    dtype: str
    shape: tuple[int, ...]


Header = Mapping[str, Entry]
"""The tensors of a file by name."""


def named_file(path: str, what: str) -> Path:
    """Returns a safetensors file that somebody named.

    Args:
        path: its path.
        what: what it is to be, e.g. ``a LoRA``.

    Raises:
        ModelError: it is not there, or is no safetensors file by its name.
    """
    file = Path(path)
    if file.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelError(
            f"{path} is a pickle, which runs code when it is read and so is never read; expected {what} as "
            ".safetensors: most sites offer both, and diffusers or ComfyUI can save it again"
        )
    if file.is_dir():
        raise ModelError(f"{path} is a folder; expected {what}: a {SUFFIX} file")
    if not file.is_file():
        raise ModelError(f"there is no file {path}; expected {what}: a {SUFFIX} file")
    if file.suffix != SUFFIX:
        raise ModelError(f"{path} is no {SUFFIX} file; expected {what} as one")
    return file


def read_header(file: Path) -> Header:
    """Reads the header of a safetensors file, and no more of it.

    Raises:
        ModelError: it cannot be read, or is not a whole safetensors file: half a download.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            head = json.loads(stream.read(length)) if 8 + length <= size else None
        entries = {key: item for key, item in (head or {}).items() if key != "__metadata__"}
        end = max((item["data_offsets"][1] for item in entries.values()), default=0)
        found = {key: Entry(str(item["dtype"]), tuple(map(int, item["shape"]))) for key, item in entries.items()}
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        head = None
    if head is None or 8 + length + end != size:
        raise ModelError(f"{file} is damaged: not a whole safetensors file; expected it to be downloaded once more")
    return found


def read_spans(file: Path) -> dict[str, tuple[str, tuple[int, int]]]:
    """Returns the format of every tensor of a safetensors file, and its first byte in the file and the one behind it.

    Raises:
        ModelError: as of `read_header`.
    """
    read_header(file)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        head = json.loads(stream.read(length))
    start = 8 + length
    return {
        key: (str(item["dtype"]), (start + item["data_offsets"][0], start + item["data_offsets"][1]))
        for key, item in head.items()
        if key != "__metadata__"
    }
