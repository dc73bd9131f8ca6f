"""One run of a sweep from its spec to its tables: what the ``run`` command does, without a terminal."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loco_core.localization.base import Localization
from orchestrator.hooks.choice import makers_of
from orchestrator.hooks.events import RunEnd
from orchestrator.hooks.runner import Hooks, watching
from orchestrator.resolve.editable import check_records
from orchestrator.resolve.lookup import resolve
from orchestrator.resolve.options import check_methods
from orchestrator.resolve.resolved import Resolved
from orchestrator.runs.failures import REASON_COLUMNS, FailureKind, failure_kinds
from orchestrator.runs.metrics import write_metrics
from orchestrator.runs.session import (
    Controls,
    absolute,
    begin,
    check_texts,
    drive,
    each,
    kept_seeds,
    record_failed_cells,
    run_start,
    worker_settings,
)
from orchestrator.runs.usage import NO_PRICES
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.progress import Progress, RunSummary
from orchestrator.scheduler.protocol import Backend
from orchestrator.scheduler.side_work import SideWork
from orchestrator.spec import SweepSpec
from orchestrator.spec.budget import BudgetSpec, CostSpec
from orchestrator.stages.base import StageContext, sweep_id
from orchestrator.stages.chain import Chain, chain_of_sweep
from orchestrator.stages.edit.summary import EditSummary, summarize
from orchestrator.stages.localize import Tables
from orchestrator.stages.probe.plan import probes, with_batch_sizes
from orchestrator.stages.probe.stage import ProbeStage
from orchestrator.stages.sweep.plan import plan, plan_again
from orchestrator.stages.sweep.planned import EMPTY, Plan
from orchestrator.stages.sweep.rows import CELL_KEY
from orchestrator.stages.sweep.stored import FAILURE_COLUMNS, add_plan, failed_cells, failed_units, of_cells, planned
from orchestrator.stages.sweep.variants import beginnings
from orchestrator.store import Publisher, Store, check_whole, encode_document, leased, open_store, preflight
from orchestrator.store.layout import RESOLVED
from orchestrator.worker import WorkerSettings

# Measured on the bundled sweep: score, embedding and plan rows of a cell, compressed.
BYTES_PER_CELL = 1_500


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


def run_sweep(
    spec: SweepSpec,
    root: str,
    make_backend: Callable[[WorkerSettings], Backend],
    *,
    on_progress: Callable[[Progress], None],
    on_localized: Callable[[Localization], None],
    stop: StopSwitch,
    max_failures: int | None = None,
    retry: bool = False,
    prices: CostSpec = NO_PRICES,
    budget: BudgetSpec | None = None,
    store: Store | None = None,
    resolved: Resolved | None = None,
) -> RunResult:
    """Runs what remains of a sweep.

    Args:
        spec: the sweep.
        root: results folder or ``s3://`` address.
        make_backend: starts workers.
        on_progress: called with how far it is.
        on_localized: called with what was localized.
        stop: pressed by signal handlers.
        max_failures: units that may be given up before the run stops.
        retry: plan failed cells again.
        prices: prices of GPUs.
        budget: how much all runs of the sweep may use before this one stops; None is no limit.
        store: the results, opened; None opens what `root` names.
        resolved: the sweep with its names looked up; None looks them up.

    Raises:
        LocoError: the spec does not fit the results, another driver is at work, or the results cannot be written.
    """
    root = absolute(root)
    resolved, identity = resolved or resolve(spec), sweep_id(spec)
    check_methods(spec, resolved)
    check_records(spec, resolved.attributes)
    with watching(makers_of(spec)) as hooks, leased(store or open_store(root)) as held:
        store = held.store
        store.blobs.clean()
        # All that can refuse comes before anything is written: a refused spec must not stand in the way of the next.
        store.check_sweep(identity, spec)
        check_whole(store)
        pinned = begin(store, resolved)
        known = planned(store, spec.generation.steps)
        check_texts(store.root, known, resolved.attributes)
        hooks.start(run_start(spec, resolved, root, "run", held.died))
        controls = Controls(make_backend, each(on_progress, hooks.progress), stop, max_failures, prices, budget)
        resolved = with_batch_sizes(store, spec, resolved)
        if wanted := probes(spec, resolved):
            marker = preflight(store.blobs)
            # Workers want to see a sweep where they are sent.
            store.record_sweep(identity, spec, uuid.uuid4().hex)
            settings = worker_settings(root, identity, spec, resolved, marker)
            summary = drive(held, Chain(store, [ProbeStage(wanted)], SideWork(), hooks.settled), settings, controls)
            if summary.outcome != "done":
                return told(hooks, RunResult(summary, (), (), ()))
            resolved = with_batch_sizes(store, spec, resolved)
        new = _retried(store, spec, resolved, known) if retry else EMPTY
        new += plan(spec, resolved, known + new, requests=beginnings(spec, resolved))
        left = known.without(store.committed()) + new
        marker = preflight(store.blobs, _needed_bytes(spec, resolved, left))
        store.record_sweep(identity, spec, uuid.uuid4().hex)
        store.blobs.replace(RESOLVED, encode_document(pinned))
        add_plan(store, new)
        tables = Tables(store, identity, spec.localize)
        on_edited = hooks.edited if hooks.active else None
        context = StageContext(store=store, spec=spec, resolved=resolved, sweep_id=identity, on_edited=on_edited)
        chain = chain_of_sweep(context, known + new, tables, each(on_localized, hooks.localized), hooks.settled)
        settings = worker_settings(root, identity, spec, resolved, marker)
        summary = drive(held, chain, settings, controls, before=len(store.committed()))
        failures = of_cells(store.read_columns("failures", REASON_COLUMNS))
        failed = failure_kinds(store.read_columns("scores", CELL_KEY), failures) if failures.num_rows else ()
        if failed and summary.outcome != "lease_lost":
            record_failed_cells(store, sum(kind.cells for kind in failed))
        if summary.outcome != "lease_lost":
            write_metrics(store, resolved)
        edits = list[EditSummary]()
        if spec.edit:
            rows = store.read("evaluations").to_pylist()
            edits = summarize(store.read("edits").to_pylist(), rows, judge=resolved.judge_id)
        return told(hooks, RunResult(summary, tables.main, tuple(edits), failed))


def told(hooks: Hooks, result: RunResult) -> RunResult:
    """Returns how a run ended, and says it to its hooks."""
    hooks.end(
        lambda seconds, progress: RunEnd(
            result.summary.outcome, None, seconds, progress, result.failed_cells, result.localizations, result.edits
        )
    )
    return result


def _retried(store: Store, spec: SweepSpec, resolved: Resolved, known: Plan) -> Plan:
    """Plans cells that failed once more, those that the localizer asked for included."""
    Publisher(store).publish(flush=True)
    failures = of_cells(store.read_columns("failures", FAILURE_COLUMNS))
    if not failures.num_rows:
        return EMPTY
    failed = failed_cells(store.read_columns("scores", CELL_KEY), failures)
    units = failed_units(failed, known, spec.generation.steps)
    waiting = known.without(store.committed())
    return plan_again(spec, resolved, units, waiting, known.next_order, store.next_plan())


def _needed_bytes(spec: SweepSpec, resolved: Resolved, units: Plan) -> int:
    """Returns the room that units will take; an image twice, in its unit and in a published part."""
    cells = units.column("cells")
    kept = int(cells[np.isin(units.column("seed"), list(kept_seeds(spec)))].sum())
    pixels = max(model.pixels(spec.generation.settings) for model in resolved.models)
    # A PNG takes about half of its pixels' bytes.
    return int(cells.sum()) * BYTES_PER_CELL + 2 * kept * pixels * 3 // 2
