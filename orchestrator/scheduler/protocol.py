"""The nouns of the scheduler: units, reports, events, actions, and what a worker and a backend must do.

All of them are frozen and cross process boundaries by pickle. Nothing here knows Ray, torch or a results folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from loco_core.errors import LocoError
from orchestrator.scheduler.needs import Node, WorkerNeeds

OUT_OF_MEMORY = "OutOfMemoryError"
"""The error type of a unit whose batches do not fit into a worker's memory, as torch and this project name it."""
UnitOutcome = Literal["committed", "already", "failed", "unstored"]
LossReason = Literal["died", "preempted", "unreachable"]


class BackendError(LocoError):
    """Workers cannot be had: Ray does not start, an address does not answer, a worker dies before it is ready."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that is done whole or not at all.

    Attributes:
        unit_id: its name in the store; the same work has the same name in every run.
        stage: name of the stage that planned it, whose work a worker does.
        model: what the worker has to load; a worker takes all its units from one model while there are any.
        order: where it stands in the plan; lower goes out first.
        expected_seconds: from the cost table; weighs progress, and tells a slow unit from a stuck one.
        payload: what its stage's work computes it from; frozen and picklable, the scheduler never looks at it.
        needs: what its worker needs.
        block: name of what units have in common that a worker keeps in memory; a worker stays with it while there are
            units of it. Empty where there is nothing to keep.
    """

    unit_id: str
    stage: str
    model: str
    order: int
    expected_seconds: float
    payload: Any = field(compare=False, repr=False)
    needs: WorkerNeeds = field(default_factory=WorkerNeeds)
    block: str = ""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a unit.

    Attributes:
        number: from 1; stands in the provenance columns.
        row_by_row: whether earlier attempts failed: rows are computed one at a time at the frozen batch shape, those
            that work are committed, and those that do not are recorded as failures.
    """

    number: int
    row_by_row: bool = False


@dataclass(frozen=True)
class UnitReport:
    """What became of one attempt at a unit.

    Attributes:
        unit_id: the unit.
        attempt: from 1; the number that the dispatch carried.
        outcome: ``committed`` by this attempt, ``already`` committed by another one, ``failed``, or ``unstored``: the
            results folder could not be read or written, for which the unit is not to blame.
        rows: rows that are ok.
        invalid: rows whose image is invalid; committed too.
        failed_rows: rows recorded as failures of an otherwise committed unit.
        error_type: class of the exception, if it failed.
        error: its message, on one line.
        seconds: wall clock of the attempt on its worker.
        scoring: seconds of these in which pictures were scored.
        committing: seconds of these in which results were written.
        worker: name of the worker that ran it.
        reported: what the work tells its stage, such as the numbers that localizers read; None where another attempt
            had committed the unit, which the stage then reads from the store.
    """

    unit_id: str
    attempt: int
    outcome: UnitOutcome
    rows: int = 0
    invalid: int = 0
    failed_rows: int = 0
    error_type: str | None = None
    error: str | None = None
    seconds: float = 0.0
    scoring: float = 0.0
    committing: float = 0.0
    worker: str = ""
    reported: Any = field(default=None, compare=False, repr=False)


class Worker(Protocol):
    """Runs units of one model and commits their results to the store itself."""

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        """Computes a unit and commits it; the first commit of a unit stands. Whatever it raises is a failed attempt.

        Args:
            unit: what to do.
            attempt: which attempt it is, and how rows are computed.
        """
        ...


MakeWorker = Callable[[str], Worker]
"""Loads the model of this id. Picklable; imports what is heavy inside, in the process that will run the units."""


@dataclass(frozen=True)
class WorkerReady:
    """A worker's process runs; it carries no model yet.

    Attributes:
        worker: the worker.
        node: where it runs.
        gpus: how many GPUs it holds; None where that shows when it has loaded a model.
        seconds: how long it was there before it could say so.
    """

    worker: str
    node: Node = field(default_factory=Node)
    gpus: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class WorkerRefused:
    """A worker that was asked for will never come: no machine can hold it.

    Attributes:
        worker: the worker; its backend has forgotten it.
        error: why.
    """

    worker: str
    error: str


@dataclass(frozen=True)
class WorkerBound:
    """A worker has loaded the model that it was bound to.

    Attributes:
        worker: the worker.
        device: name of its device, such as ``cpu`` or the name of a GPU.
    """

    worker: str
    device: str = ""


@dataclass(frozen=True)
class BindFailed:
    """A worker's process is well, but its model could not be loaded.

    Attributes:
        worker: the worker.
        error_type: class of the exception.
        error: its message, on one line.
        unstored: whether it is the results folder that the worker cannot use, for which the model is not to blame.
    """

    worker: str
    error_type: str
    error: str
    unstored: bool = False


@dataclass(frozen=True)
class WorkerLost:
    """A worker is gone, and whatever it held.

    Attributes:
        worker: the worker.
        reason: ``died`` is charged to the unit it was at; a ``preempted`` or ``unreachable`` machine is not.
        error: what is known about it, with the end of its log.
        committed: ids of the units that it held, from the first one on, that are committed although it has not said so:
            a process takes a report with it that is still on its way. The driver adds them.
    """

    worker: str
    reason: LossReason
    error: str
    committed: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerDraining:
    """Notice that a worker's machine is going to be taken away."""

    worker: str


@dataclass(frozen=True)
class UnitDone:
    """A worker reports on a unit, failed ones included."""

    worker: str
    report: UnitReport


BackendEvent = WorkerReady | WorkerRefused | WorkerBound | BindFailed | WorkerLost | WorkerDraining | UnitDone


@dataclass(frozen=True)
class WorkerStuck:
    """A worker takes far longer than expected at what it does; it is killed for it."""

    worker: str
    error: str


@dataclass(frozen=True)
class UnitsAdded:
    """More work; units that are already known are ignored."""

    units: tuple[Unit, ...]


@dataclass(frozen=True)
class StopRequested:
    """No new units; those that are running may finish."""


@dataclass(frozen=True)
class Clock:
    """Time has passed.

    Attributes:
        seconds: time on a clock that never goes back.
    """

    seconds: float


@dataclass(frozen=True)
class LimitChanged:
    """There may be more workers now, or fewer; those that are too many finish the unit that they run.

    Attributes:
        workers: how many there may be at once; 0 pauses.
    """

    workers: int


Event = BackendEvent | WorkerStuck | UnitsAdded | StopRequested | Clock | LimitChanged


@dataclass(frozen=True)
class StartWorker:
    """Ask for a worker without a model; it may be pending for as long as the machine or cluster has no room.

    Attributes:
        worker: name of the worker.
        needs: what it needs of its machine.
        avoid: names of machines that it may not be on.
    """

    worker: str
    needs: WorkerNeeds
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Bind:
    """Load a model, dropping the one before."""

    worker: str
    model: str


@dataclass(frozen=True)
class Dispatch:
    """Run a unit, after those that the worker already has."""

    worker: str
    unit: Unit
    attempt: Attempt


@dataclass(frozen=True)
class KillWorker:
    """End a worker at once, whatever it does."""

    worker: str


Action = StartWorker | Bind | Dispatch | KillWorker


@dataclass(frozen=True)
class Settled:
    """A unit that will not be run again: committed, or given up after its last attempt (outcome ``failed``)."""

    unit: Unit
    report: UnitReport


class Backend(Protocol):
    """Where workers run. The scheduler decides, a backend obeys and reports.

    A worker runs its commands in order, one thing at a time. Commands return at once; a backend raises BackendError
    only when it can give no such worker at all.
    """

    @property
    def workers(self) -> int:
        """How many workers may exist at once."""
        ...

    @property
    def isolated(self) -> bool:
        """Whether units run in processes of their own, so that no unit can take this process down."""
        ...

    def most(self, asked: int | None, left: int) -> int:
        """Returns how many workers there may be at once from now on; asked with every turn of the loop.

        Args:
            asked: number that somebody has asked for meanwhile; None where nobody has.
            left: number of units that are left: who shares the machines need not leave more for others.
        """
        ...

    def start_worker(self, worker: str, needs: WorkerNeeds, avoid: frozenset[str]) -> None:
        """Asks for a worker; WorkerReady follows when it runs, or WorkerRefused when no machine can hold it.

        Args:
            worker: name of the worker.
            needs: what it needs; its backend need not look at the memory of a GPU.
            avoid: names of machines, as they were reported, that it may not be on.
        """
        ...

    def bind(self, worker: str, model: str) -> None:
        """Makes a worker load a model; WorkerBound or BindFailed follows."""
        ...

    def dispatch(self, worker: str, unit: Unit, attempt: Attempt) -> None:
        """Queues a unit at a worker; UnitDone or WorkerLost follows."""
        ...

    def kill(self, worker: str) -> None:
        """Ends a worker; no event about it follows."""
        ...

    def poll(self, timeout: float) -> Sequence[BackendEvent]:
        """Returns what happened, in order, waiting up to ``timeout`` seconds for the first event."""
        ...

    def shutdown(self) -> None:
        """Ends all workers and whatever was started for them. May be called twice."""
        ...


class Planner(Protocol):
    """Says which units there are, and which follow. Units that are known already are ignored."""

    def begin(self) -> Sequence[Unit]:
        """Returns the units to begin with; called once."""
        ...

    def settled(self, done: Sequence[Settled]) -> Sequence[Unit]:
        """Takes note of units that were settled since the last call, and returns those that follow."""
        ...

    def asked(self) -> Sequence[Unit] | None:
        """Returns units that others ask for meanwhile; None when nobody will ask any more, and idle workers may go."""
        ...


class Journal(Protocol):
    """What a successor of this driver must find if it dies: kept in the store."""

    def previous(self) -> Mapping[str, int]:
        """Returns what the driver before this one recorded last; empty if it ended in order."""
        ...

    def record(self, attempts: Mapping[str, int]) -> None:
        """Replaces the record, durably, before it returns.

        Args:
            attempts: unit ids, with how many attempts each will have used should this driver die now.
        """
        ...

    def committed(self, unit: Unit) -> bool:
        """Tells whether a unit is committed; asked of units whose worker is lost, which may not have said so."""
        ...

    def give_up(self, unit: Unit, report: UnitReport) -> bool:
        """Records the rows of a unit as failures, durably, before it returns.

        Returns:
            whether the unit is committed after all, so that there was nothing to record.
        """
        ...
