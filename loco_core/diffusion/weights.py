"""What lies in a model's folder or on the hub: its files, the commit behind a name, the hash of its weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from loco_core.diffusion.adapters import inversion_file, lora_file
from loco_core.diffusion.folders import PICKLES, pipeline_files, read_object
from loco_core.diffusion.hub import hub_file, on_hub
from loco_core.errors import ModelError
from loco_core.types import Extras

_SUFFIXES = (".safetensors", ".json", ".txt", ".model")


def absolute(path: str) -> str:
    """Returns the full path of a folder or file: workers run in folders of their own."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def read_json(path: str, revision: str | None, name: str) -> dict[str, Any]:
    """Reads a JSON file of a model.

    Args:
        path: folder, or hub id such as ``owner/name``.
        revision: on the hub.
        name: of the file, from the model's top.

    Raises:
        ModelError: there is no such folder or file, it is damaged, a folder is to have a revision, or the hub cannot be
            reached.
    """
    folder = Path(path)
    if not folder.is_dir() and not on_hub(path):
        raise ModelError(f"no folder {path}; expected a diffusers pipeline folder or a hub id like owner/name")
    if folder.is_dir() and revision is not None:
        raise ModelError(f"{path} is a folder, which has no revision {revision}; expected none, or a hub id")
    file = folder / name
    if not folder.is_dir():
        file = hub_file(path, revision, name)
    if not file.is_file():
        raise ModelError(f"{path} is not a diffusers pipeline: {name} is missing")
    return read_object(file)


def commit(repository: str, revision: str | None) -> str:
    """Returns the commit that a hub revision stands for; of the local cache where the hub cannot be reached.

    Raises:
        ModelError: neither has it.
    """
    return hub_file(repository, revision, "config.json").parent.name


def weights_hash(
    path: str,
    revision: str | None,
    files_of: Callable[[Path], Iterable[Path]] | None = None,
    *,
    alone: bool = True,
) -> str:
    """Returns a hash of what a folder's model is loaded from; of a hub model ``hub:`` and its commit.

    Args:
        path: folder or hub id.
        revision: on the hub.
        files_of: returns the files that are loaded, such as `loco_core.diffusion.folders.pipeline_files`; None takes
            all weights, configurations and vocabularies in sight, where nobody knows which of them are.
        alone: whether the folder must hold weights itself.

    Raises:
        ModelError: a folder holds no safetensors, something of it is missing, or the hub cannot be reached.
    """
    folder = Path(path)
    if not folder.is_dir():
        return f"hub:{hub_file(path, revision, _index_name(path, revision)).parent.name}"
    files = sorted((files_of or _all_files)(folder))
    if alone and not any(file.suffix == ".safetensors" for file in files):
        pickles = [file for pattern in PICKLES for file in folder.rglob(pattern)]
        held = f"; {pickles[0].relative_to(folder)} is a pickle, which is never read" if pickles else ""
        raise ModelError(f"{path} holds no safetensors weights{held}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {file_hash(file)}\n".encode())
    return digest.hexdigest()


def identity(path: str, revision: str | None, left_out: Collection[str], extras: Extras) -> tuple[str, str | None]:
    """Returns a hash of all that a pipeline is loaded from, and the commit of what of it comes from the hub.

    Args:
        path: folder, hub id, or checkpoint in one file.
        revision: on the hub, of a single file that of its configuration.
        left_out: components that it is loaded without.
        extras: what it is loaded with beside its path.

    Raises:
        ModelError: something of it is missing or damaged, or the hub cannot be reached.
    """
    where = extras.config if extras.parts else path
    files_of = partial(pipeline_files, left_out=left_out, variant=extras.variant, held=extras.parts)
    weights = weights_hash(where, revision, files_of, alone=not extras.parts)
    on_the_hub = weights.startswith("hub:")
    more = [f"file {file_hash(Path(path))} {' '.join(sorted(extras.parts))}"] if extras.parts else []
    if on_the_hub and extras.variant is not None:
        more.append(f"variant {extras.variant}")
    more += [f"lora {file_hash(lora_file(item.path))} {item.scale!r}" for item in extras.loras]
    more += [f"word {item.token} {file_hash(inversion_file(item.path))}" for item in extras.textual_inversions]
    # The commit, not the name of a branch: what is hashed is what every worker loads.
    commit = weights.removeprefix("hub:") if on_the_hub else None
    return (hashlib.sha256("\n".join([weights, *more]).encode()).hexdigest() if more else weights), commit


def file_hash(file: Path) -> str:
    """Returns the SHA-256 of a file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from error


def _index_name(path: str, revision: str | None) -> str:
    try:
        hub_file(path, revision, "model_index.json")
    except ModelError:
        return "config.json"
    return "model_index.json"


def _all_files(folder: Path) -> Iterator[Path]:
    """Yields files through links, as whoever loads them goes; a folder that links lead to twice is taken once."""
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(place)) in seen:
            folders[:] = []
            continue
        seen.add(real)
        yield from (Path(place, name) for name in names if Path(name).suffix in _SUFFIXES)
