"""How far a sweep is, told from storage alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.errors import StoreError
from orchestrator.plan import CELL_KEY
from orchestrator.stages.localize import main_rows
from orchestrator.stages.sweep import failed_keys, planned_units
from orchestrator.store import Store, decode_document, layout
from orchestrator.store.layout import PROGRESS


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
    """

    name: str
    sweep_id: str
    units: int
    units_done: int
    worker_hours: float
    worker_hours_at_end: float | None
    progress: dict[str, Any] | None
    blocks: tuple[BlockStatus, ...]


def survey(store: Store) -> SweepStatus:
    """Reads how far a sweep is.

    Raises:
        StoreError: the root holds no sweep.
    """
    spec, sweep_id = store.sweep(), store.sweep_id()
    if spec is None or sweep_id is None:
        raise StoreError(f"{store.root}: holds no sweep")
    units, committed = planned_units(store), store.committed()
    planned = Counter((unit.model, unit.attribute) for unit in units)
    done = Counter((unit.model, unit.attribute) for unit in units if unit.unit_id in committed)
    published = _published(store)
    scores = _both(store, "scores", [*CELL_KEY, "status", "seconds"], published, committed)
    failures = _both(store, "failures", [*CELL_KEY, "cell_id"], published, committed)
    cells = Counter(zip(*(scores[name].to_pylist() for name in ("model", "attribute", "status")), strict=True))
    failed = Counter((key[0], key[1]) for key in failed_keys(scores, failures))
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
    written = store.blobs.read_versioned(PROGRESS)
    return SweepStatus(
        spec.name, sweep_id, len(units), finished, hours, hours * len(units) / finished if finished else None,
        decode_document(written.data, PROGRESS) if written else None, blocks,
    )  # fmt: skip


def _published(store: Store) -> frozenset[str]:
    """Returns the units of parts that are complete."""
    complete = layout.numbers(store.blobs.list(layout.PUBLISHED))
    manifests = layout.numbers(store.blobs.list(layout.MANIFESTS))
    paths = [path for number, path in manifests.items() if number in complete]
    return frozenset(unit for path in paths for unit in decode_document(store.blobs.read(path), path)["units"])


def _both(
    store: Store, table: str, columns: Sequence[str], published: frozenset[str], committed: frozenset[str]
) -> pa.Table:
    """Returns columns of what is published and of units that are not yet."""
    names = list(dict.fromkeys([*columns, "unit_id"]))
    there = store.read_columns(table, names)
    # A part that is being written shows some of its files.
    there = there.filter(pc.is_in(there["unit_id"], pa.array(sorted(published), pa.string())))
    pending = store.read_units(sorted(committed - published), table).select(names)
    return pa.concat_tables([there, pending])
