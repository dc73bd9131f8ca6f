"""What every command that computes has in common: the lease, the pinned weights, the loop, and publication."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from loco_core.errors import LocoError, SpecError, StoreError
from loco_core.types import Attribute
from orchestrator.hooks.events import RunStart
from orchestrator.resolve.resolved import Resolved, ResolvedJudge, ResolvedMetric
from orchestrator.runs.control import ControlWatch
from orchestrator.runs.journal import StoreJournal
from orchestrator.runs.recorded import written_progress
from orchestrator.runs.usage import NO_PRICES, UsageLedger
from orchestrator.scheduler.loop import Patience, StopSwitch, run_units
from orchestrator.scheduler.progress import Outcome, Progress, RunSummary
from orchestrator.scheduler.protocol import Backend
from orchestrator.spec import SweepSpec
from orchestrator.spec.budget import BudgetSpec, CostSpec
from orchestrator.spec.places import anchored
from orchestrator.stages.base import sweep_id
from orchestrator.stages.chain import Chain
from orchestrator.stages.probe.plan import without_probes
from orchestrator.stages.sweep.planned import Plan
from orchestrator.stages.sweep.stored import drop_plans
from orchestrator.store import Held, LeaseLostError, Store, encode_document, preflight
from orchestrator.store.documents import Pinned
from orchestrator.store.layout import PROGRESS, RESOLVED
from orchestrator.worker import WorkerSettings

# Which images `images: report` keeps: those of the sweep's first seeds.
REPORT_SEEDS = 2
PROGRESS_SECONDS = 10.0
logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Controls:
    """What a command hands in.

    Attributes:
        make_backend: starts workers.
        on_progress: called with how far it is.
        stop: pressed by signal handlers.
        max_failures: units that may be given up before it stops.
        prices: prices of GPUs.
        budget: how much all commands on the results may use before it stops; None is no limit.
    """

    make_backend: Callable[[WorkerSettings], Backend]
    on_progress: Callable[[Progress], None]
    stop: StopSwitch
    max_failures: int | None = None
    prices: CostSpec = NO_PRICES
    budget: BudgetSpec | None = None


def each(*calls: Callable[[T], None]) -> Callable[[T], None]:
    """Returns what calls several with the same."""

    def call(item: T) -> None:
        for one in calls:
            one(item)

    return call


def run_start(
    spec: SweepSpec, resolved: Resolved, root: str, command: Literal["run", "edit"], died: datetime | None
) -> RunStart:
    """Returns what hooks are called with at the beginning.

    Args:
        spec: the sweep.
        resolved: the models and attributes that the command is about.
        root: results folder or ``s3://`` address, absolute.
        command: kind of the command.
        died: see `orchestrator.store.Held`.
    """
    identity = sweep_id(spec)
    key = hashlib.sha256(f"{identity}\n{root}".encode()).hexdigest()[:16]
    models, attributes = (item.id for item in resolved.models), (item.key for item in resolved.attributes)
    return RunStart(
        spec.name, key, identity, root, command, tuple(models), tuple(attributes), spec.prompts, len(spec.seeds), died
    )


def absolute(root: str) -> str:
    """Returns a results root as every worker can find it."""
    return anchored(root)


def drive(
    held: Held,
    chain: Chain,
    settings: WorkerSettings,
    controls: Controls,
    before_shutdown: Callable[[], None] = lambda: None,
    before: int = 0,
) -> RunSummary:
    """Runs units until none follows, and publishes what they gave.

    Args:
        held: the results.
        chain: the stages.
        settings: what workers must know.
        controls: what the command hands in.
        before_shutdown: called before the backend is, however the run ended.
        before: units that earlier runs committed, for who looks at the progress.

    Raises:
        LocoError: workers cannot be had, or the results cannot be read or written.
    """
    ledger = UsageLedger(held.store, settings.sweep_id, controls.prices, controls.budget)
    record = ProgressRecord(held.store, controls.on_progress, before, chain.names, ledger)
    backend, control = controls.make_backend(settings), ControlWatch(held.store)
    try:
        summary = run_units(
            backend, chain, StoreJournal(held.store, settings.sweep_id, chain), record.progress, controls.stop,
            side=chain.side, limit=control.limit, alive=held.alive, max_failures=controls.max_failures,
            patience=Patience(), ledger=ledger,
        )  # fmt: skip
        if summary.outcome != "lease_lost":
            try:
                _finish(chain, controls.stop)
                record.write(summary.outcome)
            except LeaseLostError:
                return replace(summary, outcome="lease_lost")
    except Exception:
        # What is committed is published whatever went wrong, unless the folder is another driver's now. It is the first
        # error that is told.
        if held.alive():
            with suppress(LocoError):
                _finish(chain, controls.stop)
        raise
    finally:
        control.close()
        chain.side.close()
        before_shutdown()
        backend.shutdown()
    return summary


def _finish(chain: Chain, stop: StopSwitch) -> None:
    """Publishes what is committed; asked twice to stop, it leaves to the next run what is not published yet."""
    if stop.now:
        return
    chain.side.submit(chain.finish)
    while not chain.side.wait(0.1):
        if stop.now:
            return
    chain.side.take()


def worker_settings(root: str, sweep_id: str, spec: SweepSpec, resolved: Resolved, marker: str) -> WorkerSettings:
    """Returns what workers must know.

    Args:
        root: results folder or ``s3://`` address, absolute.
        sweep_id: identity of the sweep.
        spec: the sweep.
        resolved: the sweep with its names looked up.
        marker: see :func:`orchestrator.store.preflight`.
    """
    return WorkerSettings(root, sweep_id, resolved, spec.generation.settings, kept_seeds(spec), marker)


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
    found = recorded if without_probes(store.committed()) else None
    pinned = found.model_dump() if found else _pinned_by_rows(store, resolved)
    pinned["plans"] = store.next_plan()
    at_hand = {model.id for model in resolved.models}
    for part in ("models", "sites", "engines") if recorded else ():
        # Of models that a command is not about, what they were planned with stays.
        others = {model: value for model, value in getattr(recorded, part).items() if model not in at_hand}
        pinned[part] = {**others, **pinned[part]}
    for model in resolved.models:
        before = pinned["models"].setdefault(model.id, model.weights_id)
        pinned["sites"][model.id] = model.site_names
        # Results of an earlier version do not say it.
        pinned.setdefault("engines", {})[model.id] = asdict(model.engine)
        if before != model.weights_id:
            # A second stage, or a donor, may be what changed.
            stages = [stage.path for stage in (model, model.super_resolution, model.donor) if stage]
            now = f"{' and '.join(stages)} now hold{'s' if len(stages) == 1 else ''}"
            raise SpecError(
                f"{store.root}: results of {model.id} were made with weights {_short(before)}, {now} "
                f"{_short(model.weights_id)}; put the old weights back, or write to a new folder with --results"
            )
    # Provenance: what a changed file changes has a name of its own.
    pinned["code"] = {**pinned.get("code", {}), **resolved.code}
    pinned["judge"] = resolved.judge_id
    # Another judge or metric, or one of other weights, has another name.
    judges: tuple[ResolvedJudge | ResolvedMetric, ...] = (resolved.judge,) if resolved.judge else ()
    for part, looked_up in (("judges", judges), ("metrics", resolved.metrics)):
        for item in looked_up:
            said = item.model_dump(exclude={"id"}, exclude_defaults=True)
            _check_commit(store.root, item.id, said, pinned.get(part, {}))
            pinned[part] = {**pinned.get(part, {}), item.id: said}
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
    pinned = None if without_probes(store.committed()) else store.document(RESOLVED, Pinned)
    if pinned is None:
        return False
    now = {model.id: model.weights_id for model in resolved.models}
    return pinned.scorer != resolved.scorer.weights or any(
        now.get(name, weights) != weights for name, weights in pinned.models.items()
    )


def _check_commit(root: str, name: str, now: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a judge or metric whose name on the hub stands for another commit than it did: all would be drawn again.

    Args:
        root: where the results are.
        name: what it is called in results.
        now: what it is.
        before: what those of earlier runs were, by what they are called.

    Raises:
        SpecError: it does, and the sweep does not say which commit it means.
    """
    if now.get("revision") is None or name in before or now.get("asked") == now["revision"]:
        return
    for other in before.values():
        named = now.keys() - {"revision", "digest", "weights"}
        alike = all(other.get(key) == now[key] for key in named)
        if alike and other.get("revision") not in (None, now["revision"]):
            where = now.get("model") or now.get("path") or name
            raise SpecError(
                f"{root}: edits were measured with {where} at commit {other['revision'][:12]}, "
                f"{now.get('asked') or 'its main branch'} is now {now['revision'][:12]}; put revision: "
                f"{other['revision']} beside it to keep that, or revision: {now['revision']} to measure them again"
            )


def check_texts(root: str, known: Plan, attributes: Iterable[Attribute]) -> None:
    """Refuses attributes whose texts are others than those that results were planned with: both would be one effect.

    Args:
        root: where the results are.
        known: what is planned.
        attributes: as they are now.

    Raises:
        SpecError: they differ: another ``margin``, or the bundled attribute says other texts in this version.
    """
    for attribute in attributes:
        places = known.places(attribute.key, attribute.records)
        for prompt, place in zip(known.prompts, places, strict=True):
            if prompt.attribute != attribute.key or place >= 0:
                continue
            before = prompt.record.siblings
            drawn = {(record.prompt, record.donor): bool(record.siblings) for record in attribute.records}
            now = drawn.get((prompt.record.prompt, prompt.record.donor), bool(before))
            kept = "" if now == bool(before) else f"put margin: {'siblings' if before else 'donor'} into the sweep, or "
            raise SpecError(
                f"{root}: pictures of {attribute.key} were scored against other texts than the sweep's now; "
                f"{kept}write to a new folder with --results"
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


def record_failed_cells(store: Store, cells: int) -> None:
    """Notes how many cells have no score when a run has ended, for who looks at many sweeps.

    Args:
        store: the results.
        cells: how many.
    """
    written = written_progress(store.blobs)
    if written is not None:
        store.blobs.replace(PROGRESS, encode_document({**written, "failed_cells": cells}))


class ProgressRecord:
    """Keeps in the results root how far a run is, so that anyone who can read it can tell."""

    def __init__(
        self,
        store: Store,
        show: Callable[[Progress], None],
        before: int,
        own: Collection[str],
        ledger: UsageLedger,
    ) -> None:
        """Takes what shows progress in this process.

        Args:
            store: the results.
            show: called all the same.
            before: units that earlier runs committed.
            own: names of the stages of this run.
            ledger: knows what workers have used.
        """
        self._ledger = ledger
        self._store, self._show, self._next, self._before = store, show, 0.0, before
        self._latest, self._committed = Progress(), len(store.committed())
        found = written_progress(store.blobs)
        # What other commands left of other kinds of work is left still.
        self._stages = {name: counts for name, counts in found["stages"].items() if name not in own} if found else {}

    def progress(self, progress: Progress) -> None:
        """Shows progress; called a few times a second, writes every few seconds."""
        self._latest = replace(progress, before=self._before)
        self._show(self._latest)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            self.write()

    def write(self, outcome: Outcome | None = None) -> None:
        """Writes the latest progress.

        Args:
            outcome: how the run ended; None while it goes on.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        latest = asdict(self._latest)
        gpu_hours, cost = self._ledger.used
        document = encode_document(
            {
                **latest, "stages": {**self._stages, **latest["stages"]}, "outcome": outcome, "written_at": now,
                "units_done": self._committed + self._latest.done, "gpu_hours": gpu_hours, "cost": cost,
            }
        )  # fmt: skip
        try:
            self._store.blobs.replace(PROGRESS, document)
        except StoreError as error:
            # Of what is done the units tell: no reason to stop.
            logger.warning("progress is not recorded: %s", error)
