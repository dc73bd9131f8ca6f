"""Models on the hub: from its local cache where that holds them, and without waiting where it is out of reach."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loco_core.errors import ModelError, first_line
from loco_core.folders import INDEX, has_readers, pipeline_files, scorer_files, variant_of

# Seconds for a first answer of the hub, and for which that answer holds. Its client alone would try six times a file.
PATIENCE, REMEMBERED = 5.0, 60.0
_asked: dict[str, tuple[float, str]] = {}


def on_hub(path: str) -> bool:
    """Tells whether a path can only mean a hub id such as ``owner/name``."""
    folder = Path(path)
    return not (folder.is_dir() or folder.is_absolute() or path.startswith((".", "~"))) and path.count("/") == 1


def _unreachable() -> str:
    """Returns why the hub cannot be reached; empty where it can."""
    from huggingface_hub import constants, get_session, is_offline_mode

    if is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    when, why = _asked.get(constants.ENDPOINT, (-REMEMBERED, ""))
    if time.monotonic() - when < REMEMBERED:
        return why
    try:
        status = get_session().head(constants.ENDPOINT, timeout=PATIENCE).status_code
        why = f"it answers {status}" if status >= 500 else ""
    except Exception as error:  # whatever lies between here and there, there is no answer
        why = first_line(error)
    _asked[constants.ENDPOINT] = (time.monotonic(), why)
    return why


def hub_file(repository: str, revision: str | None, name: str) -> Path:
    """Returns a file of a hub model, from the cache where its commit is known or the hub out of reach.

    Raises:
        ModelError: neither has it; said within seconds.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils._validators import validate_repo_id

    # It would tell of every attempt; what is said at the end is enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise ModelError(f"there is no folder {repository}, and it is no hub id: {first_line(error)}") from error
    if (known := _cached(repository, revision, name)) is not None:
        return known
    away = _unreachable()
    try:
        return Path(hf_hub_download(repository, name, revision=revision, local_files_only=bool(away)))
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        reason = f"the hub cannot be reached ({away}), and its local cache lacks it" if away else first_line(error)
        raise ModelError(
            f"there is no folder {repository}; taken as a hub id, {name} of it cannot be had: {reason}"
        ) from error


def _cached(repository: str, revision: str | None, name: str) -> Path | None:
    """Returns a file from the cache; None where that has it not, or may be out of date."""
    from huggingface_hub import try_to_load_from_cache

    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        return None
    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def cached_folder(path: str, revision: str | None, name: str) -> Path | None:
    """Returns the folder of a model that is on this machine, whole or not: its own, or that of its pinned commit.

    Args:
        path: folder or hub id.
        revision: commit on the hub.
        name: of a file at its top.
    """
    if Path(path).is_dir():
        return Path(path)
    file = _cached(path, revision, name) if on_hub(path) else None
    return None if file is None else file.parent


def local_pipeline(cls: Any, path: str, revision: str | None, parts: Mapping[str, Any]) -> Path:
    """Returns the folder of a pipeline; fetches it where the cache does not hold all of it.

    Args:
        cls: class of the pipeline.
        path: folder or hub id.
        revision: commit on the hub.
        parts: what it is loaded with, None for components that are left out and need not be fetched.

    Raises:
        ModelError: it cannot be had.
    """
    folder = cached_folder(path, revision, INDEX)
    left_out = [name for name, value in parts.items() if value is None]
    if folder is not None and (Path(path).is_dir() or _is_whole(folder, left_out)):
        return folder
    hub_file(path, revision, INDEX)
    if away := _unreachable():
        if folder is not None and _is_whole(folder, left_out, variants=True):
            # Of a model that has no plain weights on the hub either, most likely.
            return folder
        raise _half(path, away)
    reason: Exception | None = None
    for variant in (None, "fp16"):
        try:
            return Path(
                cls.download(
                    path, revision=revision, use_safetensors=True, variant=variant, trust_remote_code=False, **parts
                )
            )
        except Exception as error:  # as above
            reason = reason or error
    assert reason is not None
    raise ModelError(f"cannot get {path} from the hub: {first_line(reason)}") from reason


def _half(path: str, away: str) -> ModelError:
    return ModelError(f"the hub cannot be reached ({away}), and its local cache does not hold all of {path}")


def _is_whole(folder: Path, left_out: list[str], *, variants: bool = False) -> bool:
    """Tells whether a cache holds all of a pipeline; beside a variant, plain weights may be missing."""
    try:
        pipeline_files(folder, left_out)
        return variants or variant_of(folder, left_out) is None
    except ModelError:
        return False


def local_scorer(path: str, revision: str | None) -> str:
    """Returns the folder of a scorer where this machine has all of it; else its hub id, to be fetched.

    Raises:
        ModelError: it would have to be fetched, and the hub cannot be reached.
    """
    folder = cached_folder(path, revision, "config.json")
    if Path(path).is_dir():
        return path
    if folder is not None:
        try:
            scorer_files(folder)
            if has_readers(folder):
                return str(folder)
        except ModelError:
            pass
    hub_file(path, revision, "config.json")
    if away := _unreachable():
        raise _half(path, away)
    return path
