"""The localizers that read traces, on made-up traces whose truth is declared."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from loco_core.errors import LocalizationError
from loco_core.localization.base import LocalizeSettings
from loco_core.localization.localizers import attention_contribution, causal_tracing
from loco_core.testing.traces import simulated_traces

SETTINGS = LocalizeSettings(resamples=200)
SITES = tuple(f"site.{i}" for i in range(16))


def test_contribution_picks_the_window_of_the_largest_sum_and_ranks_all_sites() -> None:
    # The largest site stands alone; three neighbours have more together.
    shares = np.full(16, 0.01)
    shares[2], shares[9:12] = 0.3, (0.2, 0.15, 0.2)
    found = attention_contribution.localize(simulated_traces("attention_contribution", shares), SETTINGS, SITES)
    assert (found.window_start, found.window_size, found.tie_set) == (9, 3, (9,))
    assert found.effect == pytest.approx(0.55 / 0.97, rel=0.05)
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < 0.55 / 0.97 < found.ci_high
    assert max(found.effects, key=lambda row: row.effect or 0).window_start == 2
    assert sum(row.effect or 0 for row in found.effects) == pytest.approx(1)
    assert (found.runner_up_start, found.cells) in ((0, 32), (1, 32), (2, 32))
    assert "2, 9, 11" in found.reason or "2, 11, 9" in found.reason


def test_tracing_picks_the_site_that_brings_most_back_with_its_interval() -> None:
    back = np.zeros(16)
    back[12], back[13] = 0.9, 0.4
    found = causal_tracing.localize(simulated_traces("causal_tracing", back, encoder=(0.7, 0.1)), SETTINGS, SITES)
    assert (found.outcome, found.window_start, found.window_size, found.tie_set) == ("localized", 12, 1, (12,))
    assert found.site_names == ("site.12",)
    assert found.relative_depth == 12 / 15
    assert found.effect == pytest.approx(0.9, abs=0.05)
    assert found.ci_low is not None
    assert found.ci_low > 0.8
    assert found.runner_up_start == 13
    assert re.search(r"encoder\.0 brings back (6[5-9]|7[0-5])% \[", found.reason)
    assert [(row.component, row.window_start) for row in found.effects if row.component != "denoiser"] == [
        ("text_encoder", 0), ("text_encoder", 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("full", "back", "noise", "outcome"),
    [(0.0, 0.9, 0.005, "no_effect"), (0.0, 0.9, 0.2, "inconclusive"), (0.3, 0.0, 0.05, "inconclusive")],
)
def test_tracing_says_so_where_there_is_nothing(full: float, back: float, noise: float, outcome: str) -> None:
    traces = simulated_traces("causal_tracing", np.full(16, back), encoder=(0.0,), full=full, noise=noise)
    found = causal_tracing.localize(traces, SETTINGS, SITES)
    assert (found.outcome, found.window_start) == (outcome, None)


def test_an_invalid_picture_is_left_out_and_not_taken_for_zero() -> None:
    back = np.zeros(16)
    back[5] = 1.0
    rows: list[dict[str, Any]] = simulated_traces("causal_tracing", back, encoder=(0.0,)).to_pylist()
    one = (rows[0]["seed"], rows[0]["prompt_id"])
    for row in rows:
        if row["layer"] == 5 and row["component"] == "denoiser" and (row["seed"], row["prompt_id"]) == one:
            row["status"], row["value"] = "invalid", None
    found = causal_tracing.localize(pa.Table.from_pylist(rows), SETTINGS, SITES)
    assert (found.window_start, found.effect) == (5, pytest.approx(1.0, abs=0.05))


def test_a_site_with_one_lucky_picture_is_not_picked() -> None:
    back = np.zeros(16)
    back[3], back[8] = 1.1, 0.5
    rows: list[dict[str, Any]] = simulated_traces("causal_tracing", back, encoder=(0.0,)).to_pylist()
    lucky = (rows[0]["seed"], rows[0]["prompt_id"])
    for row in rows:
        if row["layer"] == 3 and row["component"] == "denoiser" and (row["seed"], row["prompt_id"]) != lucky:
            row["status"], row["value"] = "invalid", None
    found = causal_tracing.localize(pa.Table.from_pylist(rows), SETTINGS, SITES)
    assert (found.outcome, found.window_start) == ("localized", 8)
    assert [row.window_start for row in found.effects if not row.eligible] == [3]


def test_the_best_of_many_sites_that_bring_nothing_back_is_seldom_named() -> None:
    named = 0
    for draw in range(40):
        traces = simulated_traces("causal_tracing", np.zeros(70), encoder=(0.0,), noise=0.05, draw=draw)
        named += causal_tracing.localize(traces, SETTINGS).outcome == "localized"
    # Each bound by itself named one in a third of them.
    assert named <= 5


@pytest.mark.parametrize("localizer", [attention_contribution, causal_tracing])
def test_a_doubled_row_and_a_missing_site_are_refused(localizer: Any) -> None:
    traces = simulated_traces(localizer.READS, np.full(16, 0.1))
    with pytest.raises(LocalizationError, match="several"):
        localizer.localize(pa.concat_tables([traces, traces]), SETTINGS)
    denoiser = [row["component"] != "denoiser" or row["layer"] != 15 for row in traces.to_pylist()]
    with pytest.raises(LocalizationError, match="traces of 15 sites"):
        localizer.localize(traces.filter(pa.array(denoiser)), SETTINGS, SITES)
