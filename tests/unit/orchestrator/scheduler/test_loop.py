from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import pytest

from orchestrator.scheduler.loop import Patience, StopSwitch, run_units
from orchestrator.scheduler.progress import Progress, RunSummary
from orchestrator.scheduler.protocol import (
    Attempt,
    BackendError,
    Settled,
    Unit,
    UnitDone,
    UnitReport,
    WorkerLost,
)
from tests.support.planners import Derived
from tests.support.scripted import Diary, ScriptedBackend, unit


def run(
    backend: ScriptedBackend,
    units: Sequence[Unit],
    *,
    alive: Callable[[], bool] = lambda: True,
    patience: Patience | None = None,
    stop: StopSwitch | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> RunSummary:
    return run_units(
        backend,
        Derived(units),
        backend.diary,
        on_progress,
        stop or StopSwitch(),
        alive=alive,
        patience=patience,
    )


def test_the_journal_names_a_unit_before_it_goes_out_and_while_it_is_next() -> None:
    diary = Diary()
    run(ScriptedBackend(diary), [unit(0), unit(1), unit(2)])
    assert diary.entries == [
        "record ",
        "record u0=1",
        "dispatch u0 1",
        "dispatch u1 1",
        "record u1=1",
        "dispatch u2 1",
        "record u2=1",
        "record ",
    ]


@pytest.mark.parametrize(
    ("isolated", "outcome"), [(True, "dispatch u0 3"), (False, "give up u0: the whole process died at every attempt")]
)
def test_a_unit_that_may_have_killed_three_drivers_is_given_up_only_if_it_could(isolated: bool, outcome: str) -> None:
    diary = Diary({"u0": 3})
    run(ScriptedBackend(diary, isolated=isolated), [unit(0)])
    assert [e for e in diary.entries if not e.startswith("record")] == [outcome]


def test_a_worker_that_takes_too_long_is_killed_and_the_unit_charged() -> None:
    diary = Diary()
    backend = ScriptedBackend(diary)
    backend.hanging = {("u0", 1)}
    summary = run(backend, [unit(0), unit(1)], patience=Patience(multiple=0.1, floor=0.1))
    assert (summary.outcome, summary.committed, summary.retries) == ("done", 2, 1)
    assert backend.killed[0] == "worker-001"
    assert "record u0=2" in diary.entries


def test_a_death_is_charged_to_the_unit_that_caused_it_though_the_report_before_it_died_too() -> None:
    class Dying(ScriptedBackend):
        """Commits u0, goes on with u1, and dies of that before it has said anything."""

        def dispatch(self, worker: str, unit: Unit, attempt: Attempt) -> None:
            super().dispatch(worker, unit, attempt)
            if worker == "worker-001":
                self.events = [WorkerLost(worker, "died", "killed")] if unit.unit_id == "u1" else []
                self.diary.done = {"u0"}

    diary = Diary()
    summary = run(Dying(diary), [unit(0), unit(1), unit(2)])
    assert (summary.outcome, summary.already, summary.committed, summary.retries) == ("done", 1, 2, 1)
    sent = [entry for entry in diary.entries if entry.startswith("dispatch")]
    assert sent == ["dispatch u0 1", "dispatch u1 1", "dispatch u1 2", "dispatch u2 1"]


def test_a_unit_may_take_a_multiple_of_what_is_expected() -> None:
    slow = Unit("slow", "sweep", "a", 0, 60.0, None)
    assert Patience().of(slow, 1) == 600.0
    assert Patience().of(unit(0), 2) == 300.0
    assert Patience().of(unit(0), 3) > 3000.0


def test_a_lost_lease_ends_the_run_and_leaves_the_journal_to_its_new_owner() -> None:
    diary = Diary()
    backend = ScriptedBackend(diary)
    beats = iter([True, True, True, False])
    summary = run(backend, [unit(n) for n in range(9)], alive=lambda: next(beats))
    assert summary.outcome == "lease_lost"
    assert summary.left > 0
    assert backend.killed == ["worker-001"]
    assert diary.last != {}


def test_an_exception_ends_the_workers_and_charges_nobody() -> None:
    diary = Diary()
    backend = ScriptedBackend(diary)

    def full(done: Sequence[Settled]) -> Sequence[Unit]:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_units(backend, Derived([unit(0), unit(1)], full), diary, lambda progress: None, StopSwitch())
    assert backend.killed == ["worker-001"]
    assert diary.last == {}


def test_workers_that_do_not_start_end_the_run_with_the_reason() -> None:
    backend = ScriptedBackend(Diary())
    backend.starts = False
    with pytest.raises(BackendError, match=r"workers do not start: no such file: libcuda\.so"):
        run(backend, [unit(0)])


def test_nothing_to_do_is_done() -> None:
    summary = run(ScriptedBackend(Diary()), [])
    assert (summary.outcome, summary.committed) == ("done", 0)


def test_progress_tells_what_is_left_and_for_how_long() -> None:
    seen: list[Progress] = []
    run(ScriptedBackend(Diary()), [unit(n) for n in range(10)], on_progress=seen.append)
    assert seen[0].eta_seconds is None
    halfway = next(p for p in seen if p.done == 5)
    assert (halfway.left, halfway.rows, halfway.workers, halfway.running) == (5, 50, 1, 1)
    assert halfway.eta_seconds is not None
    assert halfway.rate * halfway.eta_seconds == pytest.approx(50)
    assert (seen[-1].done, seen[-1].left, seen[-1].eta_seconds) == (10, 0, 0.0)


def test_many_units_cost_little_each() -> None:
    began = time.process_time()
    run(ScriptedBackend(Diary(), workers=8), [unit(n) for n in range(5000)])
    assert (time.process_time() - began) / 5000 < 0.002


class Payload:
    """What a unit is computed from."""


def test_what_a_unit_was_computed_from_is_let_go_when_it_is_done() -> None:
    payloads: WeakSet[Payload] = WeakSet()
    most = 0

    def derive(settled: Sequence[Settled]) -> Sequence[Unit]:
        """Asks for a hundred units at a time, each as large as its payload."""
        nonlocal made
        begun, made = made, made + (len(settled) if settled else 100)
        units = [replace(unit(n), payload=Payload()) for n in range(begun, min(made, 20_000))]
        payloads.update(item.payload for item in units)
        return units

    def look(_: Progress) -> None:
        nonlocal most
        most = max(most, len(payloads))

    made = 0
    backend = ScriptedBackend(Diary(), workers=4)
    backend.diary.entries = deque(maxlen=10)  # type: ignore[assignment]
    summary = run_units(backend, Derived(derive(()), derive), backend.diary, look, StopSwitch())
    assert summary.committed == 20_000
    assert most < 200


class Asking:
    """Others that ask for one unit after another, with turns between in which they ask for nothing."""

    def __init__(self, units: Sequence[Unit], *, endless: bool = False) -> None:
        self.left, self.turns, self.endless = list(units), 0, endless

    def __call__(self) -> list[Unit] | None:
        self.turns += 1
        if not self.left and not self.endless:
            return None
        return [self.left.pop(0)] if self.left and self.turns % 5 == 0 else []


def asked(backend: ScriptedBackend, asking: Asking, **options: Any) -> RunSummary:
    return run_units(
        backend, Derived(asking=asking), backend.diary, lambda progress: None, options.pop("stop", StopSwitch()),
        **options,
    )  # fmt: skip


def test_units_that_others_ask_for_are_done_by_a_worker_that_waits_for_them() -> None:
    backend = ScriptedBackend(Diary())
    summary = asked(backend, Asking([unit(0), unit(1), unit(2)]))
    assert (summary.outcome, summary.committed, summary.left) == ("done", 3, 0)
    # The one worker was never let go in between.
    assert backend.killed == ["worker-001"]


def test_stopped_while_others_may_ask_for_more_it_is_not_done() -> None:
    stop, asking = StopSwitch(), Asking([unit(0)], endless=True)
    backend = ScriptedBackend(Diary())
    summary = asked(
        backend, asking, stop=stop, alive=lambda: not (asking.turns > 20 and not stop.pressed and stop.press())
    )
    assert (summary.outcome, summary.committed) == ("stopped", 1)


def test_too_many_failures_end_a_run_that_others_ask_for_units() -> None:
    backend = ScriptedBackend(Diary())
    report = UnitReport("u0", 1, "failed", error="no")
    backend.dispatch = lambda worker, unit, attempt: backend.events.append(  # type: ignore[method-assign]
        UnitDone(worker, replace(report, attempt=attempt.number))
    )
    summary = asked(backend, Asking([unit(0)], endless=True), max_failures=0)
    assert summary.outcome == "too_many_failures"
