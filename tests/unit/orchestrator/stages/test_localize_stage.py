from __future__ import annotations

import pyarrow as pa
import pytest

from orchestrator.spec import InterventionSpec
from orchestrator.stages.localize import under


def rows() -> pa.Table:
    plain = {
        "control": "window", "part": "kv", "tokens": "all", "guidance_half": "conditional", "pooled": "prompt",
        "source": "run", "steps": 8, "step_start": 0, "step_end": 8,
    }  # fmt: skip
    changes = [{}, {"step_end": 2}, {"step_start": 6}, {"part": "k"}, {"control": "clean", "step_end": 0}]
    return pa.Table.from_pylist([plain | change for change in changes])


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        (InterventionSpec(), [0, 4]),
        (InterventionSpec(steps=(0, 2)), [1, 4]),
        (InterventionSpec(steps=(6, 8)), [2, 4]),
        (InterventionSpec(part="k"), [3, 4]),
    ],
)
def test_rows_of_one_intervention_are_kept_with_those_of_none(option: InterventionSpec, kept: list[int]) -> None:
    table = rows()
    assert under(table, option).equals(table.take(pa.array(kept)))
