"""A backend that does what it is scripted to, a journal that notes it, and units for both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import (
    Attempt,
    BackendEvent,
    Unit,
    UnitDone,
    UnitReport,
    WorkerBound,
    WorkerLost,
    WorkerReady,
)


class Diary:
    """A journal that also notes what the backend was told, in one sequence."""

    def __init__(self, previous: Mapping[str, int] | None = None) -> None:
        self.entries: list[str] = []
        self.last: dict[str, int] = {}
        self.done: set[str] = set()
        self._previous = previous or {}

    def previous(self) -> Mapping[str, int]:
        return self._previous

    def record(self, attempts: Mapping[str, int]) -> None:
        self.last = dict(attempts)
        self.entries.append("record " + " ".join(f"{u}={n}" for u, n in sorted(attempts.items())))

    def committed(self, unit: Unit) -> bool:
        return unit.unit_id in self.done

    def give_up(self, unit: Unit, report: UnitReport) -> None:
        self.entries.append(f"give up {unit.unit_id}: {report.error}")


class ScriptedBackend:
    """Workers that are ready at once and commit each unit at the next poll, unless told otherwise."""

    def __init__(self, diary: Diary, *, isolated: bool = True, workers: int = 1) -> None:
        self.diary = diary
        self.isolated = isolated
        self.workers = workers
        self.events: list[BackendEvent] = []
        self.hanging: set[tuple[str, int]] = set()
        self.starts = True
        self.killed: list[str] = []

    def most(self, asked: int | None, left: int) -> int:
        return self.workers if asked is None else asked

    def start_worker(self, worker: str, needs: WorkerNeeds, avoid: frozenset[str]) -> None:
        self.events.append(
            WorkerReady(worker) if self.starts else WorkerLost(worker, "died", "no such file: libcuda.so")
        )

    def bind(self, worker: str, model: str) -> None:
        self.events.append(WorkerBound(worker))

    def dispatch(self, worker: str, unit: Unit, attempt: Attempt) -> None:
        self.diary.entries.append(f"dispatch {unit.unit_id} {attempt.number}")
        if (unit.unit_id, attempt.number) not in self.hanging:
            report = UnitReport(unit.unit_id, attempt.number, "committed", rows=10, seconds=0.1, worker=worker)
            self.events.append(UnitDone(worker, report))

    def kill(self, worker: str) -> None:
        self.killed.append(worker)
        self.events = [event for event in self.events if event.worker != worker]

    def poll(self, timeout: float) -> Sequence[BackendEvent]:
        if not self.events:
            time.sleep(0.02)
            return ()
        return (self.events.pop(0),)

    def shutdown(self) -> None: ...


def unit(number: int) -> Unit:
    return Unit(f"u{number}", "sweep", "a", number, 1.0, None)
