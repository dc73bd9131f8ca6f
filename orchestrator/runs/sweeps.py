"""All sweeps below a place, from few reads each: which there are, how far each is, and whether a driver is at work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from loco_core.errors import StoreError
from orchestrator.runs.recorded import written_progress
from orchestrator.store import DamagedFileError, decode_document, layout
from orchestrator.store.blobs import Blobs
from orchestrator.store.lease import state_of

State = Literal["running", "paused", "died", "done", "failed", "stopped", "new", "damaged"]
DEPTH = 4
"""How many folders deep sweeps are looked for."""
THREADS = 16
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundSweep:
    """A sweep, as its driver wrote last.

    Attributes:
        place: folder below the place that was looked through; ``.`` for the place itself.
        name: name of the sweep; None where its file is damaged.
        state: ``running``; ``paused``; ``died`` (the driver was killed, or its machine is gone); ``done``; ``failed``
            (done, but units or cells failed); ``stopped``; ``new`` (nothing was computed yet); ``damaged`` (its file
            cannot be read).
        units_done: units committed, of all kinds of work; None where nothing says it.
        units_left: units left, as far as they are known.
        failed: cells without a score when the last run ended; as long as that is not known, the units it gave up.
        seen: when its driver was seen last.
        gpu_hours: GPU hours so far; hours of workers where they have none.
        cost: what they cost, where the driver was given a price.
    """

    place: str
    name: str | None
    state: State
    units_done: int | None = None
    units_left: int | None = None
    failed: int | None = None
    seen: datetime | None = None
    gpu_hours: float | None = None
    cost: float | None = None


def sweeps_below(blobs: Blobs, now: datetime) -> list[FoundSweep]:
    """Looks for sweeps; three reads per sweep, and two requests per other folder.

    Args:
        blobs: the place.
        now: the time, with which the times of leases are compared.

    Returns:
        the sweeps, by place.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found, folders = list[FoundSweep](), [""]
        for depth in range(DEPTH + 1):
            looked = pool.map(partial(_look, blobs, now, deeper=depth < DEPTH), folders)
            folders = []
            for item in looked:
                if isinstance(item, FoundSweep):
                    found.append(item)
                else:
                    folders += item
    return sorted(found, key=lambda item: item.place)


def _look(blobs: Blobs, now: datetime, folder: str, *, deeper: bool) -> FoundSweep | list[str]:
    """Returns the sweep in a folder, or the folders in which to look next."""
    try:
        sweep = blobs.read_versioned(_in(folder, layout.SWEEP))
        if sweep is not None:
            return _found(blobs, folder, sweep.data, now)
        return [path for path in blobs.folders(folder) if _may_hold(path)] if deeper else []
    except StoreError as error:
        if not folder:
            raise
        logger.warning("%s is passed over: %s", folder, error)
        return []


def _may_hold(path: str) -> bool:
    return path.rpartition("/")[2][:1] not in (".", "_")


def _in(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path


def _found(blobs: Blobs, folder: str, sweep: bytes, now: datetime) -> FoundSweep:
    place = folder or "."
    try:
        name = str(decode_document(sweep, place)["spec"]["name"])
    except (DamagedFileError, KeyError, TypeError):
        return FoundSweep(place, None, "damaged")
    driver = state_of(blobs.read_versioned(_in(folder, layout.LEASE)), now)
    written = written_progress(blobs, folder)
    seen = now if driver.works else driver.stopped
    if written is None:
        return FoundSweep(place, name, "running" if driver.works else "died" if driver.died else "new", seen=seen)
    left = sum(counts["left"] for counts in written["stages"].values())
    failed = written.get("failed_cells") or written["failed"]
    state: State = _ended(written, left, failed)
    if driver.works or driver.died:
        state = "died" if driver.died else "paused" if written.get("limit") == 0 else "running"
    used = written.get("gpu_hours"), written.get("cost")
    return FoundSweep(place, name, state, written.get("units_done"), left, failed, seen, *used)


def _ended(written: dict[str, Any], left: int, failed: int) -> State:
    if written["outcome"] != "done" or left:
        return "stopped"
    return "failed" if failed else "done"


def listing(root: str) -> Iterator[FoundSweep]:
    """Yields the sweeps below a place.

    Args:
        root: a folder, or ``s3://bucket/folder``.

    Raises:
        StoreError: there is no such place.
    """
    from orchestrator.store.opening import open_blobs

    yield from sweeps_below(open_blobs(root, create=False), datetime.now(UTC))
