"""Whole runs in this process into a store in memory, with workers that need no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from loco_core.localization.base import Localization
from orchestrator.backends.inline import InlineBackend
from orchestrator.resolve.resolved import Resolved
from orchestrator.runs.sweep import RunResult, run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Attempt, Backend, MakeWorker, Unit, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.store import Store, open_store
from orchestrator.store.testing import MemoryBlobs
from orchestrator.worker import WorkerSettings
from tests.support.sweeps import FakeWorker, fake_resolved


def inline(make_worker: MakeWorker) -> Backend:
    """Returns a backend of one thread in this process."""
    return InlineBackend(make_worker, threads=1)


def run(
    spec: SweepSpec,
    store: Store,
    make: Callable[..., Any] = FakeWorker,
    backend: Callable[[MakeWorker], Backend] = inline,
    resolve: Callable[[SweepSpec], Resolved] = fake_resolved,
    **options: Any,
) -> tuple[RunResult, list[Localization]]:
    """Runs a sweep into a store with workers that need no model; returns what it came to and what it localized."""
    found: list[Localization] = []

    def make_backend(settings: WorkerSettings) -> Backend:
        return backend(lambda model: make(settings, model, lambda: store))

    result = run_sweep(
        spec, "results", make_backend, on_localized=found.append, store=store, resolved=resolve(spec),
        **{"stop": StopSwitch(), "on_progress": lambda _: None, **options},
    )  # fmt: skip
    return result, found


def forget_lease(blobs: MemoryBlobs) -> None:
    """Removes the lease of a dead driver: it names this very process, which lives; a real one is seen to be dead."""
    blobs.files.pop("_meta/lease.json", None)


def work_after(monkeypatch: pytest.MonkeyPatch, before: Callable[[Unit], None]) -> None:
    """Makes workers commit made-up scores, after something else.

    Args:
        monkeypatch: undoes it.
        before: called with every unit first.
    """

    class Worker(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            before(unit)
            return super().run(unit, attempt)

    monkeypatch.setattr(
        WorkerSettings, "__call__", lambda self, model: Worker(self, model, lambda: open_store(self.results))
    )
