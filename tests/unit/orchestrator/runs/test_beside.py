"""Tables are made beside the loop: it waits for none of them, and what is beside it ends with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.store import LeaseLostError, Store, layout, leased, publish, verify
from orchestrator.store.blobs import Blobs
from orchestrator.store.held import HeldBlobs
from orchestrator.store.testing import FaultyBlobs, MemoryBlobs
from tests.support.fake_runs import run
from tests.support.sweeps import FakeWorker, assert_same, tiny_sweep
from tests.support.waits import waited


class Held(FaultyBlobs):
    """Storage that answers some calls only when it is told to."""

    def __init__(self, inner: Blobs, held: Callable[[str, str], bool]) -> None:
        super().__init__(inner, 10**9, after=False)
        self._held, self.go, self.reached = held, threading.Event(), threading.Event()

    def read(self, path: str) -> bytes:
        self._wait("read", path)
        return super().read(path)

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Any:
        self._wait("write", path)
        return super().put_if_absent(path, data, attempt_id)

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        self._wait("write", path)
        return super().compare_and_swap(path, data, expected)

    def _wait(self, how: str, path: str) -> None:
        if self._held(how, path):
            self.reached.set()
            assert self.go.wait(60), f"nothing went on while {path} was held"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "FIRST_UNITS", 2)


@pytest.fixture
def spec() -> SweepSpec:
    """Eight units of two attributes."""
    return tiny_sweep("x", controls={"random": 0}, localize={"localizer": "argmin"})


@pytest.mark.parametrize(
    "held",
    [lambda how, path: path.startswith(layout.MANIFESTS), lambda how, path: path.startswith("effects/tiny")],
    ids=["a part", "a localization"],
)
def test_units_go_out_while_a_table_is_written(spec: SweepSpec, held: Callable[[str, str], bool]) -> None:
    blobs = MemoryBlobs()
    slow, ran = Held(blobs, held), list[str]()

    class Counting(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            report = super().run(unit, attempt)
            ran.append(unit.unit_id)
            if len(ran) == 8:
                slow.go.set()
            return report

    result, found = run(spec, Store(slow), Counting)
    assert slow.reached.is_set()
    assert (result.summary.outcome, len(ran), len(found)) == ("done", 8, 2)
    undisturbed = Store(MemoryBlobs())
    run(spec, undisturbed)
    assert_same(Store(blobs), undisturbed)


def test_asked_twice_to_stop_a_run_does_not_wait_for_a_part(spec: SweepSpec) -> None:
    """The part reads its units for ever; what it has not written yet, it writes never."""
    blobs, stop = MemoryBlobs(), StopSwitch()
    slow = Held(blobs, lambda how, path: how == "read" and path.startswith(layout.UNITS))

    class Pressing(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            report = super().run(unit, attempt)
            if slow.reached.is_set():
                stop.press()
                stop.press()
            return report

    began = waited()
    result, _ = run(spec, Store(slow), Pressing, stop=stop)
    assert result.summary.outcome == "stopped"
    assert waited() - began < 30
    before = dict(blobs.files)
    slow.go.set()
    time.sleep(0.3)
    assert blobs.files == before, "written after the lease was given back"
    assert run(spec, Store(blobs))[0].summary.outcome == "done"
    assert verify(Store(blobs)) == []


def test_a_table_that_cannot_be_written_ends_the_run_and_what_is_committed_stays(spec: SweepSpec) -> None:
    from orchestrator.store import DiskFullError

    class Full(FaultyBlobs):
        def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
            if path.startswith("localizations/"):
                raise DiskFullError("no space left on the disk")
            return super().compare_and_swap(path, data, expected)

    blobs = MemoryBlobs()
    with pytest.raises(DiskFullError, match="no space left"):
        run(spec, Store(Full(blobs, 10**9, after=False)))
    store = Store(blobs)
    done = store.committed()
    assert len(done) >= 4
    assert set(store.read("scores")["unit_id"].to_pylist()) == done, "what is committed is published all the same"
    assert run(spec, store)[0].summary.committed == 8 - len(done)


def test_nothing_is_written_once_the_lease_is_given_back() -> None:
    store = Store(MemoryBlobs())
    with leased(store) as held:
        held.store.blobs.replace("scores/x", b"x")
    for use in (lambda: held.store.blobs.replace("scores/y", b"y"), lambda: held.store.blobs.read("scores/x")):
        with pytest.raises(LeaseLostError, match="was given back"):
            use()
    assert store.blobs.list("scores") == ["scores/x"]


def test_giving_back_waits_for_what_is_being_written() -> None:
    blobs = MemoryBlobs()
    slow = Held(blobs, lambda how, path: path == "scores/slow")
    held, closed = HeldBlobs(slow, lambda: True), threading.Event()
    writer = threading.Thread(target=lambda: held.put_if_absent("scores/slow", b"x", "a"))
    writer.start()
    assert slow.reached.wait(60)
    closer = threading.Thread(target=lambda: [held.close(10), closed.set()])
    closer.start()
    assert not closed.wait(0.2)
    assert not held.close(0)
    slow.go.set()
    assert closed.wait(60)
    assert held.close(0)
    assert blobs.files["scores/slow"] == b"x"
    writer.join()
    closer.join()
