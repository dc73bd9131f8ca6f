"""The benchmark of methods: what each of them takes."""

from __future__ import annotations

from typing import cast

import numpy as np
import pyarrow as pa

from benchmarks.methods import localizations
from loco_core.localization.base import LocalizeSettings, rule
from loco_core.localization.bench.replay import ReplayedTable
from loco_core.testing.localizers import a_table
from orchestrator.store import Store


class Kept:
    """A store of three tables."""

    def __init__(self, tables: dict[str, pa.Table]) -> None:
        self._tables = tables

    def read(self, name: str) -> pa.Table:
        return self._tables[name]


def test_complements_of_window_are_charged_with_the_clean_and_donor_images_that_go_with_them() -> None:
    simulated = a_table("redundant", 0)
    scores = pa.concat_tables([simulated.scores, simulated.complement_scores])
    scores = scores.append_column("seconds", pa.array(np.full(scores.num_rows, 0.5, dtype=np.float32)))
    names = {name: str(scores[name][0].as_py()) for name in ("model", "attribute")}
    said = {**names, "outcome": "redundant", "window_start": None, "window_size": None}
    traces = pa.table({"attribute": pa.array([], pa.string()), "method": pa.array([], pa.string())})
    rows = pa.Table.from_pylist([{**said, "localizer": "window"}, {**said, "localizer": "argmin"}])
    store = Kept({"scores": scores, "traces": traces, "localizations": rows})
    window, sequential, argmin = localizations(names["model"], cast("Store", store), {})
    assert [row["method"] for row in (window, sequential, argmin)] == ["window", "sequential", "argmin"]
    answer = ReplayedTable(scores).answer(rule("window"), LocalizeSettings())
    assert window["images"] == answer.drawn > answer.images > argmin["images"]
    assert window["seconds"] == 0.5 * window["images"]
    assert argmin["seconds"] == 0.5 * argmin["images"]
