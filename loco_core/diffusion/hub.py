"""Models on the hub: from its local cache where that holds them, and without waiting where it is out of reach.

What is fetched is fetched once per node, by the first worker that needs it: the others wait for its lock.
"""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Event

from loco_core.diffusion.folders import INDEX, has_readers, pipeline_files, scorer_files, variant_of
from loco_core.diffusion.refusals import LONG, SHORT, TOO_MANY, patiently, refusal, status_of, tame
from loco_core.diffusion.wanted import SMALL, Choose, pipeline_choice, scorer_choice
from loco_core.errors import ModelError, first_line

# Seconds for a first answer of the hub, and for which that answer holds. Its client alone would try six times per file.
PATIENCE, REMEMBERED = 5.0, 60.0
AT_ONCE = 8
"""Files that one worker fetches at a time."""
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
        why = "" if status_of(error) == TOO_MANY else first_line(error)
    _asked[constants.ENDPOINT] = (time.monotonic(), why)
    return why


def hub_file(repository: str, revision: str | None, name: str, *, seconds: float = SHORT) -> Path:
    """Returns a file of a hub model, from the cache where its commit is known or the hub out of reach.

    Args:
        repository: hub id.
        revision: on the hub.
        name: name of the file.
        seconds: for which it is asked again where the hub allows no more requests.

    Raises:
        ModelError: neither has it; said within seconds.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils._validators import validate_repo_id

    tame()
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise ModelError(f"there is no folder {repository}, and it is no hub id: {first_line(error)}") from error
    if (known := _cached(repository, revision, name)) is not None:
        return known
    away = _unreachable()

    def fetch() -> str:
        return hf_hub_download(repository, name, revision=revision, local_files_only=bool(away))

    try:
        return Path(patiently(fetch, seconds))
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        if (refused := refusal(error, repository)) is not None:
            raise refused from error
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
        name: name of a file at its top.
    """
    if Path(path).is_dir():
        return Path(path)
    file = _cached(path, revision, name) if on_hub(path) else None
    return None if file is None else file.parent


@dataclass(frozen=True)
class Needs:
    """What is loaded of a repository on the hub.

    Attributes:
        first: name of a file at its top that every such repository has.
        choose: chooses the files to fetch.
        is_whole: tells whether a folder holds them; called with the folder, and whether plain weights may be missing
            where there are variants.
    """

    first: str
    choose: Choose
    is_whole: Callable[[Path, bool], bool]


def pipeline_needs(left_out: Collection[str] = (), variant: str | None = None, held: Collection[str] = ()) -> Needs:
    """Returns what is loaded of a pipeline; see `loco_core.diffusion.folders.pipeline_files`.

    Args:
        left_out: components that it is loaded without.
        variant: variant of weights that is asked for.
        held: components of which only the configuration is read.
    """

    def is_whole(folder: Path, variants: bool) -> bool:
        try:
            pipeline_files(folder, left_out, variant, held)
            return variants or variant is not None or variant_of(folder, {*left_out, *held}) is None
        except ModelError:
            return False

    return Needs(INDEX, pipeline_choice(left_out, variant, held), is_whole)


def _is_whole_scorer(folder: Path, _: bool) -> bool:
    try:
        scorer_files(folder)
    except ModelError:
        return False
    return has_readers(folder)


SCORER = Needs("config.json", scorer_choice, _is_whole_scorer)
"""What is loaded of a scorer of transformers."""


def local_pipeline(
    path: str,
    revision: str | None,
    left_out: Collection[str] = (),
    variant: str | None = None,
    held: Collection[str] = (),
) -> Path:
    """Returns the folder of a pipeline; fetches it where the cache does not hold all of it.

    Args:
        path: folder or hub id.
        revision: commit on the hub.
        left_out: components that it is loaded without.
        variant: variant of weights that is asked for.
        held: components of which only the configuration is read.

    Raises:
        ModelError: it cannot be had.
    """
    return local_folder(path, revision, pipeline_needs(left_out, variant, held))


def local_folder(path: str, revision: str | None, needs: Needs) -> Path:
    """Returns the folder of a model; fetches what is loaded of it where the cache does not hold that.

    Args:
        path: folder or hub id.
        revision: commit on the hub.
        needs: what is loaded of it.

    Raises:
        ModelError: it cannot be had.
    """
    if Path(path).is_dir():
        return Path(path)
    if (found := _here(path, revision, needs)) is not None:
        return found
    with _one_per_node(path):
        commit = hub_file(path, revision, needs.first, seconds=LONG).parent.name
        # While this worker waited, another one may have fetched it.
        if (found := _here(path, commit, needs)) is not None:
            return found
        if away := _unreachable():
            folder = cached_folder(path, commit, needs.first)
            if folder is not None and needs.is_whole(folder, True):
                # Of a model that has no plain weights on the hub either, most likely.
                return folder
            raise ModelError(f"the hub cannot be reached ({away}), and its local cache does not hold all of {path}")
        return _fetched(path, commit, needs)


def _here(path: str, commit: str | None, needs: Needs) -> Path | None:
    """Returns the folder of a commit where the cache holds all that is loaded, as far as one sees without the hub."""
    folder = cached_folder(path, commit, needs.first)
    if folder is None or commit is None:
        return None
    try:
        whole = all((folder / name).is_file() for name in needs.choose(path, _listed(path, commit), folder))
    except (LookupError, ModelError):
        whole = False
    return folder if whole or needs.is_whole(folder, False) else None


def _listed(path: str, commit: str) -> dict[str, int]:
    """Returns the files of a commit with their sizes, as a fetch before has kept them; raises LookupError without."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return {file.path: file.size for file in get_cached_repo_tree(path, revision=commit, cache_dir=_cache())}
    except CachedRepoTreeNotFoundError as error:
        raise LookupError(path) from error


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _fetched(path: str, commit: str, needs: Needs) -> Path:
    try:
        folder, chosen = _chosen(path, commit, needs)
        _download(path, commit, chosen)
    except ModelError:
        raise
    except Exception as error:  # as above
        raise refusal(error, path) or ModelError(f"cannot get {path} from the hub: {first_line(error)}") from error
    return folder


def _chosen(path: str, commit: str, needs: Needs) -> tuple[Path, dict[str, int]]:
    """Returns the folder of a commit, with its small files, and the files to fetch with their sizes."""
    sizes = patiently(lambda: _listing(path, commit, needs.first), LONG)
    small = [name for name in sizes if any(fnmatchcase(name, pattern) for pattern in SMALL)]
    folder = _download(path, commit, {needs.first, *small})
    return folder, {name: sizes[name] for name in needs.choose(path, sizes, folder) if name in sizes}


def _listing(path: str, commit: str, first: str) -> dict[str, int]:
    """Returns the files of a commit with their sizes, and lets the hub's client keep them."""
    from huggingface_hub import list_repo_tree, snapshot_download
    from huggingface_hub.hf_api import RepoFile

    try:
        return _listed(path, commit)
    except LookupError:
        snapshot_download(path, revision=commit, allow_patterns=glob.escape(first))
    try:
        return _listed(path, commit)
    except LookupError:
        # The client hides that the hub refused to list it; this says so.
        found = list_repo_tree(path, recursive=True, revision=commit)
        return {file.path: file.size for file in found if isinstance(file, RepoFile)}


def _download(path: str, commit: str, names: Collection[str]) -> Path:
    """Fetches what the cache lacks of some files; returns the folder that holds them."""
    from huggingface_hub import hf_hub_download

    ended = Event()

    def fetch(name: str) -> Path:
        return Path(patiently(lambda: hf_hub_download(path, name, revision=commit), LONG, ended))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            places = dict(zip(names, pool.map(fetch, names), strict=True))
        finally:
            # Of Ctrl-C, too: nobody waits for the others any more.
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
    name, place = next(iter(places.items()))
    return place.parents[name.count("/")]


@contextmanager
def _one_per_node(path: str) -> Iterator[None]:
    """Lets one process at a time fetch a repository into the cache."""
    from huggingface_hub.utils._fixes import WeakFileLock

    folder = _cache() / ".locks" / f"models--{path.replace('/', '--')}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"the hub's cache {_cache()} cannot be written: {error.strerror or error}") from error
    with WeakFileLock(folder / "loco-sweep.lock"):
        yield


@dataclass(frozen=True)
class HubFile:
    """A file that is loaded of a repository on the hub.

    Attributes:
        name: its name there.
        size: bytes.
        here: whether the cache holds it.
    """

    name: str
    size: int
    here: bool


def outlined(path: str, revision: str | None, needs: Needs) -> tuple[HubFile, ...]:
    """Returns the files that are loaded of a repository; of what is missing only small ones are fetched.

    Args:
        path: hub id.
        revision: commit on the hub.
        needs: what is loaded of it.

    Raises:
        ModelError: the hub cannot be reached, or refuses.
    """
    commit = hub_file(path, revision, needs.first).parent.name
    try:
        _listed(path, commit)
    except LookupError:
        if away := _unreachable():
            raise ModelError(f"the hub cannot be reached ({away}), and its local cache does not list {path}") from None
    try:
        folder, chosen = _chosen(path, commit, needs)
    except ModelError:
        raise
    except Exception as error:  # as above
        raise refusal(error, path) or ModelError(f"cannot list {path} on the hub: {first_line(error)}") from error
    return tuple(HubFile(name, size, (folder / name).is_file()) for name, size in chosen.items())


def check_held(path: str, revision: str | None, needs: Needs) -> None:
    """Refuses a repository that does not hold what is loaded of it; where the hub is out of reach nothing is known.

    Args:
        path: hub id.
        revision: commit on the hub.
        needs: what is loaded of it.

    Raises:
        ModelError: it holds no safetensors, say, or the hub refuses.
    """
    if _here(path, revision, needs) is None and not _unreachable():
        outlined(path, revision, needs)


def local_scorer(path: str, revision: str | None) -> str:
    """Returns the folder of a scorer; fetches it where the cache does not hold all of it.

    Raises:
        ModelError: it would have to be fetched, and the hub cannot be reached or refuses.
    """
    return path if Path(path).is_dir() else str(local_folder(path, revision, SCORER))


def check_readable(path: str) -> None:
    """Asks the hub whether this machine, with its token, may read a repository; fetches nothing.

    Raises:
        ModelError: it may not, or the hub cannot be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    tame()
    if away := _unreachable():
        raise ModelError(f"the hub cannot be reached ({away})")
    try:
        patiently(lambda: get_hf_file_metadata(hf_hub_url(path, INDEX)), 0.0)
    except EntryNotFoundError:
        # Of a scorer: who may not read the repository is not told what it lacks.
        return
    except Exception as error:  # as above
        raise refusal(error, path) or ModelError(f"cannot ask the hub for {path}: {first_line(error)}") from error
