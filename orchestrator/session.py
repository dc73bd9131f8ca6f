"""What every command that computes has in common: the lease, the pinned weights, the loop, and publication."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from loco_core.errors import LocoError, ModelError, SpecError, StoreError
from orchestrator.batch_sizes import ProbeUnit, Unrecorded
from orchestrator.resolve import Resolved
from orchestrator.scheduler.loop import Patience, Progress, Requests, RunSummary, StopSwitch, run_units
from orchestrator.scheduler.protocol import Backend, Settled, Unit
from orchestrator.spec import SweepSpec
from orchestrator.spec.places import anchored
from orchestrator.stages.sweep import StoreJournal, drop_plans
from orchestrator.store import Beating, Store, encode_document, preflight
from orchestrator.store.documents import Pinned
from orchestrator.store.layout import PROGRESS, RESOLVED
from orchestrator.worker import WorkerSettings, to_unit

# Which images `images: report` keeps: those of the sweep's first seeds.
REPORT_SEEDS = 2
PROGRESS_SECONDS = 10.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Controls:
    """What a command hands in.

    Attributes:
        make_backend: starts workers.
        on_progress: told how far it is.
        stop: pressed by signal handlers.
        max_failures: units that may be given up before it stops.
    """

    make_backend: Callable[[WorkerSettings], Backend]
    on_progress: Callable[[Progress], None]
    stop: StopSwitch
    max_failures: int | None = None


class Derivation(Protocol):
    """Derives units from what is committed, and publishes it."""

    def derive(self, settled: Sequence[Settled]) -> list[Unit]:
        """Returns the units that follow; see :func:`orchestrator.scheduler.loop.run_units`."""

    def finish(self) -> None:
        """Publishes whatever is committed."""


def absolute(root: str) -> str:
    """Returns a results root as every worker can find it."""
    return anchored(root)


def drive(
    store: Store,
    derivation: Derivation,
    settings: WorkerSettings,
    lease: Beating,
    controls: Controls,
    requests: Requests | None = None,
    before_shutdown: Callable[[], None] = lambda: None,
) -> RunSummary:
    """Runs units until none follows, and publishes what they gave.

    Args:
        store: the results.
        derivation: of the units.
        settings: of the workers.
        lease: held on the results.
        controls: of the command.
        requests: see :func:`orchestrator.scheduler.loop.run_units`.
        before_shutdown: called before the backend is, however the run ended.

    Raises:
        LocoError: workers cannot be had, or the results cannot be read or written.
    """
    backend, record = controls.make_backend(settings), ProgressRecord(store, controls.on_progress)
    try:
        summary = run_units(
            backend, derivation.derive, StoreJournal(store, settings.sweep_id, settings.resolved),
            record.progress, controls.stop,
            heartbeat=lease.alive, max_failures=controls.max_failures, patience=Patience(), requests=requests,
        )  # fmt: skip
        if summary.outcome != "lease_lost":
            derivation.finish()
            record.write()
    except LocoError:
        # What is committed is published whatever went wrong, unless the folder is another driver's now.
        if lease.alive():
            derivation.finish()
        raise
    finally:
        before_shutdown()
        backend.shutdown()
    return summary


def measure_batches(
    resolved: Resolved, units: Sequence[ProbeUnit], settings: WorkerSettings, lease: Beating, controls: Controls
) -> RunSummary:
    """Has workers measure how many rows a forward pass of their models should carry.

    Args:
        resolved: the sweep with its names looked up.
        units: a measurement of each model.
        settings: of the workers.
        lease: held on the results.
        controls: of the command.

    Raises:
        LocoError: workers cannot be had, or a model could not be measured.
    """
    backend = controls.make_backend(settings)
    try:
        summary = run_units(
            backend, lambda settled: [] if settled else [to_unit(unit, resolved) for unit in units], Unrecorded(),
            controls.on_progress, controls.stop, heartbeat=lease.alive, patience=Patience(),
        )  # fmt: skip
    finally:
        backend.shutdown()
    for failure in summary.failures:
        raise ModelError(f"generation.batch_size: auto: {failure.error}")
    return summary


def worker_settings(root: str, sweep_id: str, spec: SweepSpec, resolved: Resolved, marker: str) -> WorkerSettings:
    """Returns what workers must know.

    Args:
        root: results folder or ``s3://`` address, absolute.
        sweep_id: identity of the sweep.
        spec: the sweep.
        resolved: the sweep with its names looked up.
        marker: see :func:`orchestrator.store.preflight`.
    """
    return WorkerSettings(
        root, sweep_id, resolved, spec.generation.settings, kept_seeds(spec), marker, spec.evaluate.judge
    )


def kept_seeds(spec: SweepSpec) -> frozenset[int]:
    """Returns the seeds whose images are kept."""
    count = {"none": 0, "report": REPORT_SEEDS, "all": len(spec.seeds)}[spec.images]
    return frozenset(spec.seeds[:count])


def pinned_names(store: Store, resolved: Resolved) -> dict[str, Any]:
    """Returns what names stand for; later runs may add models, but not find other weights under an old name.

    Raises:
        SpecError: the weights behind a name have changed since something was made with them.
    """
    # Before the first unit nothing was made with any weights: half a download may be completed.
    recorded = store.document(RESOLVED, Pinned)
    found = recorded if store.committed() else None
    pinned = found.model_dump() if found else _pinned_by_rows(store, resolved)
    pinned["plans"] = store.next_plan()
    at_hand = {model.id for model in resolved.models}
    for part in ("models", "sites", "engines") if recorded else ():
        # Of models that a command is not about, what they were planned with stays.
        others = {model: value for model, value in getattr(recorded, part).items() if model not in at_hand}
        pinned[part] = {**others, **pinned[part]}
    for model in resolved.models:
        before = pinned["models"].setdefault(model.id, model.drawn_with)
        pinned["sites"][model.id] = model.site_names
        # Results of an earlier version do not say it.
        pinned.setdefault("engines", {})[model.id] = asdict(model.engine)
        if before != model.drawn_with:
            # Of two stages the second may be the one that changed.
            stages = [stage.path for stage in (model, model.super_resolution) if stage]
            now = f"{' and '.join(stages)} now hold{'s' if len(stages) == 1 else ''}"
            raise SpecError(
                f"{store.root}: results of {model.id} were made with weights {_short(before)}, {now} "
                f"{_short(model.drawn_with)}; put the old weights back, or write to a new folder with --results"
            )
    # Provenance: what a changed file changes has a name of its own.
    pinned["code"] = {**pinned.get("code", {}), **resolved.code}
    if pinned["scorer"] != resolved.scorer.weights:
        raise SpecError(
            f"{store.root}: scores were made with scorer weights {pinned['scorer'][:12]}, {resolved.scorer.name} now "
            f"holds {resolved.scorer.weights[:12]}; put the old weights back, or write to a new folder with --results"
        )
    return pinned


def begin(store: Store, resolved: Resolved) -> dict[str, Any]:
    """Returns what `pinned_names` does, and sets plans aside that other weights were planned with; holds the lease.

    Raises:
        SpecError: as of `pinned_names`.
        StoreError: the results cannot be read or written.
    """
    pinned = pinned_names(store, resolved)
    if is_planned_otherwise(store, resolved):
        # Workers of the run before may be at it still: from the new marker on they commit nothing. What they have
        # committed till then was made with the old weights.
        preflight(store.blobs)
        pinned = pinned_names(store, resolved)
        drop_plans(store)
    return pinned


def is_planned_otherwise(store: Store, resolved: Resolved) -> bool:
    """Tells whether cells were planned with other weights, and none of them was made: their names are of no use."""
    pinned = None if store.committed() else store.document(RESOLVED, Pinned)
    if pinned is None:
        return False
    now = {model.id: model.drawn_with for model in resolved.models}
    return pinned.scorer != resolved.scorer.weights or any(
        now.get(name, weights) != weights for name, weights in pinned.models.items()
    )


def _pinned_by_rows(store: Store, resolved: Resolved) -> dict[str, Any]:
    """Returns what names stood for, as rows say that are published: where the document was set aside, they still do."""
    columns = ["model", "model_revision", "scorer_revision"]
    rows = store.read_columns("scores", columns).group_by(columns).aggregate([]).to_pylist()
    models = {row["model"]: row["model_revision"] for row in rows if row["model"] and row["model_revision"]}
    scorers: Mapping[str, None] = dict.fromkeys(row["scorer_revision"] for row in rows if row["scorer_revision"])
    return {"models": models, "sites": {}, "engines": {}, "scorer": next(iter(scorers), resolved.scorer.weights)}


def _short(weights: str) -> str:
    return " and ".join(stage[:12] for stage in weights.split("+"))


class ProgressRecord:
    """Keeps in the results root how far a run is, so that anyone who can read it can tell."""

    def __init__(self, store: Store, show: Callable[[Progress], None]) -> None:
        """Takes what shows progress in this process.

        Args:
            store: the results.
            show: is told all the same.
        """
        self._store, self._show, self._next = store, show, 0.0
        self._latest = Progress()

    def progress(self, progress: Progress) -> None:
        """Shows progress; called a few times a second, writes every few seconds."""
        self._show(progress)
        self._latest = progress
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            self.write()

    def write(self) -> None:
        """Writes the latest progress."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        document = encode_document({**asdict(self._latest), "written_at": now})
        try:
            self._store.blobs.replace(PROGRESS, document)
        except StoreError as error:
            # Of what is done the units tell: no reason to stop.
            logger.warning("progress is not recorded: %s", error)
