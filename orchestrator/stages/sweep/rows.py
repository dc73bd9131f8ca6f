"""The rows of units, as workers compute them and as localizers read them: both follow from the plan alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loco_core.types import Control, Generation, Intervention, Row
from orchestrator import identity
from orchestrator.resolve.resolved import ResolvedModel, ResolvedScorer
from orchestrator.stages.sweep.planned import Plan, SweepUnit, spread
from orchestrator.stages.sweep.variants import BASELINES, CellVariant

CELL_KEY = ["model", "attribute", "control", "window_start", "window_size", "cell_id"]
"""Columns that make a row of ``scores`` or of ``failures`` one of a kind."""
NUMBERS = ("clip_score", "clip_score_donor", "clip_score_content", "clip_score_unrelated", "margin_clean")
"""What localizers read of every cell."""
STATUS: Mapping[str, int] = {"": 0, "ok": 1, "invalid": 2}
"""Numbers of what ``status`` says; 0 of a cell that has no score."""
LOCALIZER_COLUMNS = (
    "model", "attribute", "attribute_kind", "mode", "prompt_id", "template_id", "seed", "control", "window_start",
    "window_size", "site_indices", "part", "step_start", "step_end", "tokens", "guidance_half", "pooled", "source",
    "steps", "status", *NUMBERS,
)  # fmt: skip
"""Columns of ``scores`` that localizers of a running sweep are given."""


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One cell of a unit.

    Attributes:
        unit: the unit that computes it.
        variant: what the cell is, beside its texts and its seed.
        intervention: of the variant, with its last step.
        emit: whether the cell becomes a score: differences are taken from the clean image in every slice of a block,
            but it is scored once.
        image_id: identity of the image.
        cell_id: identity of the cell.
    """

    unit: SweepUnit
    variant: CellVariant
    intervention: Intervention
    emit: bool
    image_id: str
    cell_id: str

    @property
    def control(self) -> Control:
        """What the cell is for."""
        return self.variant.control

    @property
    def seed(self) -> int:
        """Seed of the image."""
        return self.unit.seed

    @property
    def texts(self) -> list[str]:
        """What the image is compared with.

        That is its attribute, what its margin is taken against, its content, and of clean images unrelated contents.
        """
        record = self.unit.prompt.record
        unrelated = self.unit.prompt.unrelated if self.control == "clean" else ()
        return [record.score_text, *record.against, record.content_text, *unrelated]

    @property
    def engine_row(self) -> Row:
        """What the engine generates."""
        return Row(*self.variant.texts(self.unit.prompt.record), self.unit.seed, self.intervention)


def rows_of(
    unit: SweepUnit, model: ResolvedModel, scorer: ResolvedScorer, generation: Generation
) -> tuple[PlannedRow, ...]:
    """Returns the cells of a unit in their order, first the clean image, whether it is scored or not.

    Args:
        unit: as planned.
        model: of the unit, with its names looked up.
        scorer: what scores.
        generation: settings of the model's images.
    """
    record = unit.prompt.record
    baselines = (variant.of(model) for variant in (BASELINES if unit.donor else BASELINES[:1]))
    variants = (*baselines, *unit.variants)
    does = [_to_the_end(variant.intervention, generation.steps) for variant in variants]
    alike: dict[tuple[str, str], list[int]] = {}
    for i, variant in enumerate(variants):
        alike.setdefault(variant.texts(record), []).append(i)
    images = [""] * len(variants)
    for (prompt, donor), places in alike.items():
        key = identity.ImageKey(
            model.weights_id, model.dtype, prompt, donor, unit.seed, does[0], generation, model.engine.bits
        )
        for i, image in zip(places, identity.image_ids(key, [does[i] for i in places]), strict=True):
            images[i] = image
    texts = (record.score_text, record.donor_text, record.content_text, record.siblings)
    cells = identity.cell_ids(identity.CellKey("", scorer.name, scorer.weights, *texts), images)
    emitted = (unit.clean, *[True] * (len(variants) - 1))
    return tuple(PlannedRow(unit, *values) for values in zip(variants, does, emitted, images, cells, strict=True))


@lru_cache(maxsize=2**14)
def _to_the_end(intervention: Intervention, steps: int) -> Intervention:
    return intervention if intervention.step_end is not None else replace(intervention, step_end=steps)


def cell_columns(row: PlannedRow, sweep_id: str, model: ResolvedModel) -> dict[str, Any]:
    """Returns the columns that say which cell a row of ``scores`` or ``failures`` is about.

    Args:
        row: the cell.
        sweep_id: identity of the sweep.
        model: of the cell.
    """
    unit, does = row.unit, row.intervention
    prompt, record = unit.prompt, unit.prompt.record
    return {
        "sweep_id": sweep_id, "cell_id": row.cell_id, "image_id": row.image_id, "unit_id": unit.unit_id,
        "model": unit.model, "model_revision": model.weights_id, "family": model.family,
        "attribute": prompt.attribute, "attribute_kind": prompt.attribute_kind, "mode": prompt.mode,
        "prompt_id": prompt.prompt_id, "template_id": record.template_id, "prompt": record.prompt,
        "donor": record.donor, "control": row.control, "window_start": row.variant.window_start,
        "window_size": row.variant.window_size, "site_indices": list(does.sites), "part": does.part,
        "step_start": does.step_start, "step_end": does.step_end, "tokens": does.tokens,
        "guidance_half": does.guidance_half, "pooled": does.pooled, "source": does.source, "seed": unit.seed,
    }  # fmt: skip


@dataclass(frozen=True)
class Reported:
    """What localizers read of a unit: of every cell that it scores, in the order of the unit.

    Attributes:
        numbers: one row per cell, columns `NUMBERS`; NaN where there is none.
        status: see `STATUS`.
    """

    numbers: NDArray[np.float64]
    status: NDArray[np.int8]


def reported(scores: pa.Table, cells: Sequence[str]) -> Reported:
    """Returns what a unit's table of scores says.

    Args:
        scores: rows of ``scores`` of the unit, in the order of its cells; cells without a score have none.
        cells: identities of the cells that it was to score, in order; labels may share one.
    """
    numbers, status = np.full((len(cells), len(NUMBERS)), np.nan), np.zeros(len(cells), np.int8)
    there = iter(zip(scores["cell_id"].to_pylist(), scores["status"].to_pylist(), strict=True))
    at, said = [], next(there, None)
    for i, cell in enumerate(cells):
        if said is not None and said[0] == cell:
            at.append(i)
            status[i] = STATUS[str(said[1])]
            said = next(there, None)
    columns = [scores[name].to_numpy() for name in NUMBERS]
    numbers[at] = np.array(columns, np.float64).T if at else numbers[at]
    return Reported(numbers, status)


def score_rows(units: Plan, found: Reported, steps: int) -> pa.Table:
    """Returns what localizers read: rows as in ``scores``, with `LOCALIZER_COLUMNS`, of the cells that have a score.

    Args:
        units: of one (model, attribute).
        found: what was reported of them, unit after unit.
        steps: of the generation.
    """
    kinds, kind = np.unique(units.scoring(), return_inverse=True)
    variants: dict[CellVariant, int] = {}
    slices = [
        np.array([variants.setdefault(each, len(variants)) for each in units.scored_by(scoring)], np.int64)
        for scoring in kinds.tolist()
    ]
    unit, place = spread(np.array([len(part) for part in slices], np.int64), kind)
    variant = np.concatenate([np.empty(0, np.int64), *slices])[place]
    there = found.status > 0
    unit, variant, numbers = unit[there], variant[there], found.numbers[there]
    prompt = units.column("prompt")[unit]
    columns: dict[str, Any] = {
        "model": pa.array(units.names("model"), pa.string()).take(units.column("model")[unit]),
        **{
            name: pa.array([getattr(each, name) for each in units.prompts], pa.string()).take(prompt)
            for name in ("attribute", "attribute_kind", "mode", "prompt_id")
        },
        "template_id": pa.array([each.record.template_id for each in units.prompts], pa.string()).take(prompt),
        "seed": pa.array(units.column("seed")[unit]),
        **_variant_columns(list(variants), variant, steps),
        "steps": pa.array(np.full(len(unit), steps, np.int32)),
        "status": pa.array(list(STATUS)).take(found.status[there]),
        **{name: pa.array(numbers[:, i], from_pandas=True) for i, name in enumerate(NUMBERS)},
    }
    return pa.table({name: columns[name] for name in LOCALIZER_COLUMNS})


def _variant_columns(variants: Sequence[CellVariant], at: NDArray[np.int64], steps: int) -> dict[str, Any]:
    """Returns the columns that tell variants apart.

    Args:
        variants: some variants.
        at: number of the variant of each row.
        steps: of the generation.
    """
    does = [_to_the_end(variant.intervention, steps) for variant in variants]
    texts, small = pa.string(), pa.int32()
    values: dict[str, tuple[list[Any], pa.DataType]] = {
        "control": ([variant.control for variant in variants], texts),
        "window_start": ([variant.window_start for variant in variants], small),
        "window_size": ([variant.window_size for variant in variants], small),
        "site_indices": ([list(each.sites) for each in does], pa.list_(small)),
        **{name: ([getattr(each, name) for each in does], texts) for name in ("part", "tokens", "guidance_half")},
        **{name: ([getattr(each, name) for each in does], small) for name in ("step_start", "step_end")},
        **{name: ([getattr(each, name) for each in does], texts) for name in ("pooled", "source")},
    }
    return {name: pa.array(column, kind).take(at) for name, (column, kind) in values.items()}
