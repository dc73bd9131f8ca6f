"""How far a sweep is, told from storage alone."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from loco_core.errors import StoreError
from orchestrator.plan import CELL_KEY
from orchestrator.stages.committed import committed_rows, published_units
from orchestrator.stages.failures import REASON_COLUMNS, FailureKind, failure_kinds
from orchestrator.stages.localize import main_rows
from orchestrator.stages.sweep import failed_keys, planned_units
from orchestrator.store import DamagedFileError, Store, check_whole, decode_document
from orchestrator.store.layout import PROGRESS

logger = logging.getLogger(__name__)
_SHOWN = {"workers", "pending", "rate", "left", "eta_seconds", "retries", "losses", "written_at"}


@dataclass(frozen=True)
class BlockStatus:
    """One attribute of one model.

    Attributes:
        units: planned.
        units_done: committed.
        ok: committed cells with a valid image.
        invalid: committed cells without one.
        failed: cells that could not be made.
        outcome: of the localization that edits follow, if there is one.
    """

    model: str
    attribute: str
    units: int
    units_done: int
    ok: int
    invalid: int
    failed: int
    outcome: str | None
    window_start: int | None
    window_size: int | None


@dataclass(frozen=True)
class SweepStatus:
    """A whole sweep.

    Attributes:
        units: of the sweep, planned.
        units_done: committed.
        worker_hours: of workers in these units, all together.
        worker_hours_at_end: at the pace so far; None before anything is done.
        progress: what the driver wrote last of its workers, its pace and its losses, with ``written_at``; None where
            none has written yet.
        blocks: its attributes, by model.
        failed: why cells have no score.
    """

    name: str
    sweep_id: str
    units: int
    units_done: int
    worker_hours: float
    worker_hours_at_end: float | None
    progress: dict[str, Any] | None
    blocks: tuple[BlockStatus, ...]
    failed: tuple[FailureKind, ...] = ()


def survey(store: Store) -> SweepStatus:
    """Reads how far a sweep is.

    Raises:
        StoreError: the root holds no sweep.
    """
    spec, sweep_id = store.sweep(), store.sweep_id()
    if spec is None or sweep_id is None:
        raise StoreError(f"{store.root}: holds no sweep")
    check_whole(store)
    units = planned_units(store)
    # Other files in the folder of units are of edits and traces, or somebody's copies.
    committed = store.committed() & {unit.unit_id for unit in units}
    planned = Counter((unit.model, unit.attribute) for unit in units)
    done = Counter((unit.model, unit.attribute) for unit in units if unit.unit_id in committed)
    published = published_units(store)
    scores = committed_rows(store, "scores", [*CELL_KEY, "status", "seconds"], published, committed)
    failures = committed_rows(store, "failures", REASON_COLUMNS, published, committed)
    cells = Counter(zip(*(scores[name].to_pylist() for name in ("model", "attribute", "status")), strict=True))
    open_ = failed_keys(scores, failures)
    failed = Counter((key[0], key[1]) for key in open_)
    found = {(row["model"], row["attribute"]): row for row in main_rows(store.read("localizations")).to_pylist()}
    blocks = tuple(
        BlockStatus(
            *block, planned[block], done[block], cells[(*block, "ok")], cells[(*block, "invalid")], failed[block],
            *(found.get(block, {}).get(name) for name in ("outcome", "window_start", "window_size")),
        )
        for block in sorted(planned)
    )  # fmt: skip
    hours = (pc.sum(scores["seconds"]).as_py() or 0.0) / 3600
    finished = sum(done.values())
    return SweepStatus(
        spec.name, sweep_id, len(units), finished, hours, hours * len(units) / finished if finished else None,
        _progress(store), blocks, failure_kinds(scores, failures, open_),
    )  # fmt: skip


def _progress(store: Store) -> dict[str, Any] | None:
    """Returns what the driver wrote last; what is damaged counts as none, since the units tell how far it is."""
    found = store.blobs.read_versioned(PROGRESS)
    try:
        written = decode_document(found.data, f"{store.root}/{PROGRESS}") if found else None
    except DamagedFileError as error:
        logger.warning("the pace of the driver is not known: %s", error)
        return None
    return written if written and written.keys() >= _SHOWN else None
