"""The nouns of the scheduler: units, reports, events, actions, and what a worker and a backend must do.

All of them are frozen and cross process boundaries by pickle. Nothing here knows Ray, torch or a results folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from loco_core.errors import LocoError

UnitKind = Literal["encode", "sweep", "fit", "evaluate", "trace", "probe"]
OUT_OF_MEMORY = "OutOfMemoryError"
"""The error type of a unit whose batches do not fit into a worker's memory, as torch and this project name it."""
UnitOutcome = Literal["committed", "already", "failed", "unstored"]
LossReason = Literal["died", "preempted", "unreachable"]


class BackendError(LocoError):
    """Workers cannot be had: Ray does not start, an address does not answer, a worker dies before it is ready."""


@dataclass(frozen=True)
class WorkerNeeds:
    """What a worker of a model needs of its machine.

    Attributes:
        gpus: whole GPUs of one machine; 0 runs on the CPU, None on one GPU where there is any.
        labels: labels that the machine must carry, as (key, value) pairs.
    """

    gpus: int | None = None
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Unit:
    """A piece of work that is done whole or not at all.

    Attributes:
        unit_id: its name in the store; the same work has the same name in every run.
        kind: which step of the pipeline it belongs to.
        model: what the worker has to load; a worker takes all its units from one model while there are any.
        order: where it stands in the plan; lower goes out first.
        expected_seconds: from the cost table; weighs progress, and tells a slow unit from a stuck one.
        payload: what the worker computes it from; frozen and picklable, the scheduler never looks at it.
        needs: what its worker needs.
    """

    unit_id: str
    kind: UnitKind
    model: str
    order: int
    expected_seconds: float
    payload: Any = field(compare=False, repr=False)
    needs: WorkerNeeds = WorkerNeeds()


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
        worker: name of the worker that ran it.
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
    worker: str = ""


class Worker(Protocol):
    """Runs units of one model and commits their results to the store itself."""

    def run(self, unit: Unit, attempt: int, row_by_row: bool) -> UnitReport:
        """Computes a unit and commits it, unless it is committed already; whatever it raises is a failed attempt.

        Args:
            unit: what to do.
            attempt: from 1, for the provenance columns.
            row_by_row: earlier attempts failed: compute the rows one at a time at the frozen batch shape, commit those
                that work, and record those that do not as failures.
        """
        ...


MakeWorker = Callable[[str], Worker]
"""Loads the model of this id. Picklable; imports what is heavy inside, in the process that will run the units."""


@dataclass(frozen=True)
class WorkerReady:
    """A worker's process runs; it carries no model yet."""

    worker: str


@dataclass(frozen=True)
class WorkerBound:
    """A worker has loaded the model that it was told to."""

    worker: str


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
    """

    worker: str
    reason: LossReason
    error: str


@dataclass(frozen=True)
class WorkerDraining:
    """Notice that a worker's machine is going to be taken away."""

    worker: str


@dataclass(frozen=True)
class UnitDone:
    """A worker reports on a unit, failed ones included."""

    worker: str
    report: UnitReport


BackendEvent = WorkerReady | WorkerBound | BindFailed | WorkerLost | WorkerDraining | UnitDone


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


Event = BackendEvent | WorkerStuck | UnitsAdded | StopRequested


@dataclass(frozen=True)
class StartWorker:
    """Ask for a worker without a model; it may be pending for as long as the machine or cluster has no room."""

    worker: str
    needs: WorkerNeeds


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
    attempt: int
    row_by_row: bool


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

    A worker runs what it is told in order, one thing at a time. Commands return at once; a backend raises BackendError
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

    def start_worker(self, worker: str, needs: WorkerNeeds) -> None:
        """Asks for a worker; WorkerReady follows when it runs."""
        ...

    def bind(self, worker: str, model: str) -> None:
        """Makes a worker load a model; WorkerBound or BindFailed follows."""
        ...

    def dispatch(self, worker: str, unit: Unit, attempt: int, row_by_row: bool) -> None:
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

    def give_up(self, unit: Unit, report: UnitReport) -> bool:
        """Records the rows of a unit as failures, durably, before it returns.

        Returns:
            whether the unit is committed after all, so that there was nothing to record.
        """
        ...
