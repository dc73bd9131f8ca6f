"""One run of a sweep from its spec to its tables: what the ``run`` command does, without a terminal."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loco_core.localizers import Localization
from loco_core.power import Reach, reach
from orchestrator.batch_sizes import probes, with_batch_sizes
from orchestrator.counting import count, counted
from orchestrator.edit_summary import EditSummary, summarize
from orchestrator.editable import check_records
from orchestrator.plan import CELL_KEY, PlannedUnit, sweep_id, windows
from orchestrator.resolve import Resolved, check_methods, resolve
from orchestrator.scheduler.loop import Progress, RunSummary, StopSwitch
from orchestrator.scheduler.protocol import Backend
from orchestrator.session import (
    Controls,
    absolute,
    begin,
    drive,
    is_planned_otherwise,
    kept_seeds,
    measure_batches,
    pinned_names,
    worker_settings,
)
from orchestrator.spec import SweepSpec
from orchestrator.stages.chain import Chain
from orchestrator.stages.failures import FailureKind, failure_kinds
from orchestrator.stages.sweep import (
    add_plan,
    beginnings,
    failed_keys,
    missing_units,
    planned_units,
    units_again,
)
from orchestrator.stages.trace import committed_traces
from orchestrator.store import Publisher, Store, check_whole, encode_document, leased, open_store, preflight
from orchestrator.store.layout import RESOLVED
from orchestrator.trace_plan import PAIR, Pair, count_traces, methods, pair_of
from orchestrator.worker import WorkerSettings

# Measured on the bundled sweep: score, embedding and plan rows of a cell, compressed.
BYTES_PER_CELL = 1_500


@dataclass(frozen=True)
class Outlook:
    """What a run would do.

    Attributes:
        units: units that remain.
        images: images that they generate, clean and donor images of every unit and those of traces included.
        cells: cells that they score.
        seconds: of work, by the cost table, on one worker of the slowest kind.
        reach: what the sweep can show, of the model with most windows.
        guessed_batches: models whose batch size the run measures first, so that the number of units is a guess.
        most_cells: with a localizer that begins small: how many cells it may ask for in all, complements aside; else
            None.
        unedited: why attributes are not edited though the sweep edits, a sentence each.
    """

    units: int
    images: int
    cells: int
    seconds: float
    reach: Reach
    guessed_batches: tuple[str, ...]
    most_cells: int | None
    unedited: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResult:
    """How a run ended, what was localized, what edits did on the ``report`` split, and why cells have no score."""

    summary: RunSummary
    localizations: tuple[Localization, ...]
    edits: tuple[EditSummary, ...]
    failed: tuple[FailureKind, ...]

    @property
    def failed_cells(self) -> int:
        """How many cells have no score, of this run or an earlier one."""
        return sum(kind.cells for kind in self.failed)


def outlook(spec: SweepSpec, resolved: Resolved, root: str | None) -> Outlook:
    """Says what a run would do; writes nothing.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        root: results of earlier runs, if there may be any.

    Raises:
        SpecError: these results cannot go on with this spec, or none of the models admits an edit that it asks for.
    """
    check_methods(spec, resolved)
    unedited = check_records(spec, resolved.attributes)
    known: list[PlannedUnit] = []
    committed: frozenset[str] = frozenset()
    traced: set[Pair] = set()
    if root is not None and ("://" in root or Path(root).is_dir()):
        store = open_store(root)
        store.check_sweep(sweep_id(spec), spec)
        check_whole(store)
        pinned_names(store, resolved)
        resolved = with_batch_sizes(store, spec, resolved)
        known, committed = [] if is_planned_otherwise(store, resolved) else planned_units(store), store.committed()
        if methods(spec):
            traced = {pair_of(row) for row in committed_traces(store, PAIR).to_pylist()}
    begun = beginnings(spec, resolved)
    if known:
        units = [unit for unit in known if unit.unit_id not in committed] + missing_units(spec, resolved, known)
        left = counted(units)
    else:
        left = count(spec, resolved, begun)
    left += count_traces(spec, resolved, traced)
    return Outlook(
        unedited=unedited,
        units=left.units,
        images=left.images,
        cells=left.cells,
        seconds=left.seconds,
        reach=reach(
            spec.prompts,
            len(spec.seeds),
            max(len(windows(spec, model.n_sites)) for model in resolved.models),
            spec.localize.threshold,
            spec.localize.confidence,
        ),
        guessed_batches=tuple(unit.model for unit in probes(spec, resolved)),
        most_cells=None if begun is None else count(spec, resolved).cells,
    )


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
    root = absolute(root)
    resolved, store, identity = resolve(spec), open_store(root), sweep_id(spec)
    check_methods(spec, resolved)
    check_records(spec, resolved.attributes)
    with leased(store) as lease:
        store.blobs.clean()
        # All that can refuse comes before anything is written: a refused spec must not stand in the way of the next.
        store.check_sweep(identity, spec)
        check_whole(store)
        pinned = begin(store, resolved)
        controls = Controls(make_backend, on_progress, stop, max_failures)
        resolved = with_batch_sizes(store, spec, resolved)
        if wanted := probes(spec, resolved):
            marker = preflight(store.blobs)
            # Workers want to see a sweep where they are sent.
            store.record_sweep(identity, spec, uuid.uuid4().hex)
            settings = worker_settings(root, identity, spec, resolved, marker)
            summary = measure_batches(resolved, wanted, settings, lease, controls)
            if summary.outcome != "done":
                return RunResult(summary, (), (), ())
            resolved = with_batch_sizes(store, spec, resolved)
        known, new = planned_units(store), []
        if retry:
            new = _retried(store, spec, resolved, known)
        new += missing_units(spec, resolved, [*known, *new])
        committed = store.committed()
        left = [unit for unit in known if unit.unit_id not in committed] + new
        marker = preflight(store.blobs, _needed_bytes(spec, resolved, left))
        store.record_sweep(identity, spec, uuid.uuid4().hex)
        store.blobs.replace(RESOLVED, encode_document(pinned))
        add_plan(store, new)
        chain = Chain(store, spec, resolved, identity, [*known, *new], on_localized)
        settings = worker_settings(root, identity, spec, resolved, marker)
        summary = drive(store, chain, settings, lease, controls)
        failures = store.read("failures")
        failed = failure_kinds(store.read_columns("scores", CELL_KEY), failures) if failures.num_rows else ()
    found = chain.tables.main
    edits = summarize(store.read("edits").to_pylist(), store.read("evaluations").to_pylist()) if spec.edit else []
    return RunResult(summary, found, tuple(edits), failed)


def _retried(store: Store, spec: SweepSpec, resolved: Resolved, known: Sequence[PlannedUnit]) -> list[PlannedUnit]:
    """Plans cells that failed once more, those that the localizer asked for included."""
    Publisher(store).publish(flush=True)
    waiting = {unit.unit_id for unit in known} - store.committed()
    pending = {row.key for unit in known if unit.unit_id in waiting for row in unit.rows if row.emit}
    failures = store.read("failures")
    failed = failed_keys(store.read_columns("scores", CELL_KEY), failures) - pending if failures.num_rows else set()
    round_ = len(store.plans())
    return units_again(spec, resolved, known, failed, round_)


def _needed_bytes(spec: SweepSpec, resolved: Resolved, units: Sequence[PlannedUnit]) -> int:
    """Returns the room that units will take; an image twice, in its unit and in a published part."""
    rows = [row for unit in units for row in unit.rows if row.emit]
    seeds = kept_seeds(spec)
    kept = sum(row.seed in seeds for row in rows)
    pixels = max(model.pixels(spec.generation.settings) for model in resolved.models)
    # A PNG takes about half of its pixels' bytes.
    return len(rows) * BYTES_PER_CELL + 2 * kept * pixels * 3 // 2
