"""The scheduler's decisions, as a state machine without clock, I/O or randomness.

Events go in through :meth:`Scheduler.apply`; :meth:`Scheduler.decide` then says what to do. The two are apart so that a
driver can add the units that follow from an event before idle workers are let go for want of them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.scheduler.protocol import (
    OUT_OF_MEMORY,
    Action,
    Bind,
    BindFailed,
    Dispatch,
    Event,
    KillWorker,
    Settled,
    StartWorker,
    StopRequested,
    Unit,
    UnitDone,
    UnitReport,
    UnitsAdded,
    WorkerBound,
    WorkerDraining,
    WorkerLost,
    WorkerNeeds,
    WorkerReady,
    WorkerStuck,
)

MAX_ATTEMPTS = 3
"""Attempts at a unit before it is given up; the last one goes row by row."""
MAX_LOSSES = 10
"""Machines that may be lost under a unit, or attempts that may not be stored, before these count as attempts: the unit
may be what causes them."""
MAX_TRIES = 3
"""How often in a row, per worker, a process may fail to start, a model to load, or a unit to be stored."""
MAX_STREAK = 2
"""Failed units in a row after which a worker's process is replaced: its memory or its device may be what is broken."""
QUEUE = 2
"""Units at a worker: the one it runs and the next, so that it need not wait while a report travels."""

Group = tuple[WorkerNeeds, str]


@dataclass(eq=False)
class _Task:
    unit: Unit
    attempts: int
    losses: int = 0
    open: bool = True
    holders: int = 0
    raced: bool = False

    @property
    def group(self) -> Group:
        return self.unit.needs, self.unit.model


@dataclass(eq=False)
class _Worker:
    name: str
    needs: WorkerNeeds
    phase: Literal["starting", "ready", "loading", "bound"] = "starting"
    model: str = ""
    queue: list[_Task] = field(default_factory=list)
    leaving: bool = False
    streak: int = 0

    @property
    def group(self) -> Group:
        return self.needs, self.model

    @property
    def unfed(self) -> bool:
        """Whether it will take a unit that it does not have yet."""
        return self.phase != "bound" and not self.leaving


class Scheduler:
    """Which worker does what next.

    Units go out in the order of the plan, one that failed as soon as a worker is free: where everything fails, that
    shows after a few. A worker stays with its model while there are units of it. A unit that fails, or whose worker
    dies, has used up an attempt; one whose machine is taken away has not. When nothing waits any more, idle workers run
    what is still at others a second time (the first commit wins), or are let go.

    Args:
        workers: how many there may be at once.
        charged: attempts that earlier drivers have used up, by unit id.
        max_failures: units that may be given up before the run is stopped; None is no limit.
    """

    def __init__(self, workers: int, charged: Mapping[str, int] | None = None, max_failures: int | None = None) -> None:
        if workers < 1:
            raise ValueError(f"a scheduler needs at least one worker, not {workers}")
        self._limit = workers
        self._charged = dict(charged or {})
        self._max_failures = max_failures
        self._known: set[str] = set()
        self._open = 0
        self._retried: dict[str, _Task] = {}
        self._waiting: dict[Group, list[tuple[int, str, _Task]]] = {}
        self._workers: dict[str, _Worker] = {}
        self._started = 0
        self._start_failures = 0
        self._store_failures = 0
        self._load_failures: Counter[Group] = Counter()
        self._unloadable: dict[Group, BindFailed] = {}
        self._too_large: Counter[Group] = Counter()
        self._kills: list[KillWorker] = []
        self._settled: list[Settled] = []
        self._failures = 0
        self._failed_attempts = 0
        self._losses = 0
        self._seconds_left = 0.0
        self._stopping = False
        self._broken: str | None = None
        self._unstorable: str | None = None
        self.keep_workers = False
        """Whether workers stay when there is nothing for them to do: more is about to be asked for."""

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do or to wait for."""
        return not self._open or (self._stopping and not any(w.queue for w in self._workers.values()))

    @property
    def left(self) -> int:
        """Units that are neither committed nor given up."""
        return self._open

    @property
    def too_many_failures(self) -> bool:
        """Whether more units were given up than the limit allows."""
        return self._max_failures is not None and self._failures > self._max_failures

    @property
    def seconds_left(self) -> float:
        """Expected seconds of the units that are left."""
        return self._seconds_left

    @property
    def failed_attempts(self) -> int:
        """Attempts under this driver that failed."""
        return self._failed_attempts

    @property
    def losses(self) -> int:
        """Workers lost with their machine, which no unit is charged for."""
        return self._losses

    @property
    def broken(self) -> str | None:
        """Why no worker can be had, if so: the error of the last one that did not start."""
        return self._broken

    @property
    def unstorable(self) -> str | None:
        """Why nothing can be stored, if so: the error of the last worker that could not."""
        return self._unstorable

    def worker_counts(self) -> tuple[int, int]:
        """Returns how many workers have a model, and how many are starting or loading."""
        bound = sum(w.phase == "bound" for w in self._workers.values())
        return bound, len(self._workers) - bound

    def loading(self) -> dict[str, str]:
        """Returns the model that each worker is loading."""
        return {w.name: w.model for w in self._workers.values() if w.phase == "loading"}

    def running(self) -> dict[str, tuple[Unit, int]]:
        """Returns what each busy worker runs, not what waits there, and at which attempt."""
        return {w.name: (w.queue[0].unit, w.queue[0].attempts + 1) for w in self._workers.values() if w.queue}

    def attempts(self) -> dict[str, int]:
        """Returns how many attempts units will have used if the driver dies now; those without any are left out."""
        used = self._charged | {unit_id: task.attempts for unit_id, task in self._retried.items()}
        heads = (w.queue[0] for w in self._workers.values() if w.queue)
        return used | {task.unit.unit_id: task.attempts + 1 for task in heads if task.open}

    def take_settled(self) -> list[Settled]:
        """Returns the units settled since the last call."""
        settled, self._settled = self._settled, []
        return settled

    def apply(self, event: Event) -> None:
        """Takes note of an event; those about workers that are gone are ignored."""
        match event:
            case UnitsAdded(units):
                for unit in units:
                    self._add(unit)
            case StopRequested():
                self._stop()
            case _ if (worker := self._workers.get(event.worker)) is not None:
                self._apply_to(worker, event)

    def _apply_to(self, worker: _Worker, event: Event) -> None:
        match event:
            case WorkerReady():
                worker.phase = "ready"
                self._start_failures = 0
            case WorkerBound():
                worker.phase = "bound"
                self._load_failures.pop(worker.group, None)
            case BindFailed():
                group = worker.group
                worker.phase, worker.model = "ready", ""
                self._load_failed(group, event)
            case UnitDone(_, report):
                self._done(worker, report)
            case WorkerDraining():
                worker.leaving = True
            case WorkerStuck(_, error):
                self._kills.append(KillWorker(worker.name))
                self._died(worker, "WorkerStuck", error)
            case WorkerLost(_, "died", error):
                self._died(worker, "WorkerDied", error)
            case WorkerLost(_, _, error):
                self._lost_machine(worker, error)

    def _add(self, unit: Unit) -> None:
        if unit.unit_id in self._known:
            return
        self._known.add(unit.unit_id)
        self._open += 1
        self._seconds_left += unit.expected_seconds
        task = _Task(unit, self._charged.pop(unit.unit_id, 0))
        if task.attempts:
            self._retried[unit.unit_id] = task
        if task.attempts >= MAX_ATTEMPTS:
            self._give_up(task, _failed(task, "DriverDied", "the whole process died at every attempt"))
        else:
            self._wait(task)

    def _done(self, worker: _Worker, report: UnitReport) -> None:
        task = next((task for task in worker.queue if task.unit.unit_id == report.unit_id), None)
        if task is None:
            return
        worker.queue.remove(task)
        task.holders -= 1
        failed = report.outcome in ("failed", "unstored")
        self._store_failures = self._store_failures + 1 if report.outcome == "unstored" else 0
        if self._store_failures >= MAX_TRIES * self._limit:
            self._unstorable = report.error
        if task.open and report.outcome == "unstored" and self._spared(task):
            self._wait(task)
        elif task.open and failed:
            self._charge(task, replace(report, outcome="failed"))
            self._note_memory(worker, report)
        elif task.open:
            self._settle(task, report)
            self._too_large.pop(task.group, None)
        worker.streak = worker.streak + 1 if failed else 0
        if worker.leaving or worker.streak >= MAX_STREAK:
            self._kill(worker)

    def _died(self, worker: _Worker, error_type: str, error: str) -> None:
        """A worker is gone through its own fault or that of what it was at."""
        if worker.phase == "starting":
            self._start_failures += 1
            if self._start_failures >= MAX_TRIES * self._limit:
                self._broken = error
        elif worker.phase == "loading":
            self._load_failed(worker.group, BindFailed(worker.name, error_type, error))
        elif worker.queue:
            task = worker.queue.pop(0)
            task.holders -= 1
            if task.open:
                self._charge(task, _failed(task, error_type, error, worker.name))
        self._remove(worker)

    def _lost_machine(self, worker: _Worker, error: str) -> None:
        self._losses += 1
        if worker.queue and not self._spared(worker.queue[0]):
            self._died(worker, "WorkerLost", error)
            return
        self._remove(worker)

    def _spared(self, task: _Task) -> bool:
        """Counts a loss that is not a unit's fault; tells whether there were too few of them to doubt that."""
        task.losses += 1
        return task.losses <= MAX_LOSSES

    def _note_memory(self, worker: _Worker, report: UnitReport) -> None:
        """Gives a model's units up where all that is tried runs out of memory: at its batch size it does not fit."""
        if report.error_type != OUT_OF_MEMORY:
            return
        self._too_large[worker.group] += 1
        if self._too_large[worker.group] >= MAX_TRIES * self._limit:
            self._cannot_run(worker.group, BindFailed(worker.name, OUT_OF_MEMORY, report.error or ""))

    def _load_failed(self, group: Group, failure: BindFailed) -> None:
        self._load_failures[group] += 1
        if self._load_failures[group] < MAX_TRIES * self._limit:
            return
        if failure.unstored:
            self._unstorable = failure.error
        else:
            self._cannot_run(group, failure)

    def _cannot_run(self, group: Group, failure: BindFailed) -> None:
        self._unloadable[group] = failure
        for *_, task in self._waiting.pop(group, []):
            self._wait(task)

    def _kill(self, worker: _Worker) -> None:
        self._kills.append(KillWorker(worker.name))
        self._remove(worker)

    def _remove(self, worker: _Worker) -> None:
        """Forgets a worker; what it held waits again, uncharged."""
        del self._workers[worker.name]
        for task in worker.queue:
            task.holders -= 1
            if task.open:
                self._wait(task)

    def _wait(self, task: _Task) -> None:
        """Queues a task, unless another worker is at it too or its model does not load."""
        if task.holders:
            return
        failure = self._unloadable.get(task.group)
        if failure is not None:
            self._give_up(task, _failed(task, failure.error_type, failure.error))
            return
        heap = self._waiting.setdefault(task.group, [])
        heapq.heappush(heap, (task.unit.order, task.unit.unit_id, task))

    def _charge(self, task: _Task, report: UnitReport) -> None:
        """Counts a failed attempt; both copies of a raced unit are one, and the second to end decides."""
        if task.holders:
            return
        task.attempts += 1
        self._failed_attempts += 1
        self._retried[task.unit.unit_id] = task
        # Row by row at the frozen shape would run out of memory again.
        if task.attempts < MAX_ATTEMPTS - (report.error_type == OUT_OF_MEMORY):
            self._wait(task)
        else:
            self._give_up(task, report)

    def _give_up(self, task: _Task, report: UnitReport) -> None:
        self._failures += 1
        self._settle(task, report)
        if self.too_many_failures:
            self._stop()

    def _settle(self, task: _Task, report: UnitReport) -> None:
        task.open = False
        self._open -= 1
        self._seconds_left -= task.unit.expected_seconds
        self._retried.pop(task.unit.unit_id, None)
        self._settled.append(Settled(task.unit, report))

    def _stop(self) -> None:
        self._stopping = True
        for worker in self._workers.values():
            worker.leaving = True

    def decide(self) -> list[Action]:
        """Returns what to do now, in order, and takes it as done."""
        actions: list[Action] = list(self._take_kills())
        for worker in list(self._workers.values()):
            if worker.leaving and not (worker.queue and worker.queue[0].open):
                self._kill(worker)
        if not self._stopping:
            actions += [*self._feed(), *self._prefetch(), *self._start()]
            if not self.keep_workers:
                self._release_pending()
        return [*actions, *self._take_kills()]

    def close(self) -> list[KillWorker]:
        """Lets go of all workers; units that they were at are not charged."""
        for worker in list(self._workers.values()):
            self._kill(worker)
        return self._take_kills()

    def _take_kills(self) -> list[KillWorker]:
        kills, self._kills = self._kills, []
        return kills

    def _feed(self) -> Iterator[Action]:
        """Gives every worker that has nothing a unit of its model, another model, a second copy, or leave."""
        for worker in list(self._workers.values()):
            if worker.queue or worker.phase in ("starting", "loading"):
                continue
            if worker.phase == "bound" and worker.group in self._waiting:
                yield self._send(worker, self._pop(worker.group))
            elif (group := self._next_model(worker.needs)) is not None:
                worker.phase, worker.model = "loading", group[1]
                yield Bind(worker.name, worker.model)
            elif self.keep_workers:
                # What is about to be asked for is worth more than a second copy of what runs.
                continue
            elif (task := self._raceable(worker)) is not None:
                task.raced = True
                yield self._send(worker, task)
            else:
                self._kill(worker)

    def _prefetch(self) -> Iterator[Action]:
        """Gives busy workers their next unit, if workers that are on their way leave any."""
        for worker in self._workers.values():
            if worker.leaving or not 0 < len(worker.queue) < QUEUE:
                continue
            unfed = sum(self._may_take(other, worker.group) for other in self._workers.values())
            if self._count(worker.group) > unfed:
                yield self._send(worker, self._pop(worker.group))

    def _start(self) -> Iterator[Action]:
        """Asks for as many workers as there is work for, the plan's first needs first."""
        first: dict[WorkerNeeds, int] = {}
        waiting: Counter[WorkerNeeds] = Counter()
        for (needs, _), heap in self._waiting.items():
            first[needs] = min(first.get(needs, heap[0][0]), heap[0][0])
            waiting[needs] += len(heap)
        room = self._limit - sum(not w.leaving for w in self._workers.values())
        for needs in sorted(first, key=lambda n: first[n]):
            missing = waiting[needs] - sum(w.unfed and w.needs == needs for w in self._workers.values())
            for _ in range(min(room, missing)):
                self._started += 1
                worker = _Worker(f"worker-{self._started:03d}", needs)
                self._workers[worker.name] = worker
                room -= 1
                yield StartWorker(worker.name, needs)

    def _release_pending(self) -> None:
        """Lets go of workers that have not started and would find nothing to do; the last asked for go first."""
        for needs in {w.needs for w in self._workers.values()}:
            waiting = sum(len(heap) for group, heap in self._waiting.items() if group[0] == needs)
            unfed = [w for w in self._workers.values() if w.unfed and w.needs == needs]
            pending = [w for w in unfed if w.phase == "starting"]
            for worker in pending[max(0, waiting - (len(unfed) - len(pending))) :]:
                self._kill(worker)

    def _next_model(self, needs: WorkerNeeds) -> Group | None:
        """Of the models with more units than workers loading them the one with the fewest workers, then the first."""
        holding = Counter(w.group for w in self._workers.values() if not w.leaving)
        loading = Counter(w.group for w in self._workers.values() if w.phase == "loading")
        choices = [g for g in self._waiting if g[0] == needs and self._count(g) > loading[g]]
        return min(choices, key=lambda g: (holding[g], self._waiting[g][0][0]), default=None)

    def _raceable(self, worker: _Worker) -> _Task | None:
        """A unit at another worker that this one may run too: first one that still queues there, then one that runs."""
        queues = [w.queue for w in self._workers.values() if w is not worker and w.group == worker.group]
        for task in [*(t for queue in queues for t in queue[1:]), *(queue[0] for queue in queues if queue)]:
            # A unit that has failed before may be what kills workers.
            if task.open and not task.attempts and not task.raced and worker.phase == "bound":
                return task
        return None

    def _may_take(self, worker: _Worker, group: Group) -> bool:
        return worker.unfed and worker.needs == group[0] and worker.model in ("", group[1])

    def _count(self, group: Group) -> int:
        return len(self._waiting.get(group, ()))

    def _pop(self, group: Group) -> _Task:
        heap = self._waiting[group]
        task = heapq.heappop(heap)[-1]
        if not heap:
            del self._waiting[group]
        return task

    def _send(self, worker: _Worker, task: _Task) -> Dispatch:
        worker.queue.append(task)
        task.holders += 1
        return Dispatch(worker.name, task.unit, task.attempts + 1, task.attempts + 1 >= MAX_ATTEMPTS)


def _failed(task: _Task, error_type: str, error: str, worker: str = "") -> UnitReport:
    attempt = min(task.attempts + 1, MAX_ATTEMPTS)
    return UnitReport(task.unit.unit_id, attempt, "failed", error_type=error_type, error=error, worker=worker)
