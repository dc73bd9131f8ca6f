"""Who does what next: the workers there are, the units that wait, and how these are shared out among those."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import (
    Action,
    Attempt,
    Bind,
    BindFailed,
    Dispatch,
    StartWorker,
)
from orchestrator.scheduler.suitability import TRIAL_WORKERS, Group, Suitability
from orchestrator.scheduler.waiting import Member, Task, Waiting

MAX_ATTEMPTS = 3
"""Attempts at a unit before it is given up; the last one goes row by row."""
LEAST_QUEUE = 2
"""Units at a worker at least, if there are any: the one it runs and the next, so that it need not wait while a report
travels."""
QUEUE_SECONDS = 60.0
"""Expected seconds of work at a worker, if units are short: it goes on while the driver is slow to answer, since its
storage is, or since many report at once. They are of the cost table, for the slowest device: a fast one holds less."""
MOST_QUEUED = 100
"""Units at a worker at most: each is a call that its backend keeps."""
PENDING_SECONDS = 60.0
"""After how long a worker that does not come gives its place to one that other models need."""


class Roster:
    """Shares what waits out among workers.

    Attributes:
        members: workers by name.
        waiting: what no worker has.
        suitability: where models cannot run.
    """

    def __init__(self, limit: int) -> None:
        """Starts without workers.

        Args:
            limit: how many there may be at once.
        """
        self.members: dict[str, Member] = {}
        self.waiting = Waiting()
        self.suitability = Suitability()
        self._limit, self._started = limit, 0
        self._claims: dict[str, Group] = {}

    def feed(self, worker: Member, *, race: bool) -> Action | None:
        """Gives a worker that has nothing a unit of its model, or another model; None where there is nothing for it.

        Args:
            worker: an idle worker.
            race: whether it may run what another one is at, or is to be.
        """
        claim = self._claims.pop(worker.name, None)
        if claim is None and worker.group is not None and worker.phase == "bound" and worker.group in self.waiting:
            return self._send(worker, self.waiting.pop(worker.group, worker.block))
        if (group := claim or self._next_model(worker)) is not None:
            loaded, worker.group = worker.group, group
            if worker.phase == "bound" and loaded is not None and _alike(loaded, group):
                return self._send(worker, self.waiting.pop(group, worker.block))
            worker.phase = "loading"
            return Bind(worker.name, worker.model)
        if race and (task := self._raceable(worker)) is not None:
            task.raced = True
            return self._send(worker, task)
        return None

    def claim(self) -> None:
        """Lets workers, once they have done what they run, try models that failed elsewhere and that nobody has.

        A machine on which another model runs for hours may be the only one where such a model loads.
        """
        self._claims = {}
        for group in self.waiting:
            able = [w for w in self.members.values() if self._may_try(w, group)] if self._nobody_has(group) else []
            if able:
                self._claims[min(able, key=lambda w: w.seconds).name] = group

    def _nobody_has(self, group: Group) -> bool:
        """Tells whether a model failed somewhere, and no worker has it, or is about to come for it."""
        return self.suitability.failure(group) is not None and not any(
            w.group == group
            or (w.phase == "ready" and self._may_load(w, group))
            or (w.phase == "starting" and w.needs == group[0].request and self._since(w) < PENDING_SECONDS)
            for w in self.members.values()
        )

    def _may_try(self, worker: Member, group: Group) -> bool:
        bound = worker.phase == "bound" and not worker.leaving and worker.name not in self._claims
        return bound and self._may_load(worker, group) and self.suitability.untried(worker.where, group)

    def hopeless(self) -> list[tuple[Group, BindFailed]]:
        """Returns the models that nobody has and that failed wherever they can be tried, and how."""
        has = {w.group for w in self.members.values() if w.phase in ("loading", "bound")}
        failures = {g: self.suitability.failure(g) for g in self.waiting if g not in has}
        if not any(failures.values()):
            return []
        avoid, held = self.avoided(), {w.node for w in self.members.values() if w.node is not None}
        found = []
        for group, failure in failures.items():
            request = group[0].request
            pending = [w for w in self.members.values() if w.phase == "starting" and w.needs == request]
            since = min((w.since for w in pending if w.avoid >= avoid[request]), default=math.inf)
            if failure is not None and self.suitability.hopeless(group, avoid[request], held, since):
                found.append((group, failure))
        return found

    def _since(self, worker: Member) -> float:
        return self.suitability.now - worker.since

    def prefetch(self) -> Iterator[Dispatch]:
        """Gives busy workers what they do next, in turn, if workers that are on their way leave any.

        A worker may hold as much as would be everybody's share of what waits, a minute of it at most, and no more
        units than it has just shown that it can do: near the end, and where all fails, few units stand in a queue.
        """
        busy = [w for w in self.members.values() if w.queue and not w.leaving and w.name not in self._claims]
        seconds = {w.name: w.seconds for w in busy}
        takers = Counter(w.group for w in busy if w.group)
        coming = {group: sum(self._may_take(w, group) for w in self.members.values()) for group in takers}
        while busy:
            still = []
            for worker in busy:
                group, held = worker.group, len(worker.queue)
                if group is None or self.waiting.count(group) <= coming[group]:
                    continue
                if held >= LEAST_QUEUE:
                    share = self.waiting.seconds(group) / (takers[group] + coming[group])
                    most = min(LEAST_QUEUE + worker.done, MOST_QUEUED)
                    if held >= most or seconds[worker.name] >= min(share, QUEUE_SECONDS):
                        continue
                task = self.waiting.pop(group, worker.block)
                seconds[worker.name] += task.unit.expected_seconds
                still.append(worker)
                yield self._send(worker, task)
            busy = still

    def start(self) -> Iterator[StartWorker]:
        """Asks for as many workers as there is work for; those that would take longest get the next one."""
        room = self._limit - sum(not w.leaving for w in self.members.values())
        if room <= 0:
            return
        asked, avoid = self._requests(), self.avoided()
        holders = Counter(w.request for w in self.members.values() if not w.leaving)
        missing = {r: self._wanted(groups) - self._coming(r) for r, groups in asked.items()}
        seconds = {r: sum(self.waiting.seconds(group) for group in groups) for r, groups in asked.items()}
        open_to = {r for r in asked if missing[r] > 0 and self.suitability.refusal(r, avoid[r]) is None}
        while room > 0 and open_to:
            each = {r: seconds[r] / holders[r] if holders[r] else math.inf for r in asked if r in open_to}
            # Of equals the one whose units are first in the plan.
            needs = max(each, key=lambda r: each[r])
            self._started += 1
            worker = Member(f"worker-{self._started:03d}", needs, avoid[needs], self.suitability.now)
            self.members[worker.name] = worker
            room -= 1
            holders[needs] += 1
            missing[needs] -= 1
            if not missing[needs]:
                open_to.discard(needs)
            yield StartWorker(worker.name, needs, worker.avoid)

    def limit_to(self, workers: int) -> list[Member]:
        """Changes how many workers there may be; returns those that are to leave: first who has least to lose."""
        self._limit = workers
        staying = [w for w in reversed(self.members.values()) if not w.leaving]
        phases = ("starting", "ready", "loading", "bound")
        # Of equals those that were asked for last.
        staying.sort(key=lambda w: (bool(w.queue), phases.index(w.phase)))
        return staying[: max(0, len(staying) - workers)]

    def avoided(self) -> dict[WorkerNeeds, frozenset[str]]:
        """Returns the machines that will do for nothing that waits, by what a worker is asked for with."""
        return {request: self.suitability.avoided(groups) for request, groups in self._requests().items()}

    def fits(self, worker: Member) -> bool:
        """Tells whether a worker will do for anything that waits and that it may have been asked for."""
        groups = [group for group in self.waiting if group[0].request == worker.needs]
        return not groups or any(self._may_load(worker, group) for group in groups)

    def stuck(self) -> str | None:
        """Says why nobody will ever come for what waits; None where somebody may, or nothing waits."""
        if self.hopeless():
            # The others still have to be tried.
            return None
        avoid = self.avoided()
        errors = [self.suitability.refusal(request, names) for request, names in avoid.items()]
        if not errors or None in errors or any(self.suitability.paused(group) for group in self.waiting):
            return None
        needs, model = min(self.waiting, key=self.waiting.first)
        if not avoid[needs.request]:
            return errors[0]
        there = " and ".join(self.suitability.kinds())
        return f"no worker will do for {model}, which needs {needs}: there is {there}; the same command resumes"

    def _requests(self) -> dict[WorkerNeeds, list[Group]]:
        """Returns what waits by what a worker is asked for with, in the order of the plan."""
        found: dict[WorkerNeeds, list[Group]] = {}
        for group in sorted(self.waiting, key=self.waiting.first):
            found.setdefault(group[0].request, []).append(group)
        return found

    def _wanted(self, groups: list[Group], *, come: bool = False) -> int:
        """Returns how many workers have something to do for models, those included that are to come to it.

        Args:
            groups: the models.
            come: whether the workers are on their way: a load that failed sends none of them back.
        """
        trial = self.suitability.on_trial if not come else lambda group: False
        return sum(min(self.waiting.count(g), TRIAL_WORKERS if trial(g) else MOST_QUEUED**3) for g in groups)

    def _coming(self, request: WorkerNeeds) -> int:
        return sum(w.unfed and w.request == request for w in self.members.values())

    def superfluous(self) -> list[Member]:
        """Returns workers that have not started and would find nothing to do, or only what others need more."""
        pending: dict[WorkerNeeds, list[Member]] = {}
        for worker in self.members.values():
            if worker.phase == "starting" and not worker.leaving:
                pending.setdefault(worker.needs, []).append(worker)
        asked = self._requests() if pending else {}
        found: list[Member] = []
        for needs, workers in pending.items():
            groups = asked.get(needs, [])
            avoid = self.suitability.avoided(groups)
            # Of machines that are no longer to be avoided one worker is to try again; the others are on their way.
            stale = workers[-1:] if all(w.avoid - avoid for w in workers) else []
            coming = self._coming(needs) - len(workers)
            # Those that were asked for last.
            unwanted = workers[max(0, self._wanted(groups, come=True) - coming) :]
            found += dict.fromkeys([*stale, *unwanted])
        return [*found, *self._overdue(asked, pending, len(found))]

    def _overdue(
        self, asked: dict[WorkerNeeds, list[Group]], pending: dict[WorkerNeeds, list[Member]], leaving: int
    ) -> list[Member]:
        """Returns workers that do not come, where others are wanted and there is no room for them."""
        if leaving or not pending or sum(not w.leaving for w in self.members.values()) < self._limit:
            return []
        holders = Counter(w.request for w in self.members.values() if not w.leaving)
        short = [r for r in asked if r not in pending and self._wanted(asked[r]) > self._coming(r)]
        short = [r for r in short if self.suitability.refusal(r, self.suitability.avoided(asked[r])) is None]
        late = [
            worker
            for needs, workers in pending.items()
            # One goes on waiting for what would otherwise never come, unless there is no room at all for others.
            for worker in workers[0 if holders[needs] > len(workers) or not any(holders[r] for r in short) else 1 :]
            if self._since(worker) > PENDING_SECONDS
        ]
        return late[: sum(self._wanted(asked[r]) for r in short)]

    def _next_model(self, worker: Member) -> Group | None:
        """Returns the model that a worker should load: the one that would take longest, then the first in the plan.

        A model that as many workers are loading as it has units is left out.
        """
        holding = Counter(w.group for w in self.members.values() if not w.leaving)
        loading = Counter(w.group for w in self.members.values() if w.phase == "loading")
        choices = [
            group
            for group in self.waiting
            if self.waiting.count(group) > loading[group]
            and self._may_load(worker, group)
            and not (self.suitability.on_trial(group) and loading[group] >= TRIAL_WORKERS)
        ]

        def urgency(group: Group) -> tuple[float, int]:
            seconds = self.waiting.seconds(group) / holding[group] if holding[group] else math.inf
            return -seconds, self.waiting.first(group)

        return min(choices, key=urgency, default=None)

    def _may_load(self, worker: Member, group: Group) -> bool:
        return group[0].met_by(worker.needs, worker.node) and (
            worker.node is None or self.suitability.suits(worker.node, group)
        )

    def _raceable(self, worker: Member) -> Task | None:
        """A unit at another worker that this one may run too: one that still queues there, then one that runs.

        The last of the longest queue is taken, which its holder would come to last.
        """
        if worker.phase != "bound":
            return None
        others = [w for w in self.members.values() if w is not worker and w.group == worker.group and w.queue]
        others.sort(key=lambda w: w.seconds, reverse=True)
        for task in [*(t for w in others for t in reversed(w.queue[1:])), *(w.queue[0] for w in others)]:
            # A unit that has failed before may be what kills workers.
            if task.open and not task.attempts and not task.raced:
                return task
        return None

    def _may_take(self, worker: Member, group: Group) -> bool:
        if not worker.unfed:
            return False
        return self._may_load(worker, group) if worker.group is None else worker.group == group

    def _send(self, worker: Member, task: Task) -> Dispatch:
        worker.queue.append(task)
        if not task.attempts:
            worker.block = task.block
        task.holders += 1
        number = task.attempts + 1
        return Dispatch(worker.name, task.unit, Attempt(number, number >= MAX_ATTEMPTS))


def _alike(one: Group, other: Group) -> bool:
    """Tells whether who has loaded a model for one group has it for another one."""
    return one[1] == other[1] and one[0].request == other[0].request
