from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from loco_core.errors import StoreError
from orchestrator.scheduler.loop import StopSwitch, run_units
from orchestrator.scheduler.progress import RunSummary
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.scheduler.side_work import SideWork
from orchestrator.scheduler.usage import Interval
from tests.support.planners import Derived
from tests.support.scripted import Diary, ScriptedBackend, unit
from tests.support.waits import waited

Derive = Callable[[Sequence[Settled]], Sequence[Unit]]


def until_idle(side: SideWork) -> list[Unit]:
    found = []
    while side.busy:
        side.wait(1)
        found += side.take()
    return found


def run(backend: ScriptedBackend, derive: Derive, side: SideWork, **options: Any) -> RunSummary:
    planner = Derived(derive(()), derive)
    return run_units(backend, planner, backend.diary, lambda progress: None, StopSwitch(), side=side, **options)


def test_jobs_run_in_order_and_what_follows_is_done_in_the_callers_thread() -> None:
    side, ran, threads = SideWork(), list[str](), set[str]()

    def job(name: str) -> str:
        time.sleep(0.01 if name == "a" else 0)
        threads.add(threading.current_thread().name)
        ran.append(name)
        return name

    def then(name: str) -> list[Unit]:
        threads.add(threading.current_thread().name)
        return [unit("abc".index(name))]

    for name in "abc":
        side.submit(lambda name=name: job(name), then)  # type: ignore[misc]
    assert side.busy
    assert side.awaited
    assert [item.unit_id for item in until_idle(side)] == ["u0", "u1", "u2"]
    assert ran == ["a", "b", "c"]
    assert threads == {"side work", threading.current_thread().name}


def test_an_error_is_raised_where_the_end_is_taken_and_nothing_runs_after_it() -> None:
    side, ran = SideWork(), list[str]()

    def fail() -> None:
        raise StoreError("disk full")

    begun = threading.Event()
    side.submit(begun.wait)
    side.submit(fail)
    side.submit(lambda: ran.append("after"))
    begun.set()
    side.wait()
    with pytest.raises(StoreError, match="disk full"):
        side.take()
    assert (ran, side.busy) == ([], False)


def test_what_is_closed_drops_what_has_not_begun_and_is_not_waited_for() -> None:
    side, go, ran = SideWork(), threading.Event(), list[str]()
    side.submit(go.wait, lambda _: [unit(0)])
    side.submit(lambda: ran.append("second"))
    side.close()
    assert not side.wait(0.05)
    go.set()
    assert side.wait(60)
    side.submit(lambda: ran.append("third"))
    assert (side.take(), ran, side.busy) == ([], [], False)


def test_units_follow_from_side_work_and_the_run_wakes_up_for_them() -> None:
    """Half a second a turn would make it 20 seconds; the worker is kept, since more may follow."""
    backend, side = ScriptedBackend(Diary()), SideWork()
    left = 40

    def derive(settled: Sequence[Settled]) -> Sequence[Unit]:
        nonlocal left
        if left:
            left -= 1
            number = left
            side.submit(lambda: number, lambda n: [unit(n)])
        return []

    began = waited()
    summary = run_units(
        backend, Derived(derive(()), derive), backend.diary, lambda progress: None, StopSwitch(), side=side
    )
    assert (summary.outcome, summary.committed) == ("done", 40)
    assert waited() - began < 10
    assert backend.killed == ["worker-001"]


def test_a_run_waits_for_side_work_and_lets_workers_go_that_nothing_follows_for() -> None:
    backend, side, over = ScriptedBackend(Diary()), SideWork(), list[bool]()

    def slow() -> None:
        while not backend.killed:
            time.sleep(0.01)
        over.append(True)

    def derive(settled: Sequence[Settled]) -> Sequence[Unit]:
        if settled:
            side.submit(slow)
        return [] if settled else [unit(0)]

    assert run(backend, derive, side).outcome == "done"
    assert over == [True]


def test_units_go_out_while_a_job_runs() -> None:
    backend, side, go = ScriptedBackend(Diary()), SideWork(), threading.Event()

    def derive(settled: Sequence[Settled]) -> Sequence[Unit]:
        if not settled:
            side.submit(lambda: go.wait(20))
            return [unit(n) for n in range(20)]
        if "dispatch u19 1" in backend.diary.entries:
            go.set()
        return []

    began = waited()
    assert (
        run_units(
            backend, Derived(derive(()), derive), backend.diary, lambda _: None, StopSwitch(), side=side
        ).committed
        == 20
    )
    assert waited() - began < 15


def test_an_error_of_side_work_ends_the_workers_and_charges_nobody() -> None:
    diary, side = Diary(), SideWork()
    backend = ScriptedBackend(diary)
    backend.hanging = {("u0", 1)}

    def fail() -> None:
        raise StoreError("disk full")

    def derive(settled: Sequence[Settled]) -> Sequence[Unit]:
        side.submit(fail)
        return [unit(0)]

    with pytest.raises(StoreError, match="disk full"):
        run(backend, derive, side)
    assert diary.last == {}


class Spent:
    """A ledger whose budget is used up as soon as somebody says so."""

    def __init__(self, over: threading.Event) -> None:
        self._over = over

    def record(self, intervals: Sequence[Interval]) -> None: ...

    def used_up(self, running: Callable[[], Sequence[Interval]]) -> str:
        return "all of it" if self._over.is_set() else ""


@pytest.mark.parametrize("by", ["budget", "person"])
@pytest.mark.parametrize("follows", [True, False])
def test_a_run_that_is_stopped_while_tables_are_made_makes_them_and_leaves_what_follows(
    by: str, follows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.scheduler.loop.BUDGET_SECONDS", 0.0)
    backend, side, over, ran = ScriptedBackend(Diary()), SideWork(), threading.Event(), list[str]()
    stop = StopSwitch()

    def halt() -> None:
        (over.set if by == "budget" else stop.press)()
        while not backend.killed:
            time.sleep(0.01)

    def derive(settled: Sequence[Settled]) -> Sequence[Unit]:
        if settled:
            side.submit(halt)
            side.submit(lambda: ran.append("localized"), lambda _: [unit(1)] if follows else [])
        return [] if settled else [unit(0)]

    planner, ledger = Derived(derive(()), derive), Spent(over)
    summary = run_units(backend, planner, backend.diary, lambda _: None, stop, side=side, ledger=ledger)
    assert ran == ["localized"]
    stopped = "over_budget" if by == "budget" else "stopped"
    assert (summary.outcome, summary.left) == ((stopped, 1) if follows else ("done", 0))
    assert "dispatch u1 1" not in backend.diary.entries


def test_asked_twice_a_run_does_not_wait_for_a_job() -> None:
    backend, side, go, stop = ScriptedBackend(Diary()), SideWork(), threading.Event(), StopSwitch()
    side.submit(go.wait)
    stop.press()
    stop.press()
    assert run_units(backend, Derived(), backend.diary, lambda _: None, stop, side=side).outcome == "stopped"
    go.set()


def test_storage_that_refuses_a_driver_without_its_lease_ends_it_as_such() -> None:
    diary, held = Diary(), [True]
    backend, side = ScriptedBackend(diary), SideWork()
    backend.hanging = {("u0", 1)}

    def taken() -> None:
        held[0] = False
        raise StoreError("another driver took these results over")

    def derive(settled: Sequence[Settled]) -> Sequence[Unit]:
        side.submit(taken)
        return [unit(0)]

    summary = run_units(
        backend,
        Derived(derive(()), derive),
        diary,
        lambda progress: None,
        StopSwitch(),
        side=side,
        alive=lambda: held[0],
    )
    assert summary.outcome == "lease_lost"
