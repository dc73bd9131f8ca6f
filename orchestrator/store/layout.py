"""Where things lie under a results root. Folders that people read hold Parquet only; all else is under ``_meta/``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

from loco_core.errors import StoreError

PLANS = "_meta/plan"
UNITS = "_meta/units"
MANIFESTS = "_meta/manifest"
PUBLISHED = "_meta/published"
QUARANTINE = "_meta/quarantine"
SWEEP = "_meta/sweep.json"
RESOLVED = "_meta/resolved.json"
IN_FLIGHT = "_meta/inflight.json"
LEASE = "_meta/lease.json"
MARKER = "_meta/marker"
PROGRESS = "_meta/progress.json"
BATCHES = "_meta/batches"

DELTAS = "deltas"
REPORT = "report.html"

PARTED = ("scores", "failures", "embeddings", "images", "evaluations", "fits", "traces")
"""Tables that grow by parts, published from units."""
DERIVED = ("effects", "localizations", "edits", "trials")
"""Tables of one file each, replaced whole."""

FOLDERS = (
    "_meta", PLANS, UNITS, MANIFESTS, PUBLISHED, QUARANTINE, BATCHES, "_meta/staging", "_meta/fits", DELTAS,
    *(name for name in PARTED if name != "fits"), *DERIVED,
)  # fmt: skip
"""All folders that hold files of results."""

_LONGEST_NAME = 180
_UNIT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DELTA = re.compile(rf"{DELTAS}/[A-Za-z0-9_-]{{1,200}}\.safetensors")
_BATCH_SIZE = re.compile(rf"{BATCHES}/[a-z0-9-]{{1,100}}\.json")


def plan(number: int) -> str:
    """Path of a plan file."""
    return f"{PLANS}/{number:04d}.parquet"


def unit(unit_id: str) -> str:
    """Path of a committed unit.

    Raises:
        StoreError: the id could name something outside the folder.
    """
    if not _UNIT_ID.fullmatch(unit_id):
        raise StoreError(f"unit id {unit_id!r} is no file name; expected letters, digits, - and _")
    return f"{UNITS}/{unit_id}.parquet"


def batch_size(model: str) -> str:
    """Path of what was measured of a model's batches."""
    return f"{BATCHES}/{model}.json"


def delta(edit_id: str, scope: str = "localized") -> str:
    """Path of an edit's weights; those at a window named by hand say so, and are not the file of a localized edit."""
    return f"{DELTAS}/{edit_id}{'' if scope == 'localized' else f'-{scope}'}.safetensors"


def manifest(number: int) -> str:
    """Path of the decision which units make up a part."""
    return f"{MANIFESTS}/{number:05d}.json"


def published(number: int) -> str:
    """Path of the record that a part is complete, with the sums of its files."""
    return f"{PUBLISHED}/{number:05d}.json"


def quarantined(path: str, version: str) -> str:
    """Path of a file that was set aside; a long name is shortened, since no file's may have more than 255 bytes.

    Args:
        path: where it was.
        version: letters and digits that tell it from others that were there.
    """
    name = path.replace("/", ".")
    if len(name.encode()) > _LONGEST_NAME:
        start = name.encode()[:_LONGEST_NAME].decode(errors="ignore")
        name = f"{start}.{hashlib.sha256(path.encode()).hexdigest()[:16]}"
    return f"{QUARANTINE}/{name}.{version}"


def folder(table: str) -> str:
    """Folder of a table. ``fits`` is not for people: ``edits`` holds its rows, with what was chosen."""
    return "_meta/fits" if table == "fits" else table


def part(table: str, number: int) -> str:
    """Path of a part of a table; number 0 holds the schema and no rows."""
    return f"{folder(table)}/part-{number:05d}.parquet"


def derived(table: str) -> str:
    """Path of a derived table."""
    return f"{table}/{table}.parquet"


def numbers(paths: Iterable[str], name: Callable[[int], str]) -> dict[int, str]:
    """Returns the paths of numbered files by number, in order; files of other names are passed over.

    Args:
        paths: of files.
        name: the path that a number has, such as `plan` or `manifest`: ``00001 (1).json`` is none.
    """
    found = {}
    for path in paths:
        digits = re.findall(r"[0-9]+", path.rpartition("/")[2])
        if len(digits) == 1 and len(digits[0]) < 18 and name(int(digits[0])) == path:
            found[int(digits[0])] = path
    return dict(sorted(found.items()))


def parts(table: str, paths: Iterable[str]) -> dict[int, str]:
    """Returns the paths of the parts of a table by number, in order; files of other names are passed over."""
    return numbers(paths, lambda number: part(table, number))


def unit_of(path: str) -> str | None:
    """Returns the unit whose file this is; None for a file that is no unit's."""
    name, dot, suffix = path.removeprefix(f"{UNITS}/").rpartition(".")
    return name if dot and suffix == "parquet" and _UNIT_ID.fullmatch(name) and unit(name) == path else None


def is_unit_id(text: str) -> bool:
    """Tells whether a text may be the id of a unit."""
    return _UNIT_ID.fullmatch(text) is not None


def is_delta(path: str) -> bool:
    """Tells whether a path is one that weights of an edit may have; tables say where they are, and may say anything."""
    return _DELTA.fullmatch(path) is not None


def is_batch_size(path: str) -> bool:
    """Tells whether a path is one that a measured batch size may have."""
    return _BATCH_SIZE.fullmatch(path) is not None


def is_own(path: str) -> bool:
    """Tells whether a path is one that results have a file at; what lies elsewhere is somebody else's."""
    folder = path.rpartition("/")[0]
    numbered = {PLANS: plan, MANIFESTS: manifest, PUBLISHED: published}
    if folder in numbered:
        return bool(numbers([path], numbered[folder]))
    if path in (SWEEP, RESOLVED, IN_FLIGHT, LEASE, MARKER, PROGRESS, REPORT) or unit_of(path) is not None:
        return True
    parted = any(parts(name, [path]) for name in PARTED)
    return parted or path in map(derived, DERIVED) or is_delta(path) or is_batch_size(path)


def is_read_with(path: str) -> bool:
    """Tells whether who reads the folder of a table with pandas, say, reads this file of it, too.

    Readers of Parquet pass over files and folders whose names begin with a dot or an underscore. A bucket may hold keys
    with two slashes in a row, which are no files to most of them.
    """
    table, *below = path.split("/")
    return (
        table in (*PARTED, *DERIVED)
        and path.endswith(".parquet")
        and not any(part[:1] in ("", ".", "_") for part in below)
    )
