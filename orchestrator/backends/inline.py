"""One worker in this process: no Ray, no second process; for debugging, small sweeps and tests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from loco_core.errors import StoreError
from loco_core.quiet import unasked
from orchestrator.backends.machine import describe
from orchestrator.scheduler.host import WorkerHost, failure
from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import (
    Attempt,
    BackendEvent,
    BindFailed,
    MakeWorker,
    Unit,
    UnitDone,
    UnitReport,
    WorkerBound,
    WorkerReady,
    WorkerRefused,
)

HERE = "this machine"
IDLE_SECONDS = 0.02
"""What is asked for meanwhile need not wait longer."""


class InlineBackend:
    """Runs one command of the scheduler with every poll, in the calling thread.

    A unit that kills its process kills this one; the next run finds it charged in the journal. A stuck unit stays
    stuck: nobody is there to kill it.

    Args:
        make_worker: loads a model.
        threads: CPU threads of its computations.
    """

    workers = 1
    isolated = False

    def __init__(self, make_worker: MakeWorker, *, threads: int) -> None:
        self._make_worker = make_worker
        self._threads = threads
        self._hosts: dict[str, WorkerHost] = {}
        self._commands: deque[tuple[str, Callable[[], BackendEvent]]] = deque()

    def most(self, asked: int | None, left: int) -> int:
        """Returns 1, or 0 where the run is paused."""
        return 1 if asked is None else min(asked, 1)

    def start_worker(self, worker: str, needs: WorkerNeeds, avoid: frozenset[str]) -> None:
        """Takes labels as met: this machine is all there is."""
        if HERE in avoid:
            self._commands.append((worker, partial(WorkerRefused, worker, "there is one machine")))
            return
        self._hosts[worker] = WorkerHost(worker, self._make_worker, self._threads)
        self._commands.append((worker, partial(self._ready, worker, needs.gpus)))

    def bind(self, worker: str, model: str) -> None:
        """Queues the loading of a model."""
        self._commands.append((worker, partial(self._bind, worker, model)))

    def dispatch(self, worker: str, unit: Unit, attempt: Attempt) -> None:
        """Queues a unit."""
        self._commands.append((worker, partial(self._run, worker, unit, attempt)))

    def kill(self, worker: str) -> None:
        """Forgets the worker and what it was still to do."""
        self._hosts.pop(worker, None)
        self._commands = deque(command for command in self._commands if command[0] != worker)

    def poll(self, timeout: float) -> Sequence[BackendEvent]:
        """Carries out the next command, however long it takes; waits only where there is none."""
        if not self._commands:
            time.sleep(min(timeout, IDLE_SECONDS))
            return ()
        return (self._commands.popleft()[1](),)

    def shutdown(self) -> None:
        """Forgets everything."""
        self._hosts.clear()
        self._commands.clear()

    def _ready(self, worker: str, gpus: int | None) -> BackendEvent:
        return WorkerReady(worker, describe(HERE, gpus), gpus)

    def _bind(self, worker: str, model: str) -> BackendEvent:
        try:
            with unasked():
                device = self._hosts[worker].bind(model)
        except (Exception, SystemExit) as error:
            return BindFailed(worker, type(error).__name__, failure(error), isinstance(error, StoreError))
        return WorkerBound(worker, device)

    def _run(self, worker: str, unit: Unit, attempt: Attempt) -> BackendEvent:
        try:
            with unasked():
                return UnitDone(worker, self._hosts[worker].run(unit, attempt))
        except SystemExit as error:
            report = UnitReport(
                unit.unit_id,
                attempt.number,
                "failed",
                error_type="SystemExit",
                error=f"the unit ended with exit code {error}",
                worker=worker,
            )
            return UnitDone(worker, report)
