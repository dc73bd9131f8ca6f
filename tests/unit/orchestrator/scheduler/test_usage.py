"""The account of workers' time: whole, whatever happens to them, and split as they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduler.loop import StopSwitch, run_units
from orchestrator.scheduler.needs import Node
from orchestrator.scheduler.protocol import (
    Attempt,
    Bind,
    BindFailed,
    Dispatch,
    KillWorker,
    UnitDone,
    UnitReport,
    WorkerBound,
    WorkerLost,
    WorkerReady,
)
from orchestrator.scheduler.usage import ACTIVITIES, Interval, Meter
from tests.support.planners import Derived
from tests.support.scripted import Diary, ScriptedBackend, unit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def report(seconds: float, scoring: float = 0.0, committing: float = 0.0) -> UnitReport:
    return UnitReport("u0", 1, "committed", seconds=seconds, scoring=scoring, committing=committing)


def spent(item: Interval) -> dict[str, float]:
    return {name: round(getattr(item, name), 6) for name in (*ACTIVITIES, "waiting") if getattr(item, name)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> Meter:
    """A meter with a worker that is ready, has waited a second, has loaded for four, and has a unit."""
    meter = Meter(clock)
    meter.note(WorkerReady("w", gpus=2))
    clock.now += 1
    meter.note(Bind("w", "sdxl"))
    clock.now += 4
    meter.note(WorkerBound("w", "NVIDIA H100"))
    meter.note(Dispatch("w", unit(0), Attempt(1)))
    return meter


def test_an_interval_is_split_as_the_worker_says_and_the_rest_is_waiting(meter: Meter, clock: Clock) -> None:
    clock.now += 10
    meter.note(UnitDone("w", report(9, scoring=2, committing=1)))
    clock.now += 5
    meter.note(KillWorker("w"))
    clock.now += 7
    (found,) = meter.cut()
    assert (found.worker, found.model, found.device, found.gpus) == ("w", "sdxl", "NVIDIA H100", 2)
    assert (found.seconds, found.ended) == (20, 7)
    assert spent(found) == {"loading": 4, "computing": 6, "scoring": 2, "committing": 1, "waiting": 7}
    assert meter.cut() == []


def test_a_unit_longer_than_an_interval_is_in_all_of_them_and_counts_once(meter: Meter, clock: Clock) -> None:
    found = []
    for _ in range(3):
        clock.now += 60
        found += meter.cut()
    clock.now += 20
    meter.note(UnitDone("w", report(200, scoring=15, committing=1)))
    found += meter.cut()
    assert [item.seconds for item in found] == [65, 60, 60, 20]
    assert [spent(item) for item in found[1:]] == [
        {"computing": 60},
        {"computing": 60},
        {"computing": 4, "scoring": 15, "committing": 1},
    ]


def test_time_of_units_that_fail_or_go_with_their_worker_is_paid_for_too(meter: Meter, clock: Clock) -> None:
    clock.now += 30
    meter.note(UnitDone("w", replace(report(30), outcome="failed")))
    meter.note(Dispatch("w", unit(1), Attempt(1)))
    clock.now += 12
    meter.note(WorkerLost("w", "preempted", "its machine was taken"))
    meter.note(KillWorker("w"))
    (found,) = meter.cut()
    assert spent(found) == {"loading": 4, "computing": 42, "waiting": 1}


def test_loading_that_fails_counts_and_another_model_begins_an_interval(clock: Clock) -> None:
    meter = Meter(clock)
    meter.note(WorkerReady("w"))
    meter.note(Bind("w", "large"))
    clock.now += 3
    meter.note(BindFailed("w", "ModelError", "too large"))
    meter.note(Bind("w", "small"))
    clock.now += 2
    meter.note(WorkerBound("w", "cpu"))
    large, small = meter.cut()
    assert (large.model, spent(large), large.gpus) == ("large", {"loading": 3}, 0)
    assert (small.model, spent(small), small.gpus) == ("small", {"loading": 2}, 0)


@pytest.mark.parametrize(
    ("ready", "device"),
    [
        (WorkerReady("w", Node(), 0), "cpu"),
        (WorkerReady("w", Node(), None), "cpu"),
        (WorkerReady("w", Node(gpu="NVIDIA L4"), 0), "cpu"),
        (WorkerReady("w", Node(gpu="NVIDIA L4"), 1), "NVIDIA L4"),
        (WorkerReady("w", Node(), 1), ""),
    ],
)
def test_what_a_worker_computes_on_is_known_before_it_has_loaded_a_model(
    ready: WorkerReady, device: str, clock: Clock
) -> None:
    meter = Meter(clock)
    meter.note(ready)
    clock.now += 1
    assert [item.device for item in meter.running()] == [device]


def test_a_worker_without_a_known_count_of_gpus_has_the_one_that_it_computes_on(clock: Clock) -> None:
    meter = Meter(clock)
    meter.note(WorkerReady("w"))
    meter.note(Bind("w", "sdxl"))
    clock.now += 1
    meter.note(WorkerBound("w", "NVIDIA L4"))
    assert [item.gpus for item in meter.cut()] == [1]


def test_what_runs_can_be_looked_at_without_ending_it(meter: Meter, clock: Clock) -> None:
    clock.now += 10
    assert [spent(item) for item in meter.running()] == [{"loading": 4, "computing": 10, "waiting": 1}]
    clock.now += 10
    assert meter.running() == meter.cut()


STEPS = st.lists(
    st.tuples(st.sampled_from(["bind", "bound", "dispatch", "done", "cut", "look"]), st.floats(0, 50), st.floats(0, 1)),
    max_size=40,
)


@given(STEPS)
def test_whatever_is_reported_and_when_every_second_of_a_worker_is_in_one_interval_once(
    steps: Sequence[tuple[str, float, float]],
) -> None:
    clock = Clock()
    meter, found = Meter(clock), list[Interval]()
    meter.note(WorkerReady("w", gpus=1))
    began = clock.now
    for what, seconds, share in steps:
        clock.now += seconds
        if what == "bind":
            meter.note(Bind("w", f"model {share}"))
        elif what == "bound":
            meter.note(WorkerBound("w", "cpu"))
        elif what == "dispatch":
            meter.note(Dispatch("w", unit(0), Attempt(1)))
        elif what == "done":
            # Of a worker whose clock runs otherwise, or whose report was late.
            total = seconds * 2 * share
            meter.note(UnitDone("w", report(total, total * share / 2, total * share / 2)))
        elif what == "cut":
            found += meter.cut()
        else:
            meter.running()
    meter.note(KillWorker("w"))
    found += meter.cut()
    assert sum(item.seconds for item in found) == pytest.approx(clock.now - began)
    for item in found:
        parts = [getattr(item, name) for name in (*ACTIVITIES, "waiting")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(item.seconds)


class Counting:
    """A ledger whose budget is a number of looks at it."""

    def __init__(self, looks: int | None) -> None:
        self.recorded: list[Interval] = []
        self._looks = looks

    def record(self, intervals: Sequence[Interval]) -> None:
        self.recorded += intervals

    def used_up(self, running: Callable[[], Sequence[Interval]]) -> str:
        if self._looks is not None:
            self._looks -= 1
        return "all of it" if self._looks is not None and self._looks < 0 else ""


def test_a_run_that_has_used_up_its_budget_starts_no_worker() -> None:
    backend, ledger = ScriptedBackend(Diary()), Counting(0)
    summary = run_units(backend, Derived([unit(0)]), backend.diary, lambda _: None, StopSwitch(), ledger=ledger)
    assert (summary.outcome, summary.used_up, summary.left) == ("over_budget", "all of it", 1)
    assert not [entry for entry in backend.diary.entries if entry.startswith("dispatch")]
    assert ledger.recorded == []


def test_a_budget_that_is_used_up_lets_running_units_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.scheduler.loop.BUDGET_SECONDS", 0.0)
    backend, ledger = ScriptedBackend(Diary()), Counting(4)
    units = [unit(number) for number in range(20)]
    summary = run_units(backend, Derived(units), backend.diary, lambda _: None, StopSwitch(), ledger=ledger)
    assert (summary.outcome, summary.used_up) == ("over_budget", "all of it")
    assert 0 < summary.committed < 20
    assert summary.committed + summary.left == 20
    (used,) = ledger.recorded
    assert used.model == "a"


def test_a_sweep_that_is_done_when_its_budget_is_used_up_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.scheduler.loop.BUDGET_SECONDS", 0.0)
    backend = ScriptedBackend(Diary())
    summary = run_units(backend, Derived([unit(0)]), backend.diary, lambda _: None, StopSwitch(), ledger=Counting(3))
    assert (summary.outcome, summary.committed) == ("done", 1)
