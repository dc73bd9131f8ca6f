"""How far a sweep is, from storage alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow.compute as pc

from loco_core.errors import StoreError
from orchestrator.runs.control import control_of
from orchestrator.runs.failures import REASON_COLUMNS, FailureKind, kinds_of
from orchestrator.runs.recorded import written_progress
from orchestrator.runs.usage import Usage, projected, spent
from orchestrator.scheduler.progress import Outcome
from orchestrator.spec import SweepSpec
from orchestrator.stages.localize import main_rows
from orchestrator.stages.registry import tables_by_stage
from orchestrator.stages.sweep.planned import Plan
from orchestrator.stages.sweep.rows import CELL_KEY
from orchestrator.stages.sweep.stored import failed_cells, of_cells, planned
from orchestrator.store import Store, check_whole
from orchestrator.store.layout import is_usage
from orchestrator.store.lease import DriverState, driver_state
from orchestrator.store.reads import committed_rows, published_units


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
class StageStatus:
    """The units of one kind of work.

    Attributes:
        stage: name of the kind: ``sweep``, ``trace``, ``edit`` (trials of ``tune`` are edits, too), ``probe``, or that
            of one that is installed beside this project.
        units: those that are known: of the sweep as planned, of others committed or, when the driver wrote last, left.
        units_done: committed.
    """

    stage: str
    units: int
    units_done: int


@dataclass(frozen=True)
class SweepStatus:
    """A whole sweep.

    Attributes:
        units: of all kinds of work, as far as they are known.
        units_done: committed.
        usage: hours of workers so far, of all commands on these results, by model, device and price.
        usage_at_end: the same when what is planned is done, at the pace so far; None before anything is done.
        hours: hours in which there was any worker.
        driver: whether a command is at work.
        progress: what the driver at work wrote last of its workers, its pace and its losses, with ``written_at``; None
            where none is at work, or it has written nothing yet.
        outcome: how the last command that computed ended; None where it goes on, or where it was killed.
        stages: the units by kind of work.
        blocks: its attributes, by model.
        failed: why cells have no score.
        most_workers: how many workers were asked for by `scale`; None where nobody did.
        paused: whether it was paused, and not resumed.
    """

    name: str
    sweep_id: str
    units: int
    units_done: int
    usage: tuple[Usage, ...]
    usage_at_end: tuple[Usage, ...] | None
    hours: float
    driver: DriverState
    progress: dict[str, Any] | None
    outcome: Outcome | None
    stages: tuple[StageStatus, ...]
    blocks: tuple[BlockStatus, ...]
    failed: tuple[FailureKind, ...] = ()
    most_workers: int | None = None
    paused: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left of what is planned: a command that ended well may have had other work to do."""
        return self.outcome == "done" and self.units_done >= self.units


def survey(store: Store, now: datetime | None = None) -> SweepStatus:
    """Reads how far a sweep is.

    Args:
        store: the results.
        now: the time; None is that of the clock.

    Raises:
        StoreError: the root holds no sweep.
    """
    spec, sweep_id = store.sweep(), store.sweep_id()
    if spec is None or sweep_id is None:
        raise StoreError(f"{store.root}: holds no sweep")
    check_whole(store)
    units = planned(store, spec.generation.steps)
    # Asked before units are listed: what a driver commits meanwhile must not count as left by a dead one.
    driver = driver_state(store.blobs, now or datetime.now(UTC))
    written, asked = written_progress(store.blobs), control_of(store)
    # Other files in the folder of units are of other kinds of work, or somebody's copies.
    everything = store.all_committed()
    files = frozenset(name for name in everything if not is_usage(name))
    committed = files & set(units.unit_ids)
    counts, done = _by_block(units), _by_block(units.with_ids(committed))
    published = published_units(store)
    failures = of_cells(committed_rows(store, "failures", REASON_COLUMNS, published, committed))
    keys = CELL_KEY if failures.num_rows else ["model", "attribute"]
    scores = committed_rows(store, "scores", [*keys, "status"], published, committed)
    said = ["model", "attribute", "status"]
    cells = {
        tuple(row[name] for name in said): row["count_all"]
        for row in scores.group_by(said).aggregate([([], "count_all")]).to_pylist()
    }
    open_ = failed_cells(scores, failures)
    failed = {
        (row["model"], row["attribute"]): row["count_all"]
        for row in open_.group_by(said[:2]).aggregate([([], "count_all")]).to_pylist()
    }
    found = {(row["model"], row["attribute"]): row for row in main_rows(store.read("localizations")).to_pylist()}
    blocks = tuple(
        BlockStatus(
            *block, counts[block], done.get(block, 0), cells.get((*block, "ok"), 0), cells.get((*block, "invalid"), 0),
            failed.get(block, 0),
            *(found.get(block, {}).get(name) for name in ("outcome", "window_start", "window_size")),
        )
        for block in sorted(counts)
    )  # fmt: skip
    used = spent(store, published, everything)
    finished = sum(done.values())
    stages = (
        StageStatus("sweep", len(units), finished),
        *_other_stages(store, published, files - committed, written),
    )
    return SweepStatus(
        spec.name, sweep_id, sum(item.units for item in stages), sum(item.units_done for item in stages),
        used.usage, projected(used.usage, _expected(units, committed), _gpus(spec)), used.hours,
        driver, _of_driver(written, driver), written["outcome"] if written else None, stages, blocks, kinds_of(open_),
        asked.workers, asked.paused,
    )  # fmt: skip


def _other_stages(
    store: Store, published: Mapping[str, int], committed: frozenset[str], written: Mapping[str, Any] | None
) -> list[StageStatus]:
    """Returns kinds of work whose units stand in no plan file: those committed, and those left when a driver wrote."""
    known = written["stages"] if written else {}
    found = []
    for stage, tables in tables_by_stage().items():
        done = {
            unit
            for table in tables
            for unit in pc.unique(committed_rows(store, table, [], published, committed)["unit_id"]).to_pylist()
        }
        left = known.get(stage, {}).get("left", 0)
        if done or left:
            found.append(StageStatus(stage, len(done) + left, len(done)))
    return found


def _of_driver(written: dict[str, Any] | None, driver: DriverState) -> dict[str, Any] | None:
    """Returns progress where it is that of a driver at work: that of one before says nothing any more."""
    if written is None or not driver.works:
        return None
    return written if driver.since is None or datetime.fromisoformat(written["written_at"]) >= driver.since else None


def _expected(units: Plan, committed: frozenset[str]) -> dict[str, tuple[float, float]]:
    """Returns the expected seconds of units that are done, and of all, by model."""
    of_all, of_done = units.seconds_by_model(), units.with_ids(committed).seconds_by_model()
    return {model: (of_done.get(model, 0.0), seconds) for model, seconds in of_all.items()}


def _gpus(spec: SweepSpec) -> dict[str, int | None]:
    return {model.id: model.worker.gpus for model in spec.models}


def _by_block(units: Plan) -> dict[tuple[str, str], int]:
    return {key: len(units.rows_of(*key)) for key in units.model_attributes}
