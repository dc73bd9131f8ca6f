from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest

from loco_core.localization.bench.truths import KINDS
from loco_core.localization.localizers.argmin import localize
from loco_core.testing.localizers import SETTINGS, a_table


@pytest.mark.parametrize("kind", KINDS)
def test_it_always_finds_something(kind: str) -> None:
    assert localize(a_table(kind).scores, SETTINGS).outcome == "localized"


def test_lowest_mean_score_of_the_smallest_size() -> None:
    scores = a_table("single", 4).scores
    single_sites = scores.filter(pc.equal(scores["window_size"], 1).fill_null(False)).to_pandas()
    means = single_sites.groupby("window_start")["clip_score"].mean()
    found = localize(scores, SETTINGS)
    assert (found.window_start, found.window_size) == (int(means.idxmin()), 1)
    assert f"{np.min(means):.3f}" in found.reason
