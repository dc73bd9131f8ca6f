"""What the driver's loop does while tables are made; ``python -m benchmarks.loop [--request-seconds S]``.

A sweep of fifty attributes is run whose units are made up beforehand, so that to commit one is to write a file. Workers
are threads of this process, each committing for itself, as many as a bucket needs that takes long to answer. Measured
are turns of the loop, from one look at the workers to the next, while five thousand units are published and fifty
attributes localized; with ``--request-seconds`` each request to the storage takes as long as one to a slow bucket.
"""

from __future__ import annotations

import argparse
import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import scale
from orchestrator.backends.inline import InlineBackend
from orchestrator.resolve.resolved import Resolved
from orchestrator.runs.sweep import RunResult, run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import (
    Attempt,
    BackendEvent,
    Unit,
    UnitDone,
    UnitReport,
    WorkerBound,
    WorkerReady,
)
from orchestrator.spec import SweepSpec
from orchestrator.store import Store, layout, open_store
from orchestrator.store.blobs import Blobs, Put
from orchestrator.store.testing import FaultyBlobs, MemoryBlobs
from orchestrator.worker import WorkerSettings

MODELS = 10
COMMIT_REQUESTS = 2
"""Requests of a worker per unit: it looks whether its run is the latest, and writes."""


def sweep(units: int) -> SweepSpec:
    """Returns a sweep of fifty attributes, of about so many units."""
    cells = units * scale.UNIT_CELLS // MODELS
    return scale.sweep(cells).model_copy(
        update={
            "models": tuple(scale.sweep(cells).models[0].model_copy(update={"id": f"toy{n}"}) for n in range(MODELS))
        }
    )


def resolved() -> Resolved:
    """Returns the names of as many models that nobody loads."""
    one = scale.resolved()
    models = tuple(one.models[0].model_copy(update={"id": f"toy{n}", "weights": f"w{n}"}) for n in range(MODELS))
    return one.model_copy(update={"models": models})


class SlowBlobs(FaultyBlobs):
    """Storage that takes its time to answer."""

    def __init__(self, inner: Blobs, seconds: float) -> None:
        super().__init__(inner, 1 << 62, after=False)
        self._seconds = seconds

    def _before(self) -> None:
        time.sleep(self._seconds)


class Recorder:
    """Does units, and keeps what was reported of them."""

    def __init__(self, worker: scale.NoOpWorker, reports: dict[str, UnitReport]) -> None:
        self._worker, self._reports = worker, reports

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        """See :class:`orchestrator.scheduler.protocol.Worker`."""
        self._reports[unit.unit_id] = self._worker.run(unit, attempt)
        return self._reports[unit.unit_id]


class ThreadBackend:
    """Workers as threads that commit what was made before; notes how long the loop takes from one poll to the next."""

    isolated = True

    def __init__(self, workers: int, commit: Callable[[Unit], UnitReport]) -> None:
        self.workers, self._commit = workers, commit
        self._events: queue.SimpleQueue[BackendEvent] = queue.SimpleQueue()
        self._queues: dict[str, queue.SimpleQueue[Unit | None]] = {}
        self.turns: list[float] = []
        self.first, self.last = 0.0, 0.0
        self._left: float | None = None

    def most(self, asked: int | None, left: int) -> int:
        """See :class:`orchestrator.scheduler.protocol.Backend`."""
        return self.workers if asked is None else asked

    def start_worker(self, worker: str, needs: WorkerNeeds, avoid: frozenset[str]) -> None:
        """See :class:`orchestrator.scheduler.protocol.Backend`."""
        self._queues[worker] = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(worker, self._queues[worker]), daemon=True).start()
        self._events.put(WorkerReady(worker))

    def bind(self, worker: str, model: str) -> None:
        """See :class:`orchestrator.scheduler.protocol.Backend`."""
        self._events.put(WorkerBound(worker))

    def dispatch(self, worker: str, unit: Unit, *_: Any) -> None:
        """See :class:`orchestrator.scheduler.protocol.Backend`."""
        self.first = self.first or time.perf_counter()
        self._queues[worker].put(unit)

    def kill(self, worker: str) -> None:
        """See :class:`orchestrator.scheduler.protocol.Backend`."""
        if worker in self._queues:
            self._queues.pop(worker).put(None)

    def poll(self, timeout: float) -> Sequence[BackendEvent]:
        """See :class:`orchestrator.scheduler.protocol.Backend`."""
        if self._left is not None:
            self.turns.append(time.perf_counter() - self._left)
        found: list[BackendEvent] = []
        try:
            found.append(self._events.get(timeout=timeout) if timeout else self._events.get_nowait())
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            pass
        self._left = time.perf_counter()
        if any(isinstance(event, UnitDone) for event in found):
            self.last = self._left
        return [event for event in found if event.worker in self._queues]

    def shutdown(self) -> None:
        """See :class:`orchestrator.scheduler.protocol.Backend`."""
        for worker in list(self._queues):
            self.kill(worker)

    def _work(self, worker: str, units: queue.SimpleQueue[Unit | None]) -> None:
        while (unit := units.get()) is not None:
            self._events.put(UnitDone(worker, self._commit(unit)))


def run(spec: SweepSpec, store: Store, make_backend: Callable[[WorkerSettings], Any]) -> RunResult:
    """Runs a sweep into a store."""
    return run_sweep(
        spec, "results", make_backend, on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch(),
        store=store, resolved=resolved(),
    )  # fmt: skip


def made(spec: SweepSpec) -> tuple[dict[str, bytes], dict[str, UnitReport]]:
    """Returns the files of all units, by path, and what was reported of them."""
    blobs, reports = MemoryBlobs(), dict[str, UnitReport]()
    store = Store(blobs)
    run(
        spec, store,
        lambda settings: InlineBackend(
            lambda model: Recorder(scale.NoOpWorker(settings, model, scale.Tally(), store), reports), threads=1
        ),
    )  # fmt: skip
    return {path: data for path, data in blobs.files.items() if layout.unit_of(path)}, reports


def measured(spec: SweepSpec, workers: int, request_seconds: float) -> dict[str, Any]:
    """Returns what the loop did in a run of the sweep."""
    files, reports = made(spec)
    with tempfile.TemporaryDirectory(prefix="loop-") as root:
        blobs = open_store(root).blobs
        store = Store(SlowBlobs(blobs, request_seconds) if request_seconds else blobs)

        def commit(unit: Unit) -> UnitReport:
            time.sleep((COMMIT_REQUESTS - 1) * request_seconds)
            path = layout.unit(unit.unit_id)
            won: Put = store.blobs.put_if_absent(path, files[path], unit.unit_id)
            assert won == "won" or store.blobs.exists(path)
            return reports[unit.unit_id]

        backend = ThreadBackend(workers, commit)
        began, cpu = time.perf_counter(), time.process_time()
        result = run(spec, store, lambda settings: backend)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        published = store.over(blobs).read_columns("scores", ["unit_id"])
    turns = sorted(backend.turns)
    return {
        "units": result.summary.committed, "attributes_localized": len(result.localizations),
        "rows_published": published.num_rows, "request_seconds": request_seconds, "workers": workers,
        "turns": len(turns), "longest_turn_seconds": turns[-1], "99th_percentile": turns[len(turns) * 99 // 100],
        "units_done_seconds": backend.last - backend.first,
        "units_a_second": result.summary.committed / (backend.last - backend.first),
        "loop_seconds": result.summary.seconds,
        "whole_run_seconds": seconds, "cpu_seconds": cpu,
    }  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--request-seconds", type=float, default=0.0, help="what each request to the storage takes")
    arguments = parser.parse_args()
    scale.WIDTH = 8
    print(json.dumps(measured(sweep(arguments.units), arguments.workers, arguments.request_seconds), indent=1))


if __name__ == "__main__":
    main()
