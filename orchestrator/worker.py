"""The worker: loads a pipeline and a scorer, does the work of units, and commits it. A plain class, no cluster."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loco_core import plugins
from loco_core.diffusion.donor import Donor
from loco_core.errors import ModelError, OutOfMemoryError
from loco_core.types import Generation
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.scheduler.host import one_line, release_memory
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport
from orchestrator.stages.context import Result, WorkerContext
from orchestrator.stages.metrics import Metrics
from orchestrator.stages.registry import work_of
from orchestrator.stages.timing import Stopwatch, TimedJudge, TimedScorer
from orchestrator.store import open_as_worker

if TYPE_CHECKING:
    from loco_core.diffusion.model import LoadedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of a sweep must know; crosses to other machines by pickle.

    Attributes:
        results: the results root.
        sweep_id: identity of the sweep.
        resolved: the sweep with its names looked up.
        generation: settings, where a model has none of its own.
        kept_seeds: seeds whose images are kept.
        marker: what the driver wrote into the results root; every worker must see it.
        device: ``auto`` takes a GPU where torch sees one.
    """

    results: str
    sweep_id: str
    resolved: Resolved
    generation: Generation
    kept_seeds: frozenset[int]
    marker: str
    device: str = "auto"

    def __call__(self, model: str) -> PipelineWorker:
        """Makes a worker of one model, in the process that calls."""
        return PipelineWorker(self, model)


class PipelineWorker:
    """Runs the units of one model, of whatever stage."""

    def __init__(self, settings: WorkerSettings, model: str) -> None:
        """Loads the model and the scorer.

        Raises:
            ModelError: one of them cannot be loaded.
            StoreError: this machine does not see the results root as the driver does.
            SpecError: the scorer's Python file is another one here.
        """
        # Before gigabytes of weights are read for a folder that is not there, or for other code.
        self._store = open_as_worker(settings.results, settings.marker)
        # Localizers stay with the driver, and editors are looked at with every edit.
        code, resolved, judge = settings.resolved.code, settings.resolved, settings.resolved.judge
        metrics = (item.source for item in resolved.metrics)
        loaded = (resolved.scorer.source, judge.use if judge else "", *metrics)
        plugins.hold([(source, code[source]) for source in loaded if source in code])
        self._scoring = Stopwatch()
        self._context = _loaded(settings, model, self._scoring)

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        """Does and commits a unit; see :class:`orchestrator.scheduler.protocol.Worker`."""
        began = time.monotonic()
        self._scoring.take()
        result = self._result(unit, attempt)
        computed = time.monotonic()
        for path, data in result.files.items():
            self._store.blobs.replace(path, data)
        won = self._store.commit_unit(unit.unit_id, result.tables, uuid.uuid4().hex) == "won"
        ended = time.monotonic()
        report = UnitReport(
            unit.unit_id, attempt.number, "committed" if won else "already", rows=result.rows, invalid=result.invalid,
            failed_rows=result.failed_rows, seconds=ended - began, scoring=self._scoring.take(),
            committing=ended - computed,
            # What another attempt has committed may differ from this in the last bits.
            reported=result.reported if won else None,
        )  # fmt: skip
        ids = {
            "sweep_id": self._context.sweep_id, "unit_id": unit.unit_id, "attempt": attempt.number,
            "model": unit.model,
        }  # fmt: skip
        counts = {"rows": report.rows, "invalid": report.invalid, "failed_rows": report.failed_rows}
        logger.info("unit is %s", report.outcome, extra={**ids, **counts, "seconds": report.seconds})
        return report

    def _result(self, unit: Unit, attempt: Attempt) -> Result:
        """Does a unit; once more where memory runs out: what earlier batches left behind may be what was lacking.

        Raises:
            OutOfMemoryError: it ran out again. Smaller batches would change the last bits of what is planned, and row
                by row a batch is as large.
        """
        import torch

        work = work_of(unit.stage)
        for _ in range(2):
            try:
                return work(self._context, unit, attempt)
            except torch.OutOfMemoryError as error:
                reason = ". ".join(one_line(error).split(". ")[:2])
            # Not while the error is handled, whose frames hold the batch.
            release_memory()
        size: Any = getattr(unit.payload, "batch_size", None)
        batches = f" with batches of {size}" if size else ""
        raise OutOfMemoryError(
            f"{unit.model} runs out of memory{batches} on {self._context.device} ({reason}); expected a smaller "
            "generation.batch_size or engine.offload, and `loco-sweep run SWEEP --retry`; or another dtype or "
            "engine.vae_tiling, in a new folder"
        )


def check_default(loaded: LoadedModel, info: ResolvedModel) -> None:
    """Refuses a model of the default family that is not what was planned, or that is drawn otherwise than it draws.

    Raises:
        ModelError: it is.
    """
    from loco_core.checking.trial import try_out
    from loco_core.diffusion.default.family import profile_in

    found = profile_in(loaded)
    if found != info.profile:
        differs = [name for name, value in vars(found).items() if value != getattr(info.profile, name)]
        raise ModelError(
            f"{info.id}: calling it tells another {', '.join(differs)} here than where it was planned; it cannot be "
            "swept"
        )
    try_out(loaded, info.id)


def _loaded(settings: WorkerSettings, model: str, scoring: Stopwatch) -> WorkerContext:
    """Loads a model, the scorer and the judge.

    Raises:
        ModelError: one of them cannot be loaded, or the model runs other sites than planned.
    """
    import torch

    from loco_core.diffusion.model import load_model
    from loco_core.scoring.base import load_judge, load_scorer
    from loco_core.scoring.classes import classes_of

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    info = settings.resolved.model(model)
    second = info.super_resolution
    other = info.donor
    donor = Donor(other.family, other.path, other.revision, other.extras) if other else None
    loaded = load_model(
        info.family, info.path, info.revision, info.dtype, device, info.engine,
        (second.path, second.revision) if second else None, extras=info.extras, donor=donor,
    )  # fmt: skip
    if (found := tuple(site.name for site in loaded.sites)) != info.site_names:
        raise ModelError(
            f"{model} runs sites that its configuration does not tell: {len(found)}, not {info.n_sites}; it cannot be "
            "swept"
        )
    if info.profile is not None:
        check_default(loaded, info)
    scorer = settings.resolved.scorer
    judge = None
    if (named := settings.resolved.judge) is not None:
        classes = classes_of(settings.resolved.attributes)
        judge = TimedJudge(load_judge(named.choice, device, classes), scoring)
    return WorkerContext(
        loaded, info, TimedScorer(load_scorer(scorer.source, scorer.revision, device), scoring), scorer, judge,
        info.generation(settings.generation), settings.sweep_id, settings.resolved.attributes, settings.kept_seeds,
        torch.cuda.get_device_name() if device == "cuda" else device, torch.__version__,
        metrics=Metrics(settings.resolved.metrics, device, scoring),
    )  # fmt: skip
