"""Whole runs whose driver is stopped, comes back too late, or lives on a machine whose clock is wrong."""

from __future__ import annotations

import random
import threading
import time

import pytest

from loco_core.errors import LocoError
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.store import LeaseLostError, Store, layout
from orchestrator.store import lease as lease_module
from orchestrator.store.blobs import Blobs, Put
from orchestrator.store.testing import FaultyBlobs, MemoryBlobs
from tests.support.fake_runs import run
from tests.support.flaky import FlakyBackend
from tests.support.sweeps import FakeWorker, assert_same

NEVER = 10**9


class FreezingBlobs(FaultyBlobs):
    """Storage of a process that is stopped when it writes a file for the n-th time, until it is told to go on."""

    def __init__(self, inner: Blobs, path: str, times: int) -> None:
        super().__init__(inner, NEVER, after=False)
        self._path, self._left, self._frozen, self._thaw = path, times, threading.Event(), threading.Event()

    def wait(self) -> None:
        assert self._frozen.wait(60), f"nothing was written to {self._path}"

    def thaw(self) -> None:
        self._thaw.set()

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        self._write(path)
        return super().put_if_absent(path, data, attempt_id)

    def replace(self, path: str, data: bytes) -> None:
        self._write(path)
        super().replace(path, data)

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        self._write(path)
        return super().compare_and_swap(path, data, expected)

    def _write(self, path: str) -> None:
        self._left -= path.startswith(self._path)
        if self._left <= 0:
            self._frozen.set()
        if self._frozen.is_set():
            self._thaw.wait(60)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes leases short and renewed by every turn of the loop, and processes look as those of another machine."""

    def alive(renewer: lease_module.LeaseRenewer) -> bool:
        try:
            renewer._lease.renew()
        except LeaseLostError:
            return False
        return True

    monkeypatch.setattr(lease_module.LeaseRenewer, "run", lambda self: None)
    monkeypatch.setattr(lease_module.LeaseRenewer, "alive", alive)
    defaults = lease_module.Lease.__init__.__kwdefaults__
    monkeypatch.setattr(lease_module.Lease.__init__, "__kwdefaults__", {**defaults, "beat": 0.1, "dead_after": 0.3})
    this = lease_module._this_process
    monkeypatch.setattr(lease_module, "_this_process", lambda: this() | {"machine": ""})


@pytest.mark.parametrize(
    ("path", "times"),
    [
        (layout.PLANS, 1), (layout.UNITS, 1), ("effects/", 2), ("localizations/", 2), (layout.MANIFESTS, 1),
        ("scores/", 2),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_impatient")
def test_a_driver_that_wakes_up_after_another_has_finished_changes_nothing(
    spec: SweepSpec, undisturbed: Store, path: str, times: int
) -> None:
    blobs, ended = MemoryBlobs(), list[str]()
    asleep = FreezingBlobs(blobs, path, times)

    def drive() -> None:
        try:
            ended.append(run(spec, Store(asleep))[0].summary.outcome)
        except LocoError as error:
            ended.append(str(error))

    thread = threading.Thread(target=drive)
    thread.start()
    asleep.wait()
    store = Store(blobs)
    assert run(spec, store)[0].summary.outcome == "done"
    asleep.thaw()
    thread.join(60)
    assert len(ended) == 1
    assert ended[0] in ("done", "lease_lost") or "another driver wrote" in ended[0]
    assert_same(store, undisturbed)
    for table in ("effects", "localizations"):
        assert store.read(table).equals(undisturbed.read(table))


def test_a_unit_under_which_the_driver_was_stopped_by_hand_is_not_charged(spec: SweepSpec, undisturbed: Store) -> None:
    class Stopped(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            raise KeyboardInterrupt

    store = Store(MemoryBlobs())
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run(spec, store, Stopped)
    result, _ = run(spec, store)
    assert (result.summary.outcome, result.failed_cells) == ("done", 0)
    assert_same(store, undisturbed)


def test_a_clock_that_jumps_by_an_hour_at_every_look_changes_nothing(
    spec: SweepSpec, undisturbed: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, right = random.Random(1), time.time
    monkeypatch.setattr(time, "time", lambda: right() + rng.choice((-3600, 0, 3600)))
    store = Store(MemoryBlobs())
    result, _ = run(spec, store, backend=lambda make: FlakyBackend(make, workers=3, seed=1, share=0.0))
    summary = result.summary
    assert (summary.outcome, summary.retries, summary.losses) == ("done", 0, 0)
    assert_same(store, undisturbed)
