"""A backend made of nothing: carries out a scheduler's actions until told what happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import (
    Action,
    Bind,
    BindFailed,
    Clock,
    Dispatch,
    KillWorker,
    LossReason,
    StartWorker,
    Unit,
    UnitDone,
    UnitOutcome,
    UnitReport,
    UnitsAdded,
    WorkerBound,
    WorkerLost,
    WorkerReady,
)
from orchestrator.scheduler.roster import MAX_ATTEMPTS
from orchestrator.scheduler.state import Scheduler

GPU = WorkerNeeds(gpus=1)


def unit(
    number: int, model: str = "a", needs: WorkerNeeds | None = None, seconds: float = 1.0, block: str = ""
) -> Unit:
    return Unit(f"u{number:03d}", "sweep", model, number, seconds, None, needs or WorkerNeeds(), block)


class Machine:
    """Carries out a scheduler's actions, as a backend would, until told what happens."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.workers: dict[str, str] = {}  # worker -> "starting", "ready", "loading" or "bound"
        self.models: dict[str, str] = {}
        self.needs: dict[str, WorkerNeeds] = {}
        self.queues: dict[str, list[Dispatch]] = {}
        self.dispatched: list[Dispatch] = []
        self.loads: Counter[str] = Counter()
        self.settled: dict[str, UnitReport] = {}

    def step(self, *events: object) -> list[Action]:
        for event in events:
            self.scheduler.apply(event)  # type: ignore[arg-type]
        for settled in self.scheduler.take_settled():
            assert settled.unit.unit_id not in self.settled, "settled twice"
            self.settled[settled.unit.unit_id] = settled.report
        actions = self.scheduler.decide()
        for action in actions:
            self.carry_out(action)
        return actions

    def carry_out(self, action: Action) -> None:
        match action:
            case StartWorker(worker, needs, _):
                assert worker not in self.needs, "a worker's name is used once"
                self.workers[worker], self.queues[worker], self.needs[worker] = "starting", [], needs
            case Bind(worker, model):
                assert self.workers[worker] in ("ready", "bound")
                assert not self.queues[worker]
                self.workers[worker], self.models[worker] = "loading", model
                self.loads[model] += 1
            case Dispatch(worker, work, attempt):
                assert self.workers[worker] == "bound"
                assert self.models[worker] == work.model
                assert self.needs[worker] == work.needs.request
                assert work.unit_id not in self.settled, "dispatched after it was settled"
                assert 1 <= attempt.number <= MAX_ATTEMPTS
                assert attempt.row_by_row == (attempt.number == MAX_ATTEMPTS)
                self.queues[worker].append(action)
                self.dispatched.append(action)
            case KillWorker(worker):
                self.forget(worker)

    def forget(self, worker: str) -> None:
        self.workers.pop(worker, None)
        self.queues.pop(worker, None)

    def ready(self, worker: str) -> None:
        self.workers[worker] = "ready"
        self.step(WorkerReady(worker))

    def bound(self, worker: str) -> None:
        self.workers[worker] = "bound"
        self.step(WorkerBound(worker))

    def fail_to_load(self, worker: str) -> None:
        self.workers[worker] = "ready"
        self.step(BindFailed(worker, "ModelError", "no such model"))

    def done(self, worker: str, outcome: UnitOutcome = "committed", error_type: str | None = None) -> None:
        work = self.queues[worker].pop(0)
        report = UnitReport(work.unit.unit_id, work.attempt.number, outcome, error_type=error_type, error="it failed")
        self.step(UnitDone(worker, report))

    def lost(self, worker: str, reason: LossReason, *committed: str) -> None:
        self.forget(worker)
        self.step(WorkerLost(worker, reason, "it is gone", committed))

    def advance(self, worker: str) -> None:
        """Makes the next thing at a worker go well."""
        match self.workers[worker]:
            case "starting":
                self.ready(worker)
            case "loading":
                self.bound(worker)
            case "bound" if self.queues[worker]:
                self.done(worker)

    def at(self, state: str) -> list[str]:
        return [worker for worker, at in self.workers.items() if at == state]

    def finish(self, turns: int = 2000) -> None:
        for _ in range(turns):
            if self.scheduler.over:
                return
            self.step(Clock(self.scheduler.now + 1.0))
            for worker in list(self.workers):
                if worker in self.workers:
                    self.advance(worker)
        raise AssertionError("it does not end")


def started(units: Sequence[Unit], workers: int = 1, **options: object) -> Machine:
    """A machine whose workers all run and have loaded what they were told to."""
    machine = Machine(Scheduler(workers, **options))  # type: ignore[arg-type]
    machine.step(UnitsAdded(tuple(units)))
    while pending := [*machine.at("starting"), *machine.at("loading")]:
        machine.advance(pending[0])
    return machine
