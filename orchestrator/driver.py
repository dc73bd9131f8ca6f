"""One run of a sweep from its spec to its tables: what the ``run`` command does, without a terminal."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loco_core.errors import SpecError
from loco_core.localizers import Localization
from orchestrator.plan import CELL_KEY, PlannedUnit, cell_key, plan, sweep_id
from orchestrator.resolve import Resolved, resolve
from orchestrator.scheduler.loop import Patience, Progress, RunSummary, StopSwitch, run_units
from orchestrator.scheduler.protocol import Backend
from orchestrator.spec import SweepSpec
from orchestrator.stages import RESOLVED
from orchestrator.stages.sweep import StoreJournal, SweepStage, extend_plan, planned_units
from orchestrator.store import Lease, LeaseLostError, Publisher, Store, open_store, preflight
from orchestrator.worker import REPORT_SEEDS, WorkerSettings

# Measured on the bundled sweep: score, embedding and plan rows of a cell, compressed.
BYTES_PER_CELL = 1_500


@dataclass(frozen=True)
class Outlook:
    """What a run would do.

    Attributes:
        units: units that remain.
        images: images that they generate, clean and donor images of every unit included.
        cells: cells that they score.
        seconds: of work, by the cost table, on one worker of the slowest kind.
        minimum_detectable_effect: see :func:`minimum_detectable_effect`.
    """

    units: int
    images: int
    cells: int
    seconds: float
    minimum_detectable_effect: float


@dataclass(frozen=True)
class RunResult:
    """How a run ended, and what was localized."""

    summary: RunSummary
    localizations: tuple[Localization, ...]
    failed_cells: int


def outlook(spec: SweepSpec, resolved: Resolved, root: str | None) -> Outlook:
    """Says what a run would do; writes nothing.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        root: results of earlier runs, if there may be any.
    """
    known: list[PlannedUnit] = []
    committed: frozenset[str] = frozenset()
    if root is not None and ("://" in root or Path(root).is_dir()):
        store = open_store(root, create=False)
        known, committed = planned_units(store), store.committed()
    planned = {row.key for unit in known for row in unit.rows if row.emit}
    units = [u for u in known if u.unit_id not in committed] + plan(spec, resolved, planned, first_order=len(known))
    return Outlook(
        units=len(units),
        images=sum(len({row.image_id for row in unit.rows}) for unit in units),
        cells=sum(row.emit for unit in units for row in unit.rows),
        seconds=sum(unit.expected_seconds for unit in units),
        minimum_detectable_effect=minimum_detectable_effect(spec.prompts, len(spec.seeds)),
    )


# Standard deviation of a window's paired effect over prompts, over seeds, and of the rest, in units of the full effect.
PROMPT_SD, SEED_SD, REST_SD = 0.15, 0.08, 0.25


def minimum_detectable_effect(prompts: int, seeds: int) -> float:
    """Returns the smallest difference from the threshold that this many prompts and seeds find with 80 % power.

    Two-way crossed design: the variance of a mean effect is prompt variance over prompts, seed variance over seeds, and
    the rest over both; 2.8 standard errors are a two-sided test at 5 % with 80 % power.
    """
    variance = PROMPT_SD**2 / prompts + SEED_SD**2 / seeds + REST_SD**2 / (prompts * seeds)
    return float(2.8 * variance**0.5)


def run(
    spec: SweepSpec,
    root: str,
    make_backend: Callable[[WorkerSettings], Backend],
    *,
    on_progress: Callable[[Progress], None],
    on_localized: Callable[[Localization], None],
    stop: StopSwitch,
    max_failures: int | None = None,
    retry: bool = False,
) -> RunResult:
    """Runs what remains of a sweep.

    Args:
        spec: the sweep.
        root: results folder or ``s3://`` address.
        make_backend: starts workers.
        on_progress: told how far it is.
        on_localized: told what was localized.
        stop: pressed by signal handlers.
        max_failures: units that may be given up before the run stops.
        retry: plan failed cells again.

    Raises:
        LocoError: the spec does not fit the results, another driver is at work, or the results cannot be written.
    """
    resolved, store, identity = resolve(spec), open_store(root), sweep_id(spec)
    with _lease(store) as lease:
        store.blobs.clean()
        store.record_sweep(identity, spec, uuid.uuid4().hex)
        _freeze(store, resolved)
        if retry:
            _plan_retry(store, spec, resolved)
        stage = SweepStage(store, spec, resolved, identity, on_localized)
        marker = preflight(store.blobs, _needed_bytes(spec, resolved, stage.remaining))
        settings = WorkerSettings(root, identity, resolved, spec.generation.settings, spec.images, marker)
        backend = make_backend(settings)
        try:
            summary = run_units(
                backend, stage.derive, StoreJournal(store, identity, resolved), on_progress, stop,
                heartbeat=lambda: _renew(lease), max_failures=max_failures, patience=Patience(),
            )  # fmt: skip
            if summary.outcome != "lease_lost":
                stage.finish()
        finally:
            backend.shutdown()
        failed = len(failed_keys(store))
    found = tuple(stage.localizations[block] for block in sorted(stage.localizations))
    return RunResult(summary, found, failed)


def failed_keys(store: Store) -> set[tuple[object, ...]]:
    """Returns the keys of cells that failed and that no later attempt scored, among what is published."""
    failures = store.read("failures").select(CELL_KEY)
    if not failures.num_rows:
        return set()
    scored = {cell_key(row) for row in store.read("scores").select(CELL_KEY).to_pylist()}
    return {cell_key(row) for row in failures.to_pylist()} - scored


def _plan_retry(store: Store, spec: SweepSpec, resolved: Resolved) -> None:
    Publisher(store).publish(flush=True)
    known = planned_units(store)
    waiting = {unit.unit_id for unit in known} - store.committed()
    pending = {row.key for unit in known if unit.unit_id in waiting for row in unit.rows if row.emit}
    extend_plan(store, spec, resolved, known, forget=failed_keys(store) - pending, round_=len(store.plans()))


def _needed_bytes(spec: SweepSpec, resolved: Resolved, units: Sequence[PlannedUnit]) -> int:
    """Returns the room that units will take; an image twice, in its unit and in a published part."""
    rows = [row for unit in units for row in unit.rows if row.emit]
    kept = {"none": 0, "all": len(rows), "report": sum(row.seed < REPORT_SEEDS for row in rows)}[spec.images]
    native = max(model.native_side for model in resolved.models)
    pixels = (spec.generation.height or native) * (spec.generation.width or native)
    # A PNG takes about half of its pixels' bytes.
    return len(rows) * BYTES_PER_CELL + 2 * kept * pixels * 3 // 2


def _freeze(store: Store, resolved: Resolved) -> None:
    """Pins what names stand for; later runs may add models, but not find other weights under an old name.

    Raises:
        SpecError: the weights behind a name have changed since the results were begun.
    """
    found = store.blobs.read_versioned(RESOLVED)
    pinned: dict[str, Any] = (
        json.loads(found.data) if found else {"models": {}, "sites": {}, "scorer": resolved.scorer.weights}
    )
    for model in resolved.models:
        before = pinned["models"].setdefault(model.id, model.weights)
        pinned["sites"][model.id] = model.site_names
        if before != model.weights:
            raise SpecError(
                f"{store.root}: results of {model.id} were made with weights {before[:12]}, {model.path} now holds "
                f"{model.weights[:12]}; put the old weights back, or write to a new folder with --results"
            )
    if pinned["scorer"] != resolved.scorer.weights:
        raise SpecError(
            f"{store.root}: scores were made with scorer weights {pinned['scorer'][:12]}, {resolved.scorer.name} now "
            f"holds {resolved.scorer.weights[:12]}; put the old weights back, or write to a new folder with --results"
        )
    store.blobs.replace(RESOLVED, json.dumps(pinned, indent=1, sort_keys=True).encode())


@contextmanager
def _lease(store: Store) -> Iterator[Lease]:
    lease = Lease(store.blobs)
    lease.acquire()
    try:
        yield lease
    finally:
        lease.release()


def _renew(lease: Lease) -> bool:
    try:
        lease.renew()
    except LeaseLostError:
        return False
    return True
