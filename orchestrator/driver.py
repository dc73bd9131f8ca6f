"""One run of a sweep from its spec to its tables: what the ``run`` command does, without a terminal."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import special

from loco_core.errors import LocoError, SpecError
from loco_core.localizers import Localization
from loco_core.types import Window
from orchestrator.edit_summary import EditSummary, summarize
from orchestrator.plan import CELL_KEY, PlannedUnit, sweep_id, windows
from orchestrator.resolve import Resolved, resolve
from orchestrator.scheduler.loop import Patience, Progress, RunSummary, StopSwitch, run_units
from orchestrator.scheduler.protocol import Backend
from orchestrator.spec import SweepSpec
from orchestrator.stages.chain import Chain
from orchestrator.stages.sweep import StoreJournal, add_plan, failed_keys, missing_units, planned_units
from orchestrator.store import (
    Lease,
    LeaseLostError,
    Publisher,
    Store,
    decode_document,
    encode_document,
    open_store,
    preflight,
)
from orchestrator.store.layout import RESOLVED
from orchestrator.worker import WorkerSettings

# Measured on the bundled sweep: score, embedding and plan rows of a cell, compressed.
BYTES_PER_CELL = 1_500
# Which images `images: report` keeps: those of the sweep's first seeds.
REPORT_SEEDS = 2


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
    """How a run ended, what was localized, and what edits did on the ``report`` split."""

    summary: RunSummary
    localizations: tuple[Localization, ...]
    edits: tuple[EditSummary, ...]
    failed_cells: int


def outlook(spec: SweepSpec, resolved: Resolved, root: str | None) -> Outlook:
    """Says what a run would do; writes nothing.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        root: results of earlier runs, if there may be any.

    Raises:
        SpecError: these results cannot go on with this spec.
    """
    known: list[PlannedUnit] = []
    committed: frozenset[str] = frozenset()
    if root is not None and ("://" in root or Path(root).is_dir()):
        store = open_store(root)
        store.check_sweep(sweep_id(spec), spec)
        known, committed = planned_units(store), store.committed()
    units = [unit for unit in known if unit.unit_id not in committed] + missing_units(spec, resolved, known)
    return Outlook(
        units=len(units),
        images=sum(len({row.image_id for row in unit.rows}) for unit in units),
        cells=sum(row.emit for unit in units for row in unit.rows),
        seconds=sum(unit.expected_seconds for unit in units),
        minimum_detectable_effect=minimum_detectable_effect(
            spec.prompts,
            len(spec.seeds),
            max(len(windows(spec, model.n_sites)) for model in resolved.models),
            spec.localize.confidence,
        ),
    )


# Standard deviation of a window's effect over prompts, over seeds, and of the rest, in units of the full effect.
# Measured on planted models (8 prompts, 6 seeds) at windows with effects between 0.7 and 0.9; windows that remove
# everything vary a third as much.
PROMPT_SD, SEED_SD, REST_SD = 0.1, 0.1, 0.17


def minimum_detectable_effect(prompts: int, seeds: int, windows: int, confidence: float) -> float:
    """Returns how far above the threshold a window's effect must be to be shown to reach it, with 80 % power.

    Two-way crossed design: the variance of a mean effect is prompt variance over prompts, seed variance over seeds, and
    the rest over both. The bound is one-sided and holds for all windows together (here by Bonferroni, which the
    localizer's own bound is never wider than).
    """
    variance = PROMPT_SD**2 / prompts + SEED_SD**2 / seeds + REST_SD**2 / (prompts * seeds)
    errors = special.ndtri(1 - (1 - confidence) / windows) + special.ndtri(0.8)
    return float(errors * variance**0.5)


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
    root = root if "://" in root else str(Path(root).absolute())
    resolved, store, identity = resolve(spec), open_store(root), sweep_id(spec)
    with _lease(store) as lease:
        store.blobs.clean()
        # All that can refuse comes before anything is written: a refused spec must not stand in the way of the next.
        store.check_sweep(identity, spec)
        pinned = _pinned(store, resolved)
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
        settings = WorkerSettings(
            root, identity, resolved, spec.generation.settings, _kept_seeds(spec), marker, spec.evaluate.judge
        )
        backend = make_backend(settings)
        try:
            summary = run_units(
                backend, chain.derive, StoreJournal(store, identity, resolved), on_progress, stop,
                heartbeat=lease.alive, max_failures=max_failures, patience=Patience(),
            )  # fmt: skip
            if summary.outcome != "lease_lost":
                chain.finish()
        except LocoError:
            # What is committed is published whatever went wrong, unless the folder is another driver's now.
            if lease.alive():
                chain.finish()
            raise
        finally:
            backend.shutdown()
        failed = len(failed_keys(store.read("scores"), store.read("failures")))
    found = tuple(item for _, item in sorted(chain.sweep.localizations.items()))
    edits = summarize(store.read("edits").to_pylist(), store.read("evaluations").to_pylist()) if spec.edit else []
    return RunResult(summary, found, tuple(edits), failed)


def _retried(store: Store, spec: SweepSpec, resolved: Resolved, known: Sequence[PlannedUnit]) -> list[PlannedUnit]:
    """Plans cells that failed once more, those that the localizer asked for included."""
    Publisher(store).publish(flush=True)
    waiting = {unit.unit_id for unit in known} - store.committed()
    pending = {row.key for unit in known if unit.unit_id in waiting for row in unit.rows if row.emit}
    failed = failed_keys(store.read("scores"), store.read("failures")) - pending
    round_ = len(store.plans())
    new = missing_units(spec, resolved, known, forget=failed, round_=round_)
    keys = [dict(zip(CELL_KEY, key, strict=True)) for key in failed]
    complements = sorted(
        {
            (key["model"], key["attribute"], Window(key["window_start"], key["window_size"]))
            for key in keys
            if key["control"] == "complement"
        }
    )
    if complements:
        again = failed - {row.key for unit in new for row in unit.rows}
        new += missing_units(
            spec, resolved, [*known, *new], forget=again, complements=complements, round_=round_
        )  # fmt: skip
    return new


def _kept_seeds(spec: SweepSpec) -> frozenset[int]:
    """Returns the seeds whose images are kept."""
    count = {"none": 0, "report": REPORT_SEEDS, "all": len(spec.seeds)}[spec.images]
    return frozenset(spec.seeds[:count])


def _needed_bytes(spec: SweepSpec, resolved: Resolved, units: Sequence[PlannedUnit]) -> int:
    """Returns the room that units will take; an image twice, in its unit and in a published part."""
    rows = [row for unit in units for row in unit.rows if row.emit]
    seeds = _kept_seeds(spec)
    kept = sum(row.seed in seeds for row in rows)
    native = max(model.native_side for model in resolved.models)
    pixels = (spec.generation.height or native) * (spec.generation.width or native)
    # A PNG takes about half of its pixels' bytes.
    return len(rows) * BYTES_PER_CELL + 2 * kept * pixels * 3 // 2


def _pinned(store: Store, resolved: Resolved) -> dict[str, Any]:
    """Returns what names stand for; later runs may add models, but not find other weights under an old name.

    Raises:
        SpecError: the weights behind a name have changed since the results were begun.
    """
    found = store.blobs.read_versioned(RESOLVED)
    pinned: dict[str, Any] = (
        decode_document(found.data, f"{store.root}/{RESOLVED}")
        if found
        else {"models": {}, "sites": {}, "scorer": resolved.scorer.weights}
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
    return pinned


@contextmanager
def _lease(store: Store) -> Iterator[_Beating]:
    """Holds the lease, and renews it beside whatever this process is busy with: a unit, a model, a large part."""
    lease = Lease(store.blobs)
    lease.acquire()
    beating = _Beating(lease)
    beating.start()
    try:
        yield beating
    finally:
        beating.stop()
        lease.release()


class _Beating(threading.Thread):
    """Renews a lease until it is stopped, or lost."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(daemon=True, name="lease")
        self._lease, self._over, self._lost = lease, threading.Event(), False

    def alive(self) -> bool:
        """Tells whether the lease is still held."""
        return not self._lost

    def run(self) -> None:
        while not self._over.wait(1.0):
            try:
                self._lease.renew()
            except LeaseLostError:
                self._lost = True
                return

    def stop(self) -> None:
        """Ends the thread; returns when no renewal is under way."""
        self._over.set()
        self.join()
