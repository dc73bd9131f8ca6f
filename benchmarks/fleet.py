"""A fleet of GPUs that differ and are taken away, on a virtual clock; ``python benchmarks/fleet.py [--seed N]``.

The scheduler and the plan are those that run sweeps; only time and machines are made up. A hundred GPUs of three types
draw three models at batch 4, of which one fits the largest type only. Every GPU is taken away once in four hours
without notice, whatever it is at, and comes back where somebody asks for it. A worker keeps the clean images of its
last blocks, as the real one does. Counted is what each second of a GPU went into.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ByteSize

from loco_core.attributes import attribute
from orchestrator.resolve.resolved import Resolved, ResolvedModel, ResolvedScorer
from orchestrator.scheduler.needs import Node
from orchestrator.scheduler.protocol import (
    Action,
    Bind,
    Clock,
    Dispatch,
    Event,
    KillWorker,
    StartWorker,
    Unit,
    UnitDone,
    UnitReport,
    UnitsAdded,
    WorkerBound,
    WorkerLost,
    WorkerReady,
)
from orchestrator.scheduler.state import Scheduler
from orchestrator.spec import SweepSpec
from orchestrator.spec import WorkerNeeds as SpecNeeds
from orchestrator.stages.base import make_unit
from orchestrator.stages.sweep.plan import plan

GIB = 2**30
BATCH = 4
TICK = 5.0
JOIN_SECONDS, IDLE_SECONDS = 120.0, 60.0
"""Until a machine that is asked for has joined, and until an autoscaler removes one that has no worker."""
START_SECONDS = 20.0
"""Seconds that the process of a worker takes to start, with its imports."""
COMMIT_SECONDS = 1.0
KEPT_BLOCKS = 16
ATTRIBUTES = ("style/van-gogh", "style/monet", "object/snoopy", "fact/us-president")


@dataclass(frozen=True)
class Type:
    """A type of GPU: its name, how many there are, their memory in GiB, and their speed."""

    name: str
    count: int
    memory: int
    speed: float


@dataclass(frozen=True)
class Model:
    """A model: sites, seconds per picture on a GPU of speed 1, seconds to load it, seeds, and what GPU it needs."""

    name: str
    sites: int
    seconds: float
    load: float
    seeds: int
    memory: int


TYPES = (Type("NVIDIA L4", 50, 24, 0.4), Type("NVIDIA A100-SXM4-40GB", 30, 40, 1.0), Type("NVIDIA H100", 20, 80, 2.0))
MODELS = (
    Model("small", 16, 4.0, 30.0, 64, 8),
    Model("middle", 70, 12.0, 60.0, 8, 20),
    Model("large", 57, 30.0, 180.0, 2, 60),
)
MEASURED_ON = 1.0
"""Speed of the GPU on which seconds per picture are measured."""


def resolved(models: tuple[Model, ...]) -> Resolved:
    """Returns the names of models that nobody loads."""
    found = tuple(
        ResolvedModel(
            id=m.name, family="stable_diffusion", path="/nowhere", revision=None, weights=m.name, dtype="float16",
            site_names=tuple(f"site{n}" for n in range(m.sites)), native_side=1024, seconds_per_image=m.seconds,
            worker=SpecNeeds(gpus=1, min_gpu_memory=ByteSize(m.memory * GIB)), probed_batch=BATCH,
            probed_seconds=m.seconds / MEASURED_ON,
        )
        for m in models
    )  # fmt: skip
    scorer = ResolvedScorer(name="toy-clip", source="toy-clip", revision=None, weights="c")
    return Resolved(models=found, attributes=tuple(map(attribute, ATTRIBUTES)), scorer=scorer)


def units_of(models: tuple[Model, ...], scale: float, unit_seconds: float) -> list[Unit]:
    """Returns the units of all models, each with its own number of seeds, which a sweep has for all models only."""
    found: list[Unit] = []
    for m in models:
        names = resolved((m,))
        spec = SweepSpec.model_validate(
            {
                "name": "fleet", "models": [m.name], "attributes": list(ATTRIBUTES), "prompts": 8,
                "windows": {"sizes": [1, 2, 3, 4]}, "seeds": max(1, round(m.seeds * scale)), "images": "none",
                "generation": {"batch_size": "auto", "steps": 50, "unit_seconds": unit_seconds}, "scorer": "toy-clip",
            },
            strict=False,
        )  # fmt: skip
        units = plan(spec, names)
        columns = (units.units[name].to_pylist() for name in ("expected_seconds", "images"))
        for payload, seconds, images in zip(units.payloads(), *columns, strict=True):
            work = Work(m, images, payload.clean + payload.donor, payload.leads)
            block = f"{m.name} {payload.block}"
            found.append(
                make_unit("sweep", f"{m.name} {payload.unit_id}", names.models[0], len(found), seconds, work, block)
            )
    return found


@dataclass(frozen=True)
class Work:
    """What a worker needs to know of a unit: its pictures, how many of them are baselines, and whether it leads."""

    model: Model
    images: int
    baselines: int
    leads: bool


@dataclass(eq=False)
class Machine:
    """One GPU: where it is, since when, and who is on it."""

    type: Type
    node: Node
    since: float
    worker: str = ""
    left: float = 0.0


@dataclass(eq=False)
class At:
    """A worker: its machine, its model, the blocks whose clean images it keeps, and what it does since when."""

    machine: Machine
    model: str = ""
    kept: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_BLOCKS))
    queue: deque[Dispatch] = field(default_factory=deque)
    doing: str = ""
    since: float = 0.0
    """Virtual seconds; 0 before it does anything."""


def _only(event: Event) -> list[Event]:
    return [event]


class Fleet:
    """Machines and workers on a virtual clock.

    Args:
        seed: seed of who is taken away when, and of which machine a worker gets.
        mean_life: mean seconds until a machine is taken away.
        types: the types of GPU.
    """

    def __init__(self, seed: int, mean_life: float, types: tuple[Type, ...]) -> None:
        self.now = 0.0
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.preempted = self.loads = 0
        self.committed: set[str] = set()
        self._gone: list[Type] = []
        self._rng, self._life = random.Random(seed), mean_life
        self._heap: list[tuple[float, int, Callable[[], list[Event]]]] = []
        self._order, self._names = itertools.count(), itertools.count()
        self._machines: list[Machine] = []
        self._coming: Counter[Type] = Counter()
        self._pending: dict[str, frozenset[str]] = {}
        self._at: dict[str, At] = {}
        for each in types:
            for _ in range(each.count):
                self._join(each)

    def carry_out(self, action: Action) -> None:
        """Does what the scheduler says."""
        match action:
            case StartWorker(worker, _, avoid):
                self._pending[worker] = avoid
            case Bind(worker, model):
                at = self._at[worker]
                at.model, at.kept = model, deque(maxlen=KEPT_BLOCKS)
                self.loads += 1
                seconds = next(m.load for m in MODELS if m.name == model)
                self._do(worker, "loading", seconds, lambda: [WorkerBound(worker)])
            case Dispatch(worker):
                at = self._at[worker]
                at.queue.append(action)
                if not at.doing:
                    self._next(worker)
            case KillWorker(worker):
                self._leave(worker, "done twice")

    def events(self) -> list[Event]:
        """Lets time go on to what happens next."""
        self._place()
        self.now, _, happens = heapq.heappop(self._heap)
        return happens()

    def close(self) -> None:
        """Counts the machines that are still there."""
        for worker in list(self._at):
            self._leave(worker, "done twice")
        for machine in self._machines:
            self.spent["held"] += self.now - machine.since
            self.spent["waiting"] += self.now - machine.left

    def _later(self, seconds: float, happens: Callable[[], list[Event]]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._order), happens))

    def _join(self, kind: Type) -> list[Event]:
        node = Node(f"n{next(self._names)}", kind.name, kind.memory * GIB)
        machine = Machine(kind, node, self.now, left=self.now)
        self._machines.append(machine)
        self._later(self._rng.expovariate(1 / self._life), lambda: self._take_away(machine))
        return []

    def _take_away(self, machine: Machine) -> list[Event]:
        if machine not in self._machines:
            return []
        self.preempted += 1
        worker = machine.worker
        if worker:
            self._leave(worker, "preempted")
        self._remove(machine)
        return [WorkerLost(worker, "preempted", "taken away")] if worker else []

    def _remove(self, machine: Machine) -> None:
        self._machines.remove(machine)
        self.spent["held"] += self.now - machine.since
        self.spent["waiting"] += self.now - machine.left
        self._gone.append(machine.type)

    def _place(self) -> None:
        """Puts workers on machines that are free, asks for others to come back, removes those that nobody uses."""
        for worker, avoid in list(self._pending.items()):
            free = [m for m in self._machines if not m.worker and m.node.name not in avoid]
            if free:
                del self._pending[worker]
                machine = self._rng.choice(free)
                machine.worker = worker
                self.spent["waiting"] += self.now - machine.left
                self._at[worker] = At(machine)
                ready = partial(_only, WorkerReady(worker, machine.node))
                self._do(worker, "starting", START_SECONDS, ready)
        for _ in range(min(len(self._pending) - sum(self._coming.values()), len(self._gone))):
            kind = self._gone.pop(self._rng.randrange(len(self._gone)))
            self._coming[kind] += 1
            self._later(JOIN_SECONDS, partial(self._back, kind))
        for machine in [m for m in self._machines if not m.worker and self.now - m.left > IDLE_SECONDS]:
            self._remove(machine)

    def _back(self, kind: Type) -> list[Event]:
        self._coming[kind] -= 1
        return self._join(kind)

    def _do(self, worker: str, what: str, seconds: float, then: Callable[[], list[Event]]) -> None:
        at = self._at[worker]
        if at.since:
            self.spent["waiting"] += self.now - at.since
        at.doing, at.since = what, self.now

        def end() -> list[Event]:
            if self._at.get(worker) is not at:
                return []
            if what != "units":
                self.spent[what] += self.now - at.since
            at.doing, at.since = "", self.now
            events = then()
            if at.queue and not at.doing:
                self._next(worker)
            return events

        self._later(seconds, end)

    def _next(self, worker: str) -> None:
        at = self._at[worker]
        dispatch = at.queue[0]
        work: Work = dispatch.unit.payload
        each = work.model.seconds / at.machine.type.speed
        again = 0 if work.leads or dispatch.unit.block in at.kept else BATCH
        drawn = -(-work.images // BATCH) * BATCH
        seconds = (drawn + again) * each + COMMIT_SECONDS

        def done() -> list[Event]:
            at.queue.popleft()
            at.kept.append(dispatch.unit.block)
            unit_id, first = dispatch.unit.unit_id, dispatch.unit.unit_id not in self.committed
            self.committed.add(unit_id)
            if not first:
                self.spent["done twice"] += seconds
                return [UnitDone(worker, UnitReport(unit_id, dispatch.attempt.number, "already"))]
            self.spent["cells"] += (work.images - work.baselines) * each
            self.spent["baselines, once per block"] += work.baselines * each
            self.spent["baselines again, empty rows"] += (drawn - work.images + again) * each
            self.spent["committing"] += COMMIT_SECONDS
            return [UnitDone(worker, UnitReport(unit_id, dispatch.attempt.number, "committed"))]

        self._do(worker, "units", seconds, done)

    def _leave(self, worker: str, why: str) -> None:
        self._pending.pop(worker, None)
        at = self._at.pop(worker, None)
        if at is None:
            return
        lost = why if at.doing == "units" else at.doing or "waiting"
        self.spent[lost] += self.now - at.since
        at.machine.worker, at.machine.left = "", self.now


def ideal(units: list[Unit], types: tuple[Type, ...]) -> float:
    """Returns the seconds that cells alone take where all GPUs share them and none is ever taken away."""
    longest = 0.0
    for memory in {unit.payload.model.memory for unit in units}:
        work = sum(u.payload.images * u.payload.model.seconds for u in units if u.payload.model.memory >= memory)
        longest = max(longest, work / sum(t.count * t.speed for t in types if t.memory >= memory))
    return longest


def simulate(units: list[Unit], seed: int, hours_between: float, types: tuple[Type, ...] = TYPES) -> dict[str, Any]:
    """Runs units to the end; says what became of them and of the GPUs' seconds."""
    fleet = Fleet(seed, hours_between * 3600, types)
    scheduler = Scheduler(sum(t.count for t in types))
    scheduler.apply(UnitsAdded(tuple(units)))
    given_up = decisions = 0
    deciding = 0.0
    while not scheduler.over:
        began = time.perf_counter()
        actions = scheduler.decide()
        deciding += time.perf_counter() - began
        decisions += 1
        for action in actions:
            fleet.carry_out(action)
        if scheduler.broken is not None:
            raise RuntimeError(scheduler.broken)
        events = fleet.events()
        scheduler.apply(Clock(fleet.now))
        for event in events:
            scheduler.apply(event)
        given_up += sum(item.report.outcome == "failed" for item in scheduler.take_settled())
    fleet.close()
    held = fleet.spent.pop("held")
    best = ideal(units, types)
    return {
        "units": len(units), "units_given_up": given_up, "gpus_taken_away": fleet.preempted, "loads": fleet.loads,
        "hours": fleet.now / 3600, "ideal_hours": best / 3600, "time_against_ideal": fleet.now / best,
        "gpu_hours": held / 3600, "microseconds_per_decision": 1e6 * deciding / decisions,
        "share": {what: seconds / held for what, seconds in sorted(fleet.spent.items(), key=lambda i: -i[1])},
    }  # fmt: skip


def main() -> None:
    """Simulates and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="how many times the seeds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours-between", type=float, default=4.0, help="until a GPU is taken away, on average")
    parser.add_argument("--unit-seconds", type=float, default=300.0)
    arguments = parser.parse_args()
    units = units_of(MODELS, arguments.scale, arguments.unit_seconds)
    found = simulate(units, arguments.seed, arguments.hours_between)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
