"""What a worker does with a slice of a block: draw its pictures, score them, and say which cell each is."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loco_core.diffusion.generate import generate
from loco_core.errors import first_line
from loco_core.scoring.base import margin_of
from loco_core.types import Intervention, PromptRecord, Row
from orchestrator.scheduler.protocol import Attempt, Unit
from orchestrator.stages.context import Result, WorkerContext
from orchestrator.stages.pictures import encode_image
from orchestrator.stages.sweep.planned import SweepUnit
from orchestrator.stages.sweep.rows import PlannedRow, cell_columns, reported, rows_of
from orchestrator.store import SCHEMA_VERSION, make_table

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

logger = logging.getLogger(__name__)

_IMAGE_COLUMNS = (
    "unit_id", "cell_id", "image_id", "model", "attribute", "prompt", "control", "window_start", "window_size", "seed"
)  # fmt: skip


@dataclass(frozen=True)
class _Scored:
    """What was measured of one generated image, and the image where it is kept."""

    embedding: np.ndarray
    valid: bool
    distance: float | None
    seconds: float
    side: tuple[int, int]
    image: dict[str, Any] | None


@dataclass(frozen=True)
class _Clean:
    """The clean image of a block, from which the others' distances are taken; and its embedding."""

    picture: torch.Tensor
    embedding: np.ndarray
    valid: bool


def work(context: WorkerContext, unit: Unit, attempt: Attempt) -> Result:
    """Draws and scores the cells of a unit; in row-by-row mode those that raise become rows of ``failures``."""
    return _Slice(context, unit.payload, attempt).result()


class _Slice:
    """One slice on its way; kept apart from `work` for what all steps share."""

    def __init__(self, context: WorkerContext, planned: SweepUnit, attempt: Attempt) -> None:
        self._context, self._planned, self._attempt = context, planned, attempt
        self._rows = rows_of(planned, context.info, context.scorer_info, context.generation)
        self._clean: _Clean | None = None
        self._failures: dict[str, Exception] = {}

    def result(self) -> Result:
        tables = self._tables(self._scored())
        self._log_cells(tables)
        scores = tables["scores"]
        invalid = sum(status == "invalid" for status in scores["status"].to_pylist())
        cells = [row.cell_id for row in self._rows if row.emit]
        return Result(
            tables, rows=len(scores) - invalid, invalid=invalid, failed_rows=len(tables["failures"]),
            reported=reported(scores, cells),
        )  # fmt: skip

    def _log_cells(self, tables: Mapping[str, pa.Table]) -> None:
        """Names the cells that have no score in the log, each with what a search for it needs."""
        known = {
            "sweep_id": self._context.sweep_id, "unit_id": self._planned.unit_id, "attempt": self._attempt.number,
        }  # fmt: skip
        for row in tables["scores"].select(["cell_id", "status"]).to_pylist():
            if row["status"] == "invalid":
                logger.info("the image is invalid", extra={**known, "cell_id": row["cell_id"]})
        for row in tables["failures"].select(["cell_id", "error_type", "error"]).to_pylist():
            logger.info("%s: %s", row["error_type"], row["error"], extra={**known, "cell_id": row["cell_id"]})

    def _scored(self) -> dict[str, _Scored]:
        """Draws and measures every image that the unit scores."""
        images = _distinct(self._rows)
        if not self._planned.leads:
            clean = {name: images.pop(name) for name in [self._rows[0].image_id]}
            self._clean = self._context.kept.get(self._clean_key)
            if self._clean is None:
                self._measured(clean)
        return self._measured(images)

    @property
    def _clean_key(self) -> tuple[str, ...]:
        """What the bits of the clean image depend on, in a process that has one model on one device."""
        # Texts are encoded together, see `_texts`.
        return self._rows[0].image_id, self._planned.prompt.record.donor, str(self._planned.batch_size)

    def _measured(self, images: Mapping[str, PlannedRow]) -> dict[str, _Scored]:
        """Draws and measures images, batch by batch; in row-by-row mode one by one, and records those that raise."""
        import torch

        if not self._attempt.row_by_row:
            return dict(self._drawn(images))
        found: dict[str, _Scored] = {}
        for name, row in images.items():
            try:
                found.update(self._drawn({name: row}))
            except torch.OutOfMemoryError:
                # Every row is a batch of the same shape.
                raise
            except Exception as error:  # whatever it is, it is recorded with its cells
                self._failures[name] = error
        return found

    def _drawn(self, images: Mapping[str, PlannedRow]) -> Iterator[tuple[str, _Scored]]:
        names, size, began = list(images), self._planned.batch_size, time.monotonic()
        rows, read = [row.engine_row for row in images.values()], _texts(self._planned.prompt.record)
        for pictures in generate(self._context.model, rows, self._context.generation, size, read=read):
            count = len(pictures.images)
            seconds = (time.monotonic() - began) / count
            yield from self._measure(dict(zip(names[:count], pictures.images, strict=True)), seconds)
            names, began = names[count:], time.monotonic()

    def _measure(self, pictures: Mapping[str, torch.Tensor], seconds: float) -> Iterator[tuple[str, _Scored]]:
        """Measures the images of a batch, the clean one apart: the others' embeddings must not depend on it."""
        import torch

        scorer, clean = self._context.scorer, self._rows[0].image_id
        embeddings: dict[str, np.ndarray] = {}
        if clean in pictures:
            embeddings[clean] = scorer.embed_images(pictures[clean][None])[0]
            self._keep(pictures[clean].clone(), embeddings[clean])
        others = [name for name in pictures if name != clean]
        if others:
            found = scorer.embed_images(torch.stack([pictures[name] for name in others]))
            embeddings.update(zip(others, found, strict=True))
        reference = self._clean if self._clean and self._clean.valid else None
        for name, picture in pictures.items():
            valid = self._context.is_valid(picture)
            distance = None
            if valid and reference is not None:
                distance = float((picture - reference.picture).square().mean().sqrt())
            side = (int(picture.shape[1]), int(picture.shape[2]))
            kept = self._planned.seed in self._context.kept_seeds
            image = encode_image(picture, name) if kept else None
            yield name, _Scored(embeddings[name], valid, distance, seconds, side, image)

    def _keep(self, picture: torch.Tensor, embedding: np.ndarray) -> None:
        """Keeps the clean image, for this unit and for those of its block that come after."""
        self._clean = _Clean(picture, embedding, self._context.is_valid(picture))
        size = picture.element_size() * picture.nelement() + embedding.nbytes
        self._context.kept.put(self._clean_key, self._clean, size)

    def _tables(self, scored: Mapping[str, _Scored]) -> dict[str, pa.Table]:
        device, number = self._context.device, self._attempt.number
        common = {"device": device, "attempt": number, "schema_version": SCHEMA_VERSION}
        emitted = [row for row in self._rows if row.emit]
        rows = [row for row in emitted if row.image_id in scored]
        failed = [row for row in emitted if row.image_id not in scored]
        first = {row.image_id: row for row in reversed(rows)}
        clean = self._clean_margin()
        scores = [{**self._score(row, scored[row.image_id]), "margin_clean": clean, **common} for row in rows]
        return {
            "scores": make_table("scores", scores),
            "failures": make_table(
                "failures", [{**self._failure(row, self._failures[row.image_id]), **common} for row in failed]
            ),
            "embeddings": make_table(
                "embeddings",
                [self._embedding(row, found) for row in first.values() if (found := scored[row.image_id]).valid],
            ),
            "images": make_table(
                "images", [self._image(row, found) for row in first.values() if (found := scored[row.image_id]).image]
            ),
        }

    def _clean_margin(self) -> float | None:
        """Returns the margin of the block's clean image; None where there is none."""
        if self._clean is None or not self._clean.valid:
            return None
        record = self._planned.prompt.record
        texts = [record.score_text, *record.against]
        attribute, against = margin_of(self._context.scorer.score(self._clean.embedding[None], texts)[0])
        return attribute - against

    def _score(self, row: PlannedRow, scored: _Scored) -> dict[str, Any]:
        generation, scorer = self._context.generation, self._context.scorer_info
        texts = row.texts
        values = (
            self._context.scorer.score(scored.embedding[None], texts)[0]
            if scored.valid
            else np.full(len(texts), np.nan)
        )
        record = self._planned.prompt.record
        compared = 1 + len(record.against)
        numbers = (*margin_of(values[:compared]), float(values[compared]))
        attribute, against, content = (value if np.isfinite(value) else None for value in numbers)
        unrelated = values[compared + 1 :]
        height, width = scored.side
        return {
            **cell_columns(row, self._context.sweep_id, self._context.info),
            "steps": generation.steps,
            "guidance_scale": generation.guidance_scale,
            "scheduler": generation.scheduler or type(self._context.model.pipeline.scheduler).__name__,
            "height": height,
            "width": width,
            "dtype": self._context.info.dtype,
            "engine": json.dumps(self._context.info.engine.bits, sort_keys=True),
            "scorer": scorer.name,
            "scorer_revision": scorer.weights,
            "score_text": record.score_text,
            "donor_text": record.donor_text,
            "sibling_texts": list(record.siblings) or None,
            "content_text": record.content_text,
            "clip_score": attribute,
            "clip_score_donor": against,
            "clip_score_content": content,
            "clip_score_unrelated": float(unrelated.mean()) if scored.valid and len(unrelated) else None,
            "image_distance": scored.distance,
            "status": "ok" if scored.valid else "invalid",
            "batch_size": self._planned.batch_size,
            "torch_version": self._context.torch_version,
            "seconds": scored.seconds,
        }

    def _failure(self, row: PlannedRow, error: Exception) -> dict[str, Any]:
        return {
            **cell_columns(row, self._context.sweep_id, self._context.info),
            "error_type": type(error).__name__,
            "error": first_line(error),
        }

    def _embedding(self, row: PlannedRow, scored: _Scored) -> dict[str, Any]:
        scorer = self._context.scorer_info
        return {
            "unit_id": row.unit.unit_id,
            "cell_id": row.cell_id,
            "image_id": row.image_id,
            "model": row.unit.model,
            "scorer": scorer.name,
            "scorer_revision": scorer.weights,
            "embedding": scored.embedding.tolist(),
        }

    def _image(self, row: PlannedRow, scored: _Scored) -> dict[str, Any]:
        known = cell_columns(row, self._context.sweep_id, self._context.info)
        return {**{name: known[name] for name in _IMAGE_COLUMNS}, "image": scored.image}


def _distinct(rows: Sequence[PlannedRow]) -> dict[str, PlannedRow]:
    """Returns each image once, under the first cell that wants it."""
    found: dict[str, PlannedRow] = {}
    for row in rows:
        found.setdefault(row.image_id, row)
    return found


def _texts(record: PromptRecord) -> list[Row]:
    """Returns rows that read every text that a row of the block may read.

    Encoded beside others a text differs from itself in the last bits. So all batches of a block, and every row alone,
    read texts that were encoded together.
    """
    swapped = Intervention((0,))
    return [
        Row(record.prompt, record.donor, 0, swapped), Row(record.prompt, record.prompt, 0, swapped),
        Row(record.donor, record.donor, 0),
    ]  # fmt: skip
