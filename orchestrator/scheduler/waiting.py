"""The nouns of the roster: workers, units on their way, and those that wait."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.scheduler.needs import Node, WorkerNeeds
from orchestrator.scheduler.protocol import Unit
from orchestrator.scheduler.suitability import Group


@dataclass(eq=False)
class Task:
    """A unit that is not settled, or was a moment ago.

    Attributes:
        unit: the unit.
        attempts: attempts at it that failed.
        needs: what its worker needs: more memory than `unit` says where it ran out of that.
        last_resort: whether no GPU with more memory is to be had for it.
        losses: losses that are not its fault.
        open: whether it is not settled.
        holders: how many workers have it.
        raced: whether two workers had it at once.
    """

    unit: Unit
    attempts: int
    needs: WorkerNeeds = field(init=False)
    last_resort: bool = False
    losses: int = 0
    open: bool = True
    holders: int = 0
    raced: bool = False

    def __post_init__(self) -> None:
        self.needs = self.unit.needs

    @property
    def group(self) -> Group:
        """Which workers can run it."""
        return self.needs, self.unit.model

    @property
    def block(self) -> str:
        """What a worker that has it should go on with."""
        return self.unit.block or self.unit.unit_id


@dataclass(eq=False)
class Member:
    """One worker.

    Attributes:
        name: its name.
        needs: what it was asked for with.
        avoid: machines that it was not to be on.
        since: when it was asked for.
        node: where it runs; None before that is known.
        phase: how far it is.
        group: what it has loaded, or loads.
        queue: what it was sent; it runs the first.
        leaving: whether it gets nothing any more.
        block: block of the last unit that it was sent; the retry of a unit does not change it.
        failed: units in a row that failed.
        done: units in a row that did not.
    """

    name: str
    needs: WorkerNeeds
    avoid: frozenset[str] = frozenset()
    since: float = 0.0
    node: Node | None = None
    phase: Literal["starting", "ready", "loading", "bound"] = "starting"
    group: Group | None = None
    queue: list[Task] = field(default_factory=list)
    leaving: bool = False
    block: str = ""
    failed: int = 0
    done: int = 0

    @property
    def model(self) -> str:
        """Name of the model that it has loaded, or loads."""
        return self.group[1] if self.group else ""

    @property
    def where(self) -> Node:
        """Where it runs, or a machine of which nothing is known."""
        return self.node or Node()

    @property
    def request(self) -> WorkerNeeds:
        """What it is there for."""
        return self.group[0].request if self.group else self.needs

    @property
    def idle(self) -> bool:
        """Whether it waits for a command."""
        return not self.queue and self.phase in ("ready", "bound")

    @property
    def unfed(self) -> bool:
        """Whether it will take a unit that it does not have yet."""
        return self.phase != "bound" and not self.leaving

    @property
    def seconds(self) -> float:
        """Expected seconds of what it has."""
        return sum(task.unit.expected_seconds for task in self.queue if task.open)


_Heap = list[tuple[int, str, Task]]


class _Lot:
    """Waiting tasks that the same workers can run, by block.

    A block is *open* from the first task that a worker takes of it, and free before, and once that worker is gone. Of
    free ones only the first is looked at; of open ones there are about as many as workers.
    """

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        self._retries: _Heap = []
        self._blocks: dict[str, _Heap] = {}
        self._free: list[tuple[int, str]] = []
        self._open: dict[str, None] = {}

    def first(self) -> int:
        """Returns where the first task stands in the plan, those of open blocks aside if there are others."""
        heads = [heap[0][0] for heap in (self._retries, self._free) if heap]
        return min(heads or (self._blocks[name][0][0] for name in self._open))

    def push(self, task: Task) -> None:
        self.count += 1
        self.seconds += task.unit.expected_seconds
        name, heap = task.block, self._retries
        if not task.attempts:
            if name not in self._blocks:
                heapq.heappush(self._free, (task.unit.order, name))
            heap = self._blocks.setdefault(name, [])
        heapq.heappush(heap, (task.unit.order, task.unit.unit_id, task))

    def pop(self, block: str) -> Task:
        """Takes a task for a worker that is at a block."""
        name = self._next_block(block) if not self._retries else ""
        heap = self._blocks[name] if name else self._retries
        task = heapq.heappop(heap)[-1]
        self.count -= 1
        self.seconds -= task.unit.expected_seconds
        if name:
            self._open[name] = None
            if not heap:
                del self._blocks[name], self._open[name]
            while self._free and not self._is_free(self._free[0][1]):
                heapq.heappop(self._free)
        return task

    def leave(self, block: str) -> None:
        """Lets others take a block over."""
        if block in self._open:
            del self._open[block]
            heapq.heappush(self._free, (self._blocks[block][0][0], block))

    def tasks(self) -> list[Task]:
        """Returns all tasks."""
        return [task for heap in (self._retries, *self._blocks.values()) for *_, task in heap]

    def _next_block(self, block: str) -> str:
        if block in self._blocks:
            return block
        return self._free[0][1] if self._free else max(self._open, key=lambda name: len(self._blocks[name]))

    def _is_free(self, block: str) -> bool:
        return block in self._blocks and block not in self._open


class Waiting:
    """Tasks that no worker has, by what can run them, in the order of the plan."""

    def __init__(self) -> None:
        self._lots: dict[Group, _Lot] = {}

    def __iter__(self) -> Iterator[Group]:
        return iter(self._lots)

    def __bool__(self) -> bool:
        """Whether any wait."""
        return bool(self._lots)

    def __contains__(self, group: Group) -> bool:
        return group in self._lots

    def count(self, group: Group) -> int:
        """Returns how many wait."""
        return self._lots[group].count if group in self._lots else 0

    def seconds(self, group: Group) -> float:
        """Returns the expected seconds of those that wait."""
        return self._lots[group].seconds if group in self._lots else 0.0

    def first(self, group: Group) -> int:
        """Returns where the first of them stands in the plan."""
        return self._lots[group].first()

    def push(self, task: Task) -> None:
        """Queues a task."""
        self._lots.setdefault(task.group, _Lot()).push(task)

    def pop(self, group: Group, block: str) -> Task:
        """Takes the next task for a worker: one that failed before, else of its block, else of one that nobody is at.

        Where there is no such block, workers share the one with most tasks.

        Args:
            group: what the worker can run.
            block: where the worker is.
        """
        lot = self._lots[group]
        task = lot.pop(block)
        if not lot.count:
            del self._lots[group]
        return task

    def leave(self, worker: Member) -> None:
        """Lets others take over the block of a worker that is gone."""
        if worker.group is not None and worker.group in self._lots:
            self._lots[worker.group].leave(worker.block)

    def clear(self, group: Group) -> list[Task]:
        """Takes all tasks."""
        return self._lots.pop(group).tasks() if group in self._lots else []
