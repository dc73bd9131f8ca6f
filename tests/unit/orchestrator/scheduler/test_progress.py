"""How fast a run is: at present, not on average since its start."""

from __future__ import annotations

import pytest

from orchestrator.scheduler.loop import StopSwitch, run_units
from orchestrator.scheduler.progress import Pace, Progress, StageProgress
from tests.support.planners import Derived
from tests.support.scripted import Diary, ScriptedBackend, unit


def test_the_pace_forgets_what_was_before_the_last_minute() -> None:
    pace = Pace()
    pace.note(0.0, 0, 0.0)
    for second in range(10, 310, 10):
        # Ten minutes' worth of loading at the start, as it were: one row in ten seconds.
        pace.note(second, second // 10, second / 10)
    for second in range(310, 380, 10):
        pace.note(second, 30 + (second - 300) * 5, 30.0 + (second - 300) * 5)
    assert pace.rate(370.0) == pytest.approx(5, rel=0.2)
    assert pace.seconds_for(100.0, 370.0) == pytest.approx(20, rel=0.2)


def test_units_that_take_longer_than_a_minute_still_have_a_pace() -> None:
    pace = Pace()
    pace.note(0.0, 0, 0.0)
    assert (pace.rate(50.0), pace.seconds_for(1.0, 50.0)) == (0.0, None)
    for unit_ in range(1, 4):
        pace.note(100.0 * unit_, 10 * unit_, 5.0 * unit_)
        assert pace.rate(100.0 * unit_) == pytest.approx(0.1)
        assert pace.rate(100.0 * unit_ + 50) > 0


def test_the_pace_falls_where_nothing_is_done_any_more() -> None:
    pace = Pace()
    pace.note(0.0, 0, 0.0)
    pace.note(10.0, 100, 1.0)
    before = pace.rate(10.0)
    pace.note(100.0, 100, 1.0)
    assert pace.rate(100.0) < before / 5


def test_progress_counts_units_by_their_stage() -> None:
    seen: list[Progress] = []
    diary = Diary()
    run_units(
        ScriptedBackend(diary), Derived([unit(0), unit(1), unit(2)]), diary, seen.append, StopSwitch()
    )  # fmt: skip
    stage = unit(0).stage
    assert seen[-1].stages == {stage: StageProgress(done=3)}
    assert all(sum(of.left for of in each.stages.values()) == each.left for each in seen)
    assert all(sum(of.done for of in each.stages.values()) == each.done for each in seen)
