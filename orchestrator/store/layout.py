"""Where things lie under a results root. Folders that people read hold Parquet only; all else is under ``_meta/``."""

from __future__ import annotations

import re
from collections.abc import Iterable

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

_UNIT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


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


def folder(table: str) -> str:
    """Folder of a table. ``fits`` is not for people: ``edits`` holds its rows, with what was chosen."""
    return "_meta/fits" if table == "fits" else table


def part(table: str, number: int) -> str:
    """Path of a part of a table; number 0 holds the schema and no rows."""
    return f"{folder(table)}/part-{number:05d}.parquet"


def derived(table: str) -> str:
    """Path of a derived table."""
    return f"{table}/{table}.parquet"


def numbers(paths: Iterable[str]) -> dict[int, str]:
    """Returns the paths of numbered files by number, in order; files of other names are passed over."""
    return {int(stem(path)): path for path in sorted(paths) if stem(path).isdecimal()}


def stem(path: str) -> str:
    """Name of a file without folder and suffix, e.g. a unit's id."""
    return path.rpartition("/")[2].partition(".")[0]
