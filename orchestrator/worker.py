"""The worker: loads a pipeline and a scorer, runs units, commits what they give. A plain class, no cluster."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loco_core import registry
from loco_core.errors import ModelError, OutOfMemoryError, first_line
from loco_core.generate import generate
from loco_core.models import load_model
from loco_core.scorers import load_scorer
from loco_core.types import Generation, Row
from orchestrator import edit_work
from orchestrator.batch_sizes import ProbeUnit, probe
from orchestrator.edit_plan import EvaluateUnit, FitUnit
from orchestrator.plan import PlannedRow, PlannedUnit
from orchestrator.resolve import Resolved, ResolvedModel
from orchestrator.scheduler.host import one_line, release_memory
from orchestrator.scheduler.protocol import Unit, UnitReport, WorkerNeeds
from orchestrator.store import SCHEMA_VERSION, make_table, open_as_worker
from orchestrator.trace_plan import TraceUnit
from orchestrator.trace_work import run_trace
from orchestrator.worker_images import encode_image, is_valid

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

logger = logging.getLogger(__name__)

_CELL_COLUMNS = (
    "cell_id", "image_id", "unit_id", "model", "attribute", "attribute_kind", "mode", "prompt_id", "template_id",
    "prompt", "donor", "control", "window_start", "window_size",
    "part", "step_start", "step_end", "tokens", "guidance_half", "pooled",
    "seed",
)  # fmt: skip
_IMAGE_COLUMNS = (
    "unit_id", "cell_id", "image_id", "model", "attribute", "prompt", "control", "window_start", "window_size", "seed"
)  # fmt: skip


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
        judge: the scorer that names what edits are measured on; None where the CLIP margin's sign does.
        device: ``auto`` takes a GPU where torch sees one.
    """

    results: str
    sweep_id: str
    resolved: Resolved
    generation: Generation
    kept_seeds: frozenset[int]
    marker: str
    judge: str | None = None
    device: str = "auto"

    def __call__(self, model: str) -> PipelineWorker:
        """Makes a worker of one model, in the process that calls."""
        return PipelineWorker(self, model)


@dataclass(frozen=True)
class _Scored:
    """One generated image and all that was measured of it."""

    picture: torch.Tensor
    embedding: np.ndarray
    valid: bool
    distance: float | None
    seconds: float


class PipelineWorker:
    """Runs the units of one model."""

    def __init__(self, settings: WorkerSettings, model: str) -> None:
        """Loads the model and the scorer.

        Raises:
            ModelError: one of them cannot be loaded.
            StoreError: this machine does not see the results root as the driver does.
            SpecError: the scorer's Python file is another one here.
        """
        import torch

        # Before gigabytes of weights are read for a folder that is not there, or for other code.
        self._store = open_as_worker(settings.results, settings.marker)
        # Localizers stay with the driver, and editors are looked at with every edit.
        code, source = settings.resolved.code, settings.resolved.scorer.source
        registry.hold([(source, code[source])] if source in code else [])
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._settings = settings
        self._info = settings.resolved.model(model)
        self._generation = self._info.generation(settings.generation)
        needed = self._info.worker.min_gpu_memory
        if device == "cuda" and needed and (held := torch.cuda.get_device_properties(0).total_memory) < needed:
            raise ModelError(f"{model} wants a GPU of {needed / 2**30:.0f} GiB; this one has {held / 2**30:.0f} GiB")
        second = self._info.super_resolution
        self._model = load_model(
            self._info.family, self._info.path, self._info.revision, self._info.dtype, device, self._info.engine,
            (second.path, second.revision) if second else None,
        )  # fmt: skip
        if (found := tuple(site.name for site in self._model.sites)) != self._info.site_names:
            raise ModelError(
                f"{model} runs sites that its configuration does not tell: {len(found)}, not {self._info.n_sites}; "
                "it cannot be swept"
            )
        scorer = settings.resolved.scorer
        self._scorer = load_scorer(scorer.source, scorer.revision, device)
        judge = settings.judge
        self._judge: edit_work.Judge | None = load_scorer(judge, None, device) if judge else None  # type: ignore[assignment]
        self._device = torch.cuda.get_device_name() if device == "cuda" else device
        self._torch = torch.__version__

    def run(self, unit: Unit, attempt: int, row_by_row: bool) -> UnitReport:
        """Does and commits a unit; see :class:`orchestrator.scheduler.protocol.Worker`."""
        report = self._fitting(unit, attempt, row_by_row)
        ids = {"sweep_id": self._settings.sweep_id, "unit_id": unit.unit_id, "attempt": attempt, "model": unit.model}
        counts = {"rows": report.rows, "invalid": report.invalid, "failed_rows": report.failed_rows}
        logger.info("unit is %s", report.outcome, extra={**ids, **counts, "seconds": report.seconds})
        return report

    def _fitting(self, unit: Unit, attempt: int, row_by_row: bool) -> UnitReport:
        """Runs a unit; once more where memory runs out: what earlier batches left behind may be what was lacking.

        Raises:
            OutOfMemoryError: it ran out again. Smaller batches would change the last bits of what is planned, and row
                by row a batch is as large.
        """
        import torch

        for _ in range(2):
            try:
                return self._run(unit, attempt, row_by_row)
            except torch.OutOfMemoryError as error:
                reason = ". ".join(one_line(error).split(". ")[:2])
            # Not while the error is handled, whose frames hold the batch.
            release_memory()
        payload: Any = unit.payload
        size = payload.rows[0].batch_size if isinstance(payload, PlannedUnit) else getattr(payload, "batch_size", None)
        batches = f" with batches of {size}" if size else ""
        raise OutOfMemoryError(
            f"{unit.model} runs out of memory{batches} on {self._device} ({reason}); expected a smaller "
            "generation.batch_size or engine.offload, and `loco-sweep run SWEEP --retry`; or another dtype or "
            "engine.vae_tiling, in a new folder"
        )

    def _run(self, unit: Unit, attempt: int, row_by_row: bool) -> UnitReport:
        match unit.payload:
            case FitUnit():
                return edit_work.fit(self._bench(), unit.payload, attempt)
            case EvaluateUnit():
                return edit_work.evaluate(self._bench(), unit.payload, attempt, row_by_row)
            case TraceUnit():
                return run_trace(self._bench(), unit.payload, attempt, self._device)
            case PlannedUnit():
                return self._sweep(unit.payload, attempt, row_by_row)
            case ProbeUnit():
                return probe(self._store, self._model, self._device, self._generation, unit.payload, attempt)
        raise TypeError(f"no worker knows units of kind {unit.kind}")

    def _bench(self) -> edit_work.Bench:
        settings = self._settings
        return edit_work.Bench(
            self._model, self._info, self._scorer, settings.resolved.scorer.name, self._judge, self._generation,
            self._store, settings.sweep_id, settings.resolved.attributes, bool(settings.kept_seeds),
        )  # fmt: skip

    def _sweep(self, planned: PlannedUnit, attempt: int, row_by_row: bool) -> UnitReport:
        began = time.monotonic()
        images = _distinct(planned.rows)
        failures: dict[str, Exception] = {}
        pictures = self._generate(images, planned, failures, row_by_row)
        scored = self._measured(images, pictures, failures, row_by_row)
        tables = self._tables(planned, scored, failures, attempt)
        outcome = self._store.commit_unit(planned.unit_id, tables, uuid.uuid4().hex)
        self._log_cells(planned, tables, attempt)
        scores = tables["scores"]
        invalid = sum(status == "invalid" for status in scores["status"].to_pylist())
        return UnitReport(
            planned.unit_id, attempt, "committed" if outcome == "won" else "already",
            rows=len(scores) - invalid, invalid=invalid, failed_rows=len(tables["failures"]),
            seconds=time.monotonic() - began,
        )  # fmt: skip

    def _log_cells(self, planned: PlannedUnit, tables: Mapping[str, pa.Table], attempt: int) -> None:
        """Names the cells that have no score in the log, each with what a search for it needs."""
        known = {"sweep_id": self._settings.sweep_id, "unit_id": planned.unit_id, "attempt": attempt}
        for row in tables["scores"].select(["cell_id", "status"]).to_pylist():
            if row["status"] == "invalid":
                logger.info("the image is invalid", extra={**known, "cell_id": row["cell_id"]})
        for row in tables["failures"].select(["cell_id", "error_type", "error"]).to_pylist():
            logger.info("%s: %s", row["error_type"], row["error"], extra={**known, "cell_id": row["cell_id"]})

    def _generate(
        self,
        images: Mapping[str, PlannedRow],
        planned: PlannedUnit,
        failures: dict[str, Exception],
        row_by_row: bool,
    ) -> dict[str, tuple[torch.Tensor, float]]:
        """Returns every image with the seconds it took; in row-by-row mode records the rows that raise."""
        import torch

        size, found = planned.rows[0].batch_size, {}
        rows = {image_id: row.engine_row for image_id, row in images.items()}
        if not row_by_row:
            for image_id, picture, seconds in self._timed(rows, size):
                found[image_id] = (picture, seconds)
            return found
        for image_id, row in rows.items():
            try:
                for _, picture, seconds in self._timed({image_id: row}, size):
                    found[image_id] = (picture, seconds)
            except torch.OutOfMemoryError:
                # Every row is a batch of the same shape.
                raise
            except Exception as error:  # whatever it is, it is recorded with its cells
                failures[image_id] = error
        return found

    def _timed(self, rows: Mapping[str, Row], size: int) -> Iterator[tuple[str, torch.Tensor, float]]:
        names, at, began = list(rows), 0, time.monotonic()
        for pictures in generate(self._model, list(rows.values()), self._generation, size):
            count = len(pictures.images)
            seconds = (time.monotonic() - began) / count
            for name, picture in zip(names[at : at + count], pictures.images, strict=True):
                yield name, picture, seconds
            at, began = at + count, time.monotonic()

    def _measured(
        self,
        images: Mapping[str, PlannedRow],
        pictures: Mapping[str, tuple[torch.Tensor, float]],
        failures: dict[str, Exception],
        row_by_row: bool,
    ) -> dict[str, _Scored]:
        """Measures all images together; in row-by-row mode one by one where that raises, and records those that do."""
        try:
            return self._measure(images, pictures)
        except Exception:
            if not row_by_row:
                raise
        found: dict[str, _Scored] = {}
        for name in pictures:
            clean = [n for n in pictures if images[n].control == "clean" and n not in failures]
            try:
                found |= self._measure(images, {n: pictures[n] for n in dict.fromkeys([*clean, name])})
            except Exception as error:  # whatever it is, it is recorded with its cells
                failures[name] = error
        return {name: scored for name, scored in found.items() if name not in failures}

    def _measure(
        self, images: Mapping[str, PlannedRow], pictures: Mapping[str, tuple[torch.Tensor, float]]
    ) -> dict[str, _Scored]:
        import torch

        if not pictures:
            return {}
        names = list(pictures)
        embeddings = self._scorer.embed_images(torch.stack([pictures[name][0] for name in names]))
        clean = {
            row.seed: pictures[name][0] for name, row in images.items() if row.control == "clean" and name in pictures
        }
        found = {}
        for name, embedding in zip(names, embeddings, strict=True):
            picture, seconds = pictures[name]
            reference = clean.get(images[name].seed)
            valid = is_valid(picture, self._generation, self._model.enlargement)
            distance = None
            if valid and reference is not None and is_valid(reference, self._generation, self._model.enlargement):
                distance = float((picture - reference).square().mean().sqrt())
            found[name] = _Scored(picture, embedding, valid, distance, seconds)
        return found

    def _tables(
        self, planned: PlannedUnit, scored: Mapping[str, _Scored], failures: Mapping[str, Exception], attempt: int
    ) -> dict[str, pa.Table]:
        common = {"device": self._device, "attempt": attempt, "schema_version": SCHEMA_VERSION}
        emitted = [row for row in planned.rows if row.emit]
        rows = [row for row in emitted if row.image_id in scored]
        failed = [row for row in emitted if row.image_id not in scored]
        first = {row.image_id: row for row in reversed(rows)}
        clean = self._clean_margin(planned, scored)
        scores = [{**self._score(row, scored[row.image_id]), "margin_clean": clean, **common} for row in rows]
        return {
            "scores": make_table("scores", scores),
            "failures": make_table(
                "failures", [{**self._failure(row, failures[row.image_id]), **common} for row in failed]
            ),
            "embeddings": make_table(
                "embeddings",
                [self._embedding(row, found) for row in first.values() if (found := scored[row.image_id]).valid],
            ),
            "images": make_table(
                "images", [_image(row, scored[row.image_id]) for row in first.values() if self._kept(row)]
            ),
        }

    def _clean_margin(self, planned: PlannedUnit, scored: Mapping[str, _Scored]) -> float | None:
        """Returns the margin of the unit's own clean image, which leads it; None where there is none."""
        row = planned.rows[0]
        found = scored.get(row.image_id) if row.control == "clean" else None
        if found is None or not found.valid:
            return None
        attribute, donor = self._scorer.score(found.embedding[None], [row.score_text, row.donor_text])[0]
        return float(attribute - donor)

    def _score(self, row: PlannedRow, scored: _Scored) -> dict[str, Any]:
        generation, scorer = self._generation, self._settings.resolved.scorer
        texts = [row.score_text, row.donor_text, row.content_text, *row.unrelated_texts]
        values = self._scorer.score(scored.embedding[None], texts)[0] if scored.valid else np.full(len(texts), np.nan)
        attribute, donor, content = (float(v) if np.isfinite(v) else None for v in values[:3])
        _, height, width = scored.picture.shape
        return {
            **cell_columns(row, self._settings.sweep_id, self._info),
            "steps": generation.steps,
            "guidance_scale": generation.guidance_scale,
            "scheduler": generation.scheduler or type(self._model.pipeline.scheduler).__name__,
            "height": height,
            "width": width,
            "dtype": self._info.dtype,
            "engine": json.dumps(self._info.engine.bits, sort_keys=True),
            "scorer": scorer.name,
            "scorer_revision": scorer.weights,
            "score_text": row.score_text,
            "donor_text": row.donor_text,
            "content_text": row.content_text,
            "clip_score": attribute,
            "clip_score_donor": donor,
            "clip_score_content": content,
            "clip_score_unrelated": float(values[3:].mean()) if scored.valid and len(values) > 3 else None,
            "image_distance": scored.distance,
            "status": "ok" if scored.valid else "invalid",
            "batch_size": row.batch_size,
            "torch_version": self._torch,
            "seconds": scored.seconds,
        }

    def _failure(self, row: PlannedRow, error: Exception) -> dict[str, Any]:
        return {
            **cell_columns(row, self._settings.sweep_id, self._info),
            "error_type": type(error).__name__,
            "error": first_line(error),
        }

    def _embedding(self, row: PlannedRow, scored: _Scored) -> dict[str, Any]:
        scorer = self._settings.resolved.scorer
        names = {name: getattr(row, name) for name in ("unit_id", "cell_id", "image_id", "model")}
        return {
            **names,
            "scorer": scorer.name,
            "scorer_revision": scorer.weights,
            "embedding": scored.embedding.tolist(),
        }

    def _kept(self, row: PlannedRow) -> bool:
        return row.seed in self._settings.kept_seeds


def cell_columns(row: PlannedRow, sweep_id: str, model: ResolvedModel) -> dict[str, Any]:
    """Returns the columns that say which cell a row of ``scores`` or ``failures`` is about."""
    return {
        **{name: getattr(row, name) for name in _CELL_COLUMNS},
        "sweep_id": sweep_id,
        "model_revision": model.drawn_with,
        "family": model.family,
        "site_indices": list(row.site_indices),
    }


def _distinct(rows: Sequence[PlannedRow]) -> dict[str, PlannedRow]:
    """Returns each image once, under the first cell that wants it."""
    found: dict[str, PlannedRow] = {}
    for row in rows:
        found.setdefault(row.image_id, row)
    return found


def _image(row: PlannedRow, scored: _Scored) -> dict[str, Any]:
    names = {name: getattr(row, name) for name in _IMAGE_COLUMNS}
    return {**names, "image": encode_image(scored.picture, row.image_id)}


def to_unit(planned: PlannedUnit | FitUnit | EvaluateUnit | TraceUnit | ProbeUnit, resolved: Resolved) -> Unit:
    """Wraps a planned unit for the scheduler."""
    needs = resolved.model(planned.model).worker
    labels = tuple(sorted(needs.label_selector.items()))
    return Unit(
        planned.unit_id, planned.kind, planned.model, planned.order, planned.expected_seconds, planned,
        WorkerNeeds(needs.gpus, labels),
    )  # fmt: skip
