"""Where things lie under a results root. Folders that people read hold Parquet only; all else is under ``_meta/``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

from loco_core.errors import StoreError
from orchestrator.identity import safe_name
from orchestrator.store.schemas import outside_tables

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
CONTROL = "_meta/control.json"
TABLE_FILES = "_meta/tables.json"

USAGE_PREFIX = "usage-"
"""What the names of files of the table ``usage`` begin with, which are committed as units are."""
DELTAS = "deltas"
REPORT = "report.html"

_PARTED = ("scores", "failures", "embeddings", "images", "evaluations", "fits", "traces", "probes", "usage",
           "picture_metrics", "features", "attacks")  # fmt: skip
DERIVED = ("effects", "localizations", "edits", "trials", "metrics")
"""Tables of small files, one per key, each replaced whole; see `orchestrator.store.derived`."""

_LONGEST_NAME = 180
_UNIT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DERIVED = re.compile(r"[a-z0-9-]{1,61}(?:_[a-z0-9-]{1,61}){1,2}\.parquet")
_DELTA = re.compile(rf"{DELTAS}/[A-Za-z0-9_-]{{1,200}}\.safetensors")


def parted() -> tuple[str, ...]:
    """Returns the tables that grow by parts, published from units: those of this project, and of stages beside it."""
    return (*_PARTED, *outside_tables())


def folders() -> tuple[str, ...]:
    """Returns all folders that hold files of results."""
    return (
        "_meta", PLANS, UNITS, MANIFESTS, PUBLISHED, QUARANTINE, "_meta/staging", "_meta/fits", DELTAS,
        *(name for name in parted() if name != "fits"), *DERIVED,
    )  # fmt: skip


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
    return f"{UNITS}/{unit_id}.arrow"


def delta(edit_id: str, scope: str, data_sha256: str) -> str:
    """Path of an edit's weights, named after what is in it.

    Of two workers that fit the same edit neither can spoil the other's file where their last bits differ.

    Args:
        edit_id: identity of the edit.
        scope: why it is made where it is made; see the column ``scope`` of ``edits``.
        data_sha256: SHA-256 of the file's bytes.
    """
    return f"{DELTAS}/{edit_id}{'' if scope == 'localized' else f'-{scope}'}-{data_sha256[:12]}.safetensors"


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
    """Path of a part of a table; number 0, which derived tables have, too, holds the schema and no rows."""
    return f"{folder(table)}/part-{number:05d}.parquet"


def derived(table: str, *key: str) -> str:
    """Path of a file of a derived table; different for different keys, and never that of a part.

    Args:
        table: which.
        key: whose rows it holds, two texts or more.
    """
    # No name of a text has an underscore.
    return f"{table}/{'_'.join(map(safe_name, key))}.parquet"


def is_derived(path: str) -> bool:
    """Tells whether a path is one that a file of a derived table may have, or the one that holds its schema."""
    table, _, name = path.partition("/")
    return table in DERIVED and (_DERIVED.fullmatch(name) is not None or path == part(table, 0))


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
    return name if dot and suffix == "arrow" and _UNIT_ID.fullmatch(name) and unit(name) == path else None


def is_usage(unit_id: str) -> bool:
    """Tells whether what is committed under a name says what workers' time went into."""
    return unit_id.startswith(USAGE_PREFIX)


def is_unit_id(text: str) -> bool:
    """Tells whether a text may be the id of a unit."""
    return _UNIT_ID.fullmatch(text) is not None


def is_delta(path: str) -> bool:
    """Tells whether a path is one that weights of an edit may have; tables say where they are, and may say anything."""
    return _DELTA.fullmatch(path) is not None


def is_own(path: str) -> bool:
    """Tells whether a path is one that results have a file at; what lies elsewhere is somebody else's."""
    folder = path.rpartition("/")[0]
    numbered = {PLANS: plan, MANIFESTS: manifest, PUBLISHED: published}
    if folder in numbered:
        return bool(numbers([path], numbered[folder]))
    if path in (SWEEP, RESOLVED, IN_FLIGHT, LEASE, MARKER, PROGRESS, CONTROL, REPORT, TABLE_FILES):
        return True
    if unit_of(path) is not None:
        return True
    return any(parts(name, [path]) for name in parted()) or is_derived(path) or is_delta(path)


def is_read_with(path: str) -> bool:
    """Tells whether who reads the folder of a table with pandas, say, reads this file of it, too.

    Readers of Parquet pass over files and folders whose names begin with a dot or an underscore. A bucket may hold keys
    with two slashes in a row, which are no files to most of them.
    """
    table, *below = path.split("/")
    return (
        table in (*parted(), *DERIVED)
        and path.endswith(".parquet")
        and not any(part[:1] in ("", ".", "_") for part in below)
    )
