"""What lies in a model's folder or on the hub: its files, the commit behind a name, the hash of its weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loco_core.errors import ModelError, first_line

# Pickled weights run code when they are read.
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def absolute(path: str) -> str:
    """Returns a folder's full path: workers run in folders of their own."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def on_hub(path: str) -> bool:
    """Tells whether a path can only mean a hub id such as ``owner/name``."""
    folder = Path(path)
    return not (folder.is_dir() or folder.is_absolute() or path.startswith(".")) and path.count("/") == 1


def read_json(path: str, revision: str | None, name: str) -> dict[str, Any]:
    """Reads a JSON file of a model.

    Args:
        path: folder, or hub id such as ``owner/name``.
        revision: on the hub.
        name: of the file, from the model's top.

    Raises:
        ModelError: there is no such folder or file, it is damaged, or the hub cannot be reached.
    """
    folder = Path(path)
    if not folder.is_dir() and not on_hub(path):
        raise ModelError(f"no folder {path}; expected a diffusers pipeline folder or a hub id like owner/name")
    file = folder / name
    if not folder.is_dir():
        file = _download(path, revision, name)
    if not file.is_file():
        raise ModelError(f"{path} is not a diffusers pipeline: {name} is missing")
    try:
        content = json.loads(file.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is damaged: expected an object")
    return content


def _download(repository: str, revision: str | None, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    # It would tell of every attempt; what is said at the end is enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        reason = first_line(error)
        raise ModelError(f"cannot get {name} of {repository} from the hub or its local cache: {reason}") from error


def commit(repository: str, revision: str | None) -> str:
    """Returns the commit that a hub revision stands for; of the local cache where the hub cannot be reached.

    Raises:
        ModelError: neither has it.
    """
    return _download(repository, revision, "config.json").parent.name


def weights_hash(path: str, revision: str | None) -> str:
    """Returns a hash of a folder's weights, configurations and vocabularies; of a hub model ``hub:`` and its commit.

    Raises:
        ModelError: a folder holds no safetensors, or the hub cannot be reached.
    """
    folder = Path(path)
    if not folder.is_dir():
        return f"hub:{_download(path, revision, _index_name(path, revision)).parent.name}"
    files = sorted(_weight_files(folder))
    if not any(file.suffix == ".safetensors" for file in files):
        pickles = [file for pattern in _PICKLES for file in folder.rglob(pattern)]
        held = f"; {pickles[0].relative_to(folder)} is a pickle, which is never read" if pickles else ""
        raise ModelError(f"{path} holds no safetensors weights{held}")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _index_name(path: str, revision: str | None) -> str:
    try:
        _download(path, revision, "model_index.json")
    except ModelError:
        return "config.json"
    return "model_index.json"


def _weight_files(folder: Path) -> Iterator[Path]:
    for pattern in ("*.safetensors", "*.json", "*.txt"):
        yield from (file for file in folder.rglob(pattern) if file.is_file())
