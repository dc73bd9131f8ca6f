"""A fleet of machines that differ, each with room for one worker, on a virtual clock."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.scheduler.needs import Node, WorkerNeeds
from orchestrator.scheduler.protocol import (
    OUT_OF_MEMORY,
    Attempt,
    BackendEvent,
    BindFailed,
    Unit,
    UnitDone,
    UnitReport,
    WorkerBound,
    WorkerLost,
    WorkerReady,
    WorkerRefused,
)

GIB = 2**30


@dataclass(frozen=True)
class Box:
    """A machine.

    Attributes:
        node: what its workers report.
        broken: models that do not load on it.
        room: bytes that a unit, or a model that is loaded, may take; more runs out of memory.
        until: when it is taken away for good.
    """

    node: Node
    broken: frozenset[str] = frozenset()
    room: int = 1000 * GIB
    until: float = math.inf


class FleetBackend:
    """Gives workers the first free machine that they need not avoid.

    Args:
        boxes: the machines.
        workers: how many workers there may be.
        use: bytes that units take, by unit or by model.
        weights: bytes that models take when they are loaded.
        seconds: how long a unit of a model takes.
    """

    isolated = True

    def __init__(
        self,
        boxes: Sequence[Box],
        *,
        workers: int,
        use: Mapping[str, int] | None = None,
        weights: Mapping[str, int] | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        self.workers = workers
        self.boxes = {box.node.name: box for box in boxes}
        self.loads: list[tuple[str, str]] = []
        self.full: Counter[tuple[str, str]] = Counter()
        """Attempts that ran out of memory, by unit and machine."""
        self.refused = self.started = 0
        self.now = 0.0
        self._use, self._weights, self._seconds = use or {}, weights or {}, seconds or {}
        self._pending: dict[str, frozenset[str]] = {}
        self._at: dict[str, Box] = {}
        self._free: dict[str, float] = {}
        self._events: list[tuple[float, int, BackendEvent]] = []
        self._numbers = itertools.count()

    def most(self, asked: int | None, left: int) -> int:
        return self.workers if asked is None else asked

    def start_worker(self, worker: str, needs: WorkerNeeds, avoid: frozenset[str]) -> None:
        self.started += 1
        if not self.boxes.keys() - avoid:
            self.refused += 1
            self._later(WorkerRefused(worker, "no machine"))
            return
        self._pending[worker] = avoid
        self._place()

    def bind(self, worker: str, model: str) -> None:
        box = self._at[worker]
        self.loads.append((box.node.name, model))
        if self._weights.get(model, 0) > box.room:
            self._later(BindFailed(worker, OUT_OF_MEMORY, "full"))
        else:
            self._later(BindFailed(worker, "OSError", "no luck") if model in box.broken else WorkerBound(worker))

    def dispatch(self, worker: str, unit: Unit, attempt: Attempt) -> None:
        full = self._use.get(unit.unit_id, self._use.get(unit.model, 0)) > self._at[worker].room
        report = UnitReport(
            unit.unit_id, attempt.number, "failed" if full else "committed",
            error_type=OUT_OF_MEMORY if full else None, error="full" if full else None, worker=worker,
        )  # fmt: skip
        self._free[worker] = max(self.now, self._free.get(worker, 0.0)) + self._seconds.get(unit.model, 0.0)
        self._later(UnitDone(worker, report), self._free[worker])

    def kill(self, worker: str) -> None:
        self._pending.pop(worker, None)
        self._forget(worker)
        self._place()

    @property
    def next(self) -> float:
        """When something happens next."""
        return min([box.until for box in self.boxes.values()] + [time for time, _, _ in self._events], default=math.inf)

    def poll(self, timeout: float) -> Sequence[BackendEvent]:
        for name, box in list(self.boxes.items()):
            if box.until <= self.now:
                del self.boxes[name]
                for worker in [worker for worker, at in self._at.items() if at is box]:
                    self._forget(worker)
                    self._later(WorkerLost(worker, "preempted", "it is taken away"))
        if not self._events or self._events[0][0] > self.now:
            return ()
        event = heapq.heappop(self._events)[-1]
        if isinstance(event, UnitDone) and event.report.outcome == "failed":
            self.full[event.report.unit_id, self._at[event.worker].node.name] += 1
        return (event,)

    def shutdown(self) -> None: ...

    def _later(self, event: BackendEvent, when: float | None = None) -> None:
        heapq.heappush(self._events, (self.now if when is None else when, next(self._numbers), event))

    def _forget(self, worker: str) -> None:
        self._at.pop(worker, None)
        self._events = [item for item in self._events if item[-1].worker != worker]
        heapq.heapify(self._events)

    def _place(self) -> None:
        for worker, avoid in list(self._pending.items()):
            taken = {box.node.name for box in self._at.values()}
            free = [name for name in self.boxes if name not in taken and name not in avoid]
            if free:
                del self._pending[worker]
                self._at[worker] = self.boxes[free[0]]
                self._later(WorkerReady(worker, self._at[worker].node))
