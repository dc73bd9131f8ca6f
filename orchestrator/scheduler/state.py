"""The scheduler's decisions, as a state machine without clock, I/O or randomness.

Events go in through :meth:`Scheduler.apply`; :meth:`Scheduler.decide` then says what to do. The two are apart so that a
driver can add the units that follow from an event before idle workers are let go for want of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.scheduler.needs import Node, WorkerNeeds
from orchestrator.scheduler.protocol import (
    OUT_OF_MEMORY,
    Action,
    BindFailed,
    Clock,
    Event,
    KillWorker,
    LimitChanged,
    Settled,
    StopRequested,
    Unit,
    UnitDone,
    UnitReport,
    UnitsAdded,
    WorkerBound,
    WorkerDraining,
    WorkerLost,
    WorkerReady,
    WorkerRefused,
    WorkerStuck,
)
from orchestrator.scheduler.roster import MAX_ATTEMPTS, Roster
from orchestrator.scheduler.suitability import MAX_TRIES, Group
from orchestrator.scheduler.waiting import Member, Task

MAX_LOSSES = 10
"""Machines that may be lost under a unit, or attempts that may not be stored, before these count as attempts: the unit
may be what causes them."""
MAX_MISFITS = 10
"""Machines in a row, and two per worker, that may not do before no more are asked for for a while."""
MAX_STREAK = 2
"""Failed units in a row after which a worker's process is replaced: its memory or its device may be what is broken."""


class Scheduler:
    """Which worker does what next.

    Units go out in the order of the plan, one that failed as soon as a worker is free: where everything fails, that
    shows after a few. A worker stays with its model while there are units of it, and so with its block. A unit that
    fails, or whose worker dies, has used up an attempt; one whose machine is taken away has not. When nothing waits any
    more, idle workers run what is still at others a second time (the first commit wins), or are let go.

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
        self._open: Counter[str] = Counter()
        self._retried: dict[str, Task] = {}
        self._roster = Roster(workers)
        self._workers = self._roster.members
        self._start_failures = 0
        self._store_failures = 0
        self._suitability = self._roster.suitability
        self._largest: set[Group] = set()
        self._unloadable: dict[Group, BindFailed] = {}
        self._kills: list[KillWorker] = []
        self._settled: list[Settled] = []
        self._failures = 0
        self._failed_attempts = 0
        self._losses = 0
        self._seconds_left = 0.0
        self._stopping = False
        self._broken: str | None = None
        self._stuck: str | None = None
        self._misfits: Counter[WorkerNeeds] = Counter()
        self._unstorable: str | None = None
        self.keep_workers = False
        """Whether workers stay when there is nothing for them to do: more is about to be asked for."""

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do or to wait for."""
        return not self.left or (self._stopping and not any(w.queue for w in self._workers.values()))

    @property
    def left(self) -> int:
        """Units that are neither committed nor given up."""
        return self._open.total()

    @property
    def left_by_stage(self) -> Mapping[str, int]:
        """The same by the stage that a unit is of; those without any are left out."""
        return +self._open

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
        """Why no worker can be had for what is left, if so."""
        return self._broken or self._stuck

    @property
    def unstorable(self) -> str | None:
        """Why nothing can be stored, if so: the error of the last worker that could not."""
        return self._unstorable

    @property
    def now(self) -> float:
        """Seconds on the clock that it was last shown."""
        return self._suitability.now

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

    def held(self, worker: str) -> list[Unit]:
        """Returns what a worker was sent and has not reported on; it runs the first."""
        member = self._workers.get(worker)
        return [task.unit for task in member.queue] if member is not None else []

    def attempts(self) -> dict[str, int]:
        """Returns how many attempts units will have used if the driver dies now; those without any are left out."""
        used = self._charged | {unit_id: task.attempts for unit_id, task in self._retried.items()}
        heads = (w.queue[0] for w in self._workers.values() if w.queue)
        return used | {task.unit.unit_id: task.attempts + 1 for task in heads if task.open}

    def take_settled(self) -> list[Settled]:
        """Returns the units settled since the last call; gives up models that cannot run first."""
        self._conclude()
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
            case LimitChanged(workers):
                self._limit = workers
                for member in self._roster.limit_to(workers):
                    member.leaving = True
            case Clock(seconds):
                self._suitability.now = max(self._suitability.now, seconds)
            case _ if (worker := self._workers.get(event.worker)) is not None:
                self._apply_to(worker, event)

    def _apply_to(self, worker: Member, event: Event) -> None:
        match event:
            case WorkerReady(_, node):
                self._ready(worker, node)
            case WorkerRefused(_, error):
                self._suitability.refuse(worker.needs, worker.avoid, error)
                self._remove(worker)
            case WorkerBound() if worker.group is not None:
                worker.phase = "bound"
                self._suitability.loaded(worker.where, worker.group)
            case BindFailed():
                self._load_failed(worker, event)
                worker.phase, worker.group = "ready", None
            case UnitDone(_, report):
                self._done(worker, report)
            case WorkerDraining():
                worker.leaving = True
            case WorkerStuck(_, error):
                self._kills.append(KillWorker(worker.name))
                self._died(worker, "WorkerStuck", error)
            case WorkerLost(_, reason, error, committed):
                self._take_unsaid(worker, committed)
                if reason == "died":
                    self._died(worker, "WorkerDied", error)
                else:
                    self._lost_machine(worker, error)

    def _ready(self, worker: Member, node: Node) -> None:
        worker.phase, worker.node = "ready", node
        self._start_failures = 0
        self._suitability.see(node, worker.needs)
        fits = self._roster.fits(worker)
        self._misfits[worker.needs] = 0 if fits else self._misfits[worker.needs] + 1
        if node.name in worker.avoid:
            self._suitability.refuse(worker.needs, worker.avoid, "there is no other machine")
        elif self._misfits[worker.needs] > MAX_MISFITS + 2 * self._limit:
            # An autoscaler goes on adding machines of the same type.
            self._suitability.refuse(worker.needs, frozenset(), f"{self._misfits[worker.needs]} machines did not do")

    def _add(self, unit: Unit) -> None:
        if unit.unit_id in self._known:
            return
        self._known.add(unit.unit_id)
        self._open[unit.stage] += 1
        self._seconds_left += unit.expected_seconds
        task = Task(unit, self._charged.pop(unit.unit_id, 0))
        if task.attempts:
            self._retried[unit.unit_id] = task
        if task.attempts >= MAX_ATTEMPTS:
            self._give_up(task, _failed(task, "DriverDied", "the whole process died at every attempt"))
        else:
            self._wait(task)

    def _done(self, worker: Member, report: UnitReport) -> None:
        task = next((task for task in worker.queue if task.unit.unit_id == report.unit_id), None)
        if task is None:
            return
        worker.queue.remove(task)
        task.holders -= 1
        failed = report.outcome in ("failed", "unstored")
        self._store_failures = self._store_failures + 1 if report.outcome == "unstored" else 0
        if self._store_failures >= MAX_TRIES * max(self._limit, 1):
            self._unstorable = report.error
        if task.open and report.outcome == "unstored" and self._spared(task):
            self._wait(task)
        elif task.open and failed:
            self._failed(worker, task, replace(report, outcome="failed"))
        elif task.open:
            self._settle(task, report)
            if worker.group is not None:
                self._suitability.ran(worker.where, worker.group)
        worker.failed, worker.done = (worker.failed + 1, 0) if failed else (0, worker.done + 1)
        if worker.leaving or worker.failed >= MAX_STREAK:
            self._kill(worker)

    def _died(self, worker: Member, error_type: str, error: str) -> None:
        """A worker is gone through its own fault or that of what it was at."""
        if worker.phase == "starting":
            self._start_failures += 1
            if self._start_failures >= MAX_TRIES * max(self._limit, 1):
                why = f"workers do not start: {error}"
                if any(w.phase != "starting" for w in self._workers.values()):
                    self._suitability.refuse(worker.needs, frozenset(), why)
                else:
                    self._broken = why
        elif worker.phase == "loading":
            self._load_failed(worker, BindFailed(worker.name, error_type, error))
        elif worker.queue:
            task = worker.queue.pop(0)
            task.holders -= 1
            if task.open:
                self._charge(task, _failed(task, error_type, error, worker.name))
        self._remove(worker)

    def _take_unsaid(self, worker: Member, committed: Sequence[str]) -> None:
        """Takes units as done that a lost worker has committed and could not report, so that none of them is blamed.

        What the worker was at is then the first in its queue. Where another worker may have committed that one, this
        one may still have been at it, and nobody is blamed.
        """
        while worker.queue and worker.queue[0].unit.unit_id in committed:
            task = worker.queue[0]
            if task.open:
                report = UnitReport(task.unit.unit_id, task.attempts + 1, "already", worker=worker.name)
                self._settle(task, report)
            if task.raced or task.losses:
                return
            worker.queue.pop(0)
            task.holders -= 1

    def _lost_machine(self, worker: Member, error: str) -> None:
        self._losses += 1
        self._suitability.lose(worker.where.name)
        if worker.queue and not self._spared(worker.queue[0]):
            self._died(worker, "WorkerLost", error)
            return
        self._remove(worker)

    def _spared(self, task: Task) -> bool:
        """Counts a loss that is not a unit's fault; tells whether there were too few of them to doubt that."""
        task.losses += 1
        return task.losses <= MAX_LOSSES

    def _failed(self, worker: Member, task: Task, report: UnitReport) -> None:
        """A unit failed; one that ran out of memory is not charged while another type of GPU may have room for it."""
        if report.error_type != OUT_OF_MEMORY or worker.group is None:
            self._charge(task, report)
            return
        failure = BindFailed(worker.name, OUT_OF_MEMORY, report.error or "")
        alike = [w for w in self._workers.values() if w.group == worker.group and w.where.kind == worker.where.kind]
        # Tried again where it has run out before, a unit says nothing about others.
        if not task.last_resort and self._suitability.ran_out(worker.where, worker.group, len(alike), failure):
            for member in alike:
                member.leaving = True
        elsewhere = self._raise_needs(task, worker.where, failure) if not task.holders else False
        unknown = worker.where.gpu_memory is None and not self._suitability.has_run(worker.where, worker.group)
        if (elsewhere or unknown) and self._spared(task):
            self._wait(task)
        else:
            self._charge(task, report)

    def _raise_needs(self, task: Task, node: Node, failure: BindFailed) -> bool:
        """Asks for a GPU with more memory for a unit; tells whether there may be one."""
        if node.gpu_memory is None:
            return False
        needs = replace(task.needs, min_gpu_memory=node.gpu_memory + 1)
        group = needs, task.unit.model
        if group in self._largest and not self._suitability.fits_somewhere(group):
            task.last_resort = True
            return False
        task.needs = needs
        self._suitability.needs_more(group, failure)
        return True

    def _load_failed(self, worker: Member, failure: BindFailed) -> None:
        if worker.group is not None:
            self._suitability.load_failed(worker.where, worker.group, failure)

    def _conclude(self) -> None:
        """Gives up models that nobody has and that failed wherever they can be tried."""
        for group, failure in self._roster.hopeless():
            if failure.unstored:
                self._unstorable = failure.error
                continue
            tasks = self._roster.waiting.clear(group)
            if any(task.needs != task.unit.needs for task in tasks):
                # No GPU is larger: these units are tried, and charged, where they ran out of memory.
                self._largest.add(group)
            else:
                self._unloadable[group] = failure
            for task in tasks:
                task.needs, task.last_resort = task.unit.needs, True
                self._wait(task)

    def _kill(self, worker: Member) -> None:
        self._kills.append(KillWorker(worker.name))
        self._remove(worker)

    def _remove(self, worker: Member) -> None:
        """Forgets a worker; what it held waits again, uncharged."""
        del self._workers[worker.name]
        if worker.group is not None:
            self._suitability.leave(worker.group)
        self._roster.waiting.leave(worker)
        for task in worker.queue:
            task.holders -= 1
            if task.open:
                self._wait(task)

    def _wait(self, task: Task) -> None:
        """Queues a task, unless another worker is at it too or its model does not load."""
        if task.holders:
            return
        failure = self._unloadable.get(task.group)
        if failure is not None:
            self._give_up(task, _failed(task, failure.error_type, failure.error))
            return
        self._roster.waiting.push(task)

    def _charge(self, task: Task, report: UnitReport) -> None:
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

    def _give_up(self, task: Task, report: UnitReport) -> None:
        self._failures += 1
        self._settle(task, report)
        if self.too_many_failures:
            self._stop()

    def _settle(self, task: Task, report: UnitReport) -> None:
        task.open = False
        self._open[task.unit.stage] -= 1
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
            self._roster.claim()
            actions += [*self._feed(), *self._roster.prefetch()]
            for worker in [] if self.keep_workers and not self._roster.waiting else self._roster.superfluous():
                self._kill(worker)
            actions += self._roster.start()
            self._stuck = None if self._workers or not self._limit else self._roster.stuck()
        return [*actions, *self._take_kills()]

    def _feed(self) -> Iterator[Action]:
        """Gives every worker that has nothing a unit of its model, another model, a second copy, or leave."""
        for worker in [w for w in self._workers.values() if w.idle]:
            # What is about to be asked for is worth more than a second copy of what runs.
            action = self._roster.feed(worker, race=not self.keep_workers)
            if action is not None:
                yield action
            elif not self.keep_workers or self._roster.waiting:
                # What waits is not for this worker, which may stand in the way of another one.
                self._kill(worker)

    def close(self) -> list[KillWorker]:
        """Lets go of all workers; units that they were at are not charged."""
        for worker in list(self._workers.values()):
            self._kill(worker)
        return self._take_kills()

    def _take_kills(self) -> list[KillWorker]:
        kills, self._kills = self._kills, []
        return kills


def _failed(task: Task, error_type: str, error: str, worker: str = "") -> UnitReport:
    attempt = min(task.attempts + 1, MAX_ATTEMPTS)
    return UnitReport(task.unit.unit_id, attempt, "failed", error_type=error_type, error=error, worker=worker)
