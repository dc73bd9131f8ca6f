"""What plans hold, cell by cell, as only tests look at them."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.resolve.resolved import Resolved
from orchestrator.spec import SweepSpec
from orchestrator.stages.sweep.planned import Plan, SweepUnit
from orchestrator.stages.sweep.rows import PlannedRow, rows_of

Key = tuple[str, str, str, int | None, int | None, str]


def cells(spec: SweepSpec, resolved: Resolved, plan: Plan) -> list[PlannedRow]:
    """Returns the cells that units score, in order."""
    return [row for unit in plan.payloads() for row in drawn(spec, resolved, unit) if row.emit]


def drawn(spec: SweepSpec, resolved: Resolved, unit: SweepUnit) -> tuple[PlannedRow, ...]:
    """Returns the cells that a unit draws, in order."""
    model = resolved.model(unit.model)
    return rows_of(unit, model, resolved.scorer, model.generation(spec.generation.settings))


def key(row: PlannedRow) -> Key:
    """Returns what makes a row of ``scores`` one of a kind."""
    variant = row.variant
    where = (variant.control, variant.window_start, variant.window_size)
    return row.unit.model, row.unit.attribute, *where, row.cell_id


def keys(rows: Iterable[PlannedRow]) -> set[Key]:
    """Returns the keys of rows."""
    return set(map(key, rows))
