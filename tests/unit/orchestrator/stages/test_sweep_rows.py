"""What localizers read of a running sweep: numbers that units report, and rows that follow from the plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.spec import SweepSpec
from orchestrator.stages.sweep.plan import plan
from orchestrator.stages.sweep.planned import Plan
from orchestrator.stages.sweep.rows import LOCALIZER_COLUMNS, NUMBERS, Reported, cell_columns, reported, score_rows
from orchestrator.stages.sweep.stage import KeptScores
from orchestrator.store import make_table
from tests.support.plans import drawn
from tests.support.sweeps import fake_resolved, tiny_sweep

MISSING, INVALID = 5, 7
"""Of these places in every unit one cell has no score, and one an invalid image."""


def small(**changes: Any) -> SweepSpec:
    content = {"attributes": ["style/velor"], "interventions": [{}, {"part": "k", "steps": [0, 1]}]}
    return tiny_sweep("x", **{**content, "controls": {"random": 1, "complement": True}, **changes})


def committed(spec: SweepSpec, units: Plan) -> list[tuple[pa.Table, Reported]]:
    """Returns what each unit commits, and what it reports."""
    resolved, generator, found = fake_resolved(spec), np.random.default_rng(0), []
    for unit in units.payloads():
        rows = [row for row in drawn(spec, resolved, unit) if row.emit]
        scores = [
            {
                **cell_columns(row, "s", resolved.models[0]), "steps": spec.generation.steps,
                **{name: float(generator.normal()) for name in NUMBERS if i != INVALID},
                "status": "invalid" if i == INVALID else "ok",
            }
            for i, row in enumerate(rows)
            if i != MISSING
        ]  # fmt: skip
        table = make_table("scores", scores)
        found.append((table, reported(table, [row.cell_id for row in rows])))
    return found


def sorted_rows(table: pa.Table) -> list[dict[str, Any]]:
    rows = table.select(LOCALIZER_COLUMNS).to_pylist()
    return sorted(rows, key=lambda row: tuple(map(str, row.values())))


def test_rows_made_of_plan_and_reports_are_those_that_were_committed() -> None:
    spec = small(windows={"sizes": [1, 16], "stride": 4})
    units = plan(spec, fake_resolved(spec))
    found = committed(spec, units)
    told = Reported(
        np.concatenate([each.numbers for _, each in found]), np.concatenate([each.status for _, each in found])
    )
    rows = score_rows(units, told, spec.generation.steps)
    scores = pa.concat_tables([table for table, _ in found])
    assert rows.num_rows == int(units.column("cells").sum()) - len(units)
    assert sorted_rows(rows) == sorted_rows(scores)
    assert rows.schema.equals(scores.select(LOCALIZER_COLUMNS).schema)


def test_what_is_reported_is_kept_until_it_is_dropped() -> None:
    spec, steps = small(), 2
    units = plan(spec, fake_resolved(spec))
    found = committed(spec, units)
    kept = KeptScores(units.take(np.arange(2)))
    kept.put(1, found[1][1])
    kept.grow(units.take(np.arange(2, len(units))))
    kept.put(2, None)
    kept.put(3, found[3][1])
    assert kept.untold == [name for i, name in enumerate(units.unit_ids) if i not in (1, 2, 3)]
    scores = pa.concat_tables([found[1][0], found[3][0]])
    assert sorted_rows(kept.rows(steps)) == sorted_rows(scores)
    kept.drop()
    assert kept.untold == units.unit_ids
    assert not kept.rows(steps).num_rows


@pytest.mark.parametrize("gone", [(), (0,), (1, 2), (0, 1, 2)])
def test_numbers_are_told_of_the_cells_that_have_a_score(gone: tuple[int, ...]) -> None:
    # Labels may share an image, and so a cell.
    cells = ["a", "b", "b"]
    rows = [{"cell_id": cell, "clip_score": float(i), "status": "ok"} for i, cell in enumerate(cells) if i not in gone]
    found = reported(make_table("scores", rows), cells)
    assert found.status.tolist() == [int(i not in gone) for i in range(3)]
    assert found.numbers[found.status > 0, 0].tolist() == [i for i in range(3) if i not in gone]
    assert np.isnan(found.numbers[found.status == 0]).all()
