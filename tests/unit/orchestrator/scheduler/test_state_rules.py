from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.scheduler.protocol import (
    Clock,
    KillWorker,
    LimitChanged,
    LossReason,
    StopRequested,
    UnitDone,
    UnitOutcome,
    UnitReport,
    UnitsAdded,
    WorkerDraining,
    WorkerLost,
    WorkerReady,
    WorkerStuck,
)
from orchestrator.scheduler.roster import LEAST_QUEUE, MAX_ATTEMPTS, MOST_QUEUED, QUEUE_SECONDS
from orchestrator.scheduler.state import Scheduler
from tests.support.machine import GPU, Machine, unit


class SchedulerRules(RuleBasedStateMachine):
    """Whatever happens, no unit is lost, run without need, or run for ever."""

    @initialize(workers=st.integers(1, 4), max_failures=st.one_of(st.none(), st.integers(0, 3)))
    def begin(self, workers: int, max_failures: int | None) -> None:
        self.limit = workers
        self.added: set[str] = set()
        self.draining: set[str] = set()
        self.stopped_at: int | None = None
        self.machine = Machine(Scheduler(workers, {"u000": 1, "u005": 2, "u007": 3}, max_failures))

    @rule(
        count=st.integers(1, 9),
        models=st.sampled_from(["a", "ab", "abc"]),
        gpu=st.booleans(),
        seconds=st.sampled_from([1.0, 25.0]),
        blocks=st.sampled_from(["", "xy"]),
    )
    def add(self, count: int, models: str, gpu: bool, seconds: float, blocks: str) -> None:
        first = len(self.added)
        units = [
            unit(
                n, models[n % len(models)], GPU if gpu and n % len(models) else None, seconds,
                blocks and blocks[n // 3 % 2],
            )
            for n in range(first, first + count)
        ]  # fmt: skip
        self.added.update(u.unit_id for u in units)
        self.machine.step(UnitsAdded(tuple(units)), UnitsAdded(tuple(units)))

    def pick(self, data: st.DataObject, among: Sequence[str]) -> str:
        return data.draw(st.sampled_from(sorted(among)))

    @precondition(lambda self: self.machine.workers)
    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        self.machine.advance(self.pick(data, list(self.machine.workers)))

    def busy(self) -> list[str]:
        return [worker for worker, queue in self.machine.queues.items() if queue]

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), outcome=st.sampled_from(["committed", "already", "failed", "unstored"]))
    def report(self, data: st.DataObject, outcome: UnitOutcome) -> None:
        self.machine.done(self.pick(data, self.busy()), outcome)

    @precondition(lambda self: self.machine.workers)
    @rule(data=st.data(), reason=st.sampled_from(["died", "preempted", "unreachable"]), unsaid=st.integers(0, 2))
    def lose(self, data: st.DataObject, reason: LossReason, unsaid: int) -> None:
        worker = self.pick(data, list(self.machine.workers))
        committed = [dispatch.unit.unit_id for dispatch in self.machine.queues[worker][:unsaid]]
        before = self.machine.scheduler.failed_attempts
        self.machine.lost(worker, reason, *committed)
        assert self.machine.scheduler.failed_attempts - before <= 1
        assert set(committed) <= set(self.machine.settled)

    @precondition(lambda self: self.machine.at("loading"))
    @rule(data=st.data())
    def fail_to_load(self, data: st.DataObject) -> None:
        worker = self.pick(data, self.machine.at("loading"))
        self.machine.fail_to_load(worker)

    @rule(seconds=st.sampled_from([1.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.machine.step(Clock(self.machine.scheduler.now + seconds))

    @precondition(lambda self: self.busy() or self.machine.at("loading"))
    @rule(data=st.data())
    def stick(self, data: st.DataObject) -> None:
        worker = self.pick(data, [*self.busy(), *self.machine.at("loading")])
        actions = self.machine.step(WorkerStuck(worker, "slow"))
        assert KillWorker(worker) in actions

    @precondition(lambda self: self.machine.workers)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        worker = self.pick(data, list(self.machine.workers))
        self.draining.add(worker)
        self.machine.step(WorkerDraining(worker))

    @rule(workers=st.integers(1, 4))
    def change_the_limit(self, workers: int) -> None:
        self.limit = workers
        self.machine.step(LimitChanged(workers))

    @rule()
    def echo_of_a_worker_that_is_gone(self) -> None:
        self.machine.step(
            WorkerReady("gone"), WorkerLost("gone", "died", ""), UnitDone("gone", UnitReport("u000", 1, "failed"))
        )

    @precondition(lambda self: self.stopped_at is None and len(self.added) > 12)
    @rule()
    def stop(self) -> None:
        self.stopped_at = len(self.machine.dispatched)
        self.machine.step(StopRequested())

    @invariant()
    def no_unit_is_lost(self) -> None:
        assert len(self.machine.settled) + self.machine.scheduler.left == len(self.added)
        assert set(self.machine.settled) <= self.added

    @invariant()
    def work_goes_on(self) -> None:
        machine = self.machine
        # A load that failed is tried again after a pause, at the latest when a refusal has run out.
        over = machine.scheduler.over or machine.scheduler.broken or not self.limit
        assert over or machine.workers or self.waits(), "units are left, and nobody is at them"
        assert all(state != "ready" or w in self.draining for w, state in machine.workers.items())
        idle = [w for w in machine.at("bound") if not machine.queues[w]]
        assert not idle, f"kept without work: {idle}"

    def waits(self) -> bool:
        """Whether a load that failed is to be tried again."""
        roster = self.machine.scheduler._roster
        return any(roster.suitability.paused(group) for group in roster.waiting)

    @invariant()
    def bounds_hold(self) -> None:
        machine = self.machine
        leaving = {w.name for w in machine.scheduler._roster.members.values() if w.leaving}
        assert sum(w not in leaving for w in machine.workers) <= self.limit
        for queue in machine.queues.values():
            assert len(queue) <= MOST_QUEUED
            # What goes out last goes out since it is less than a minute without it.
            seconds = [d.unit.expected_seconds for d in queue if d.unit.unit_id not in machine.settled]
            assert len(queue) <= LEAST_QUEUE or sum(seconds[:-1]) < QUEUE_SECONDS
        held = Counter(d.unit.unit_id for queue in machine.queues.values() for d in queue)
        for unit_id, copies in held.items():
            assert copies <= 2
            if copies > 1:
                assert all(
                    d.attempt.number == 1 for q in machine.queues.values() for d in q if d.unit.unit_id == unit_id
                )
        assert all(1 <= n <= MAX_ATTEMPTS for n in machine.scheduler.attempts().values())

    @invariant()
    def nothing_goes_out_after_a_stop(self) -> None:
        assert self.stopped_at is None or len(self.machine.dispatched) == self.stopped_at

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        self.machine.finish()
        if self.stopped_at is None and not self.machine.scheduler.too_many_failures:
            assert set(self.machine.settled) == self.added


TestSchedulerRules = SchedulerRules.TestCase
TestSchedulerRules.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
