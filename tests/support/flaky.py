"""Workers of this process that fail, die, vanish, repeat themselves and come back, as a seed draws it."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import (
    Attempt,
    BackendEvent,
    BindFailed,
    MakeWorker,
    Unit,
    UnitDone,
    UnitReport,
    Worker,
    WorkerBound,
    WorkerDraining,
    WorkerLost,
    WorkerReady,
)

Fate = Literal[
    "fails", "dies before", "dies after", "vanishes before", "vanishes after", "speaks late", "repeats", "drains",
    "does not load",
]  # fmt: skip
FATES: tuple[Fate, ...] = get_args(Fate)
CHARGED: tuple[Fate, ...] = ("fails", "dies before", "dies after")
"""What uses up an attempt; befalls first attempts only, so that no unit is given up."""
UNIT_FATES = FATES[:-1]
SPARED = tuple(fate for fate in UNIT_FATES if fate not in CHARGED)


class FlakyBackend:
    """Workers that do one thing after the other, in a drawn order.

    What a vanished worker was at it does later, when nobody expects it any more: a *late* commit.

    Args:
        make_worker: loads a model.
        workers: how many there may be.
        seed: of all that is drawn.
        share: of the units to which something happens.
    """

    isolated = True

    def __init__(self, make_worker: MakeWorker, *, workers: int, seed: int, share: float = 0.5) -> None:
        self.workers = workers
        self.fates: Counter[Fate] = Counter()
        self.runs = self.copies = 0
        self.late: list[Callable[[], UnitReport]] = []
        self._make_worker, self._rng, self._share = make_worker, random.Random(seed), share
        self._at: dict[str, Worker] = {}
        self._queues: dict[str, deque[tuple[str, Callable[[], list[BackendEvent]]]]] = {}

    def most(self, asked: int | None, left: int) -> int:
        return self.workers if asked is None else asked

    def start_worker(self, worker: str, needs: WorkerNeeds, avoid: frozenset[str]) -> None:
        self._queues[worker] = deque([("", lambda: [WorkerReady(worker)])])

    def bind(self, worker: str, model: str) -> None:
        self._queues[worker].append(("", lambda: self._bind(worker, model)))

    def dispatch(self, worker: str, unit: Unit, attempt: Attempt) -> None:
        self.copies += any(unit.unit_id == held for queue in self._queues.values() for held, _ in queue)
        self._queues[worker].append((unit.unit_id, lambda: self._run(worker, unit, attempt)))

    def kill(self, worker: str) -> None:
        self._queues.pop(worker, None)

    def poll(self, timeout: float) -> Sequence[BackendEvent]:
        if self.late and self._rng.random() < 0.1:
            self.haunt(1)
        busy = sorted(worker for worker, queue in self._queues.items() if queue)
        return self._queues[self._rng.choice(busy)].popleft()[1]() if busy else []

    def haunt(self, most: int) -> list[UnitReport]:
        """Lets workers that are long gone end what they were at."""
        return [self.late.pop(0)() for _ in range(min(most, len(self.late)))]

    def shutdown(self) -> None: ...

    def _bind(self, worker: str, model: str) -> list[BackendEvent]:
        if self._rng.random() < self._share / 3:
            self.fates["does not load"] += 1
            return [BindFailed(worker, "ModelError", "not now")]
        self._at[worker] = self._make_worker(model)
        return [WorkerBound(worker)]

    def _run(self, worker: str, unit: Unit, attempt: Attempt) -> list[BackendEvent]:
        fates = UNIT_FATES if attempt.number == 1 else SPARED
        fate = self._rng.choice(fates) if self._rng.random() < self._share else None
        if fate is not None:
            self.fates[fate] += 1
        if fate == "fails":
            return [UnitDone(worker, UnitReport(unit.unit_id, attempt.number, "failed", error="no luck"))]
        if fate == "dies before":
            return self._lose(worker, WorkerLost(worker, "died", "killed"))

        def do() -> UnitReport:
            self.runs += 1
            return at.run(unit, attempt)

        at = self._at[worker]
        if fate == "vanishes before":
            self.late.append(do)
            return self._lose(worker, WorkerLost(worker, "unreachable", "no answer"))
        done = UnitDone(worker, do())
        match fate:
            case "dies after":
                return self._lose(worker, WorkerLost(worker, "died", "killed"))
            case "vanishes after":
                return self._lose(worker, WorkerLost(worker, "preempted", "spot"))
            case "speaks late":
                return [*self._lose(worker, WorkerLost(worker, "unreachable", "no answer")), done]
            case "repeats":
                return [done, done]
            case "drains":
                return [WorkerDraining(worker), done]
        return [done]

    def _lose(self, worker: str, event: WorkerLost) -> list[BackendEvent]:
        self.kill(worker)
        return [event]
