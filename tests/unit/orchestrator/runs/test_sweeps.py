"""All sweeps below a place: their states, whatever lies beside them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.runs.recorded import written_progress
from orchestrator.runs.sweeps import FoundSweep, sweeps_below
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport
from orchestrator.store import Store, encode_document, layout
from orchestrator.store.lease import Lease, _this_process
from orchestrator.store.local import LocalBlobs
from orchestrator.store.testing import MemoryBlobs
from tests.support.fake_runs import run
from tests.support.sweeps import Command, FakeWorker, tiny_sweep

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def only(store: Store) -> FoundSweep:
    (found,) = sweeps_below(store.blobs, datetime.now(UTC))
    return found


@pytest.fixture
def store() -> Store:
    return Store(MemoryBlobs())


def test_a_sweep_that_is_done(store: Store) -> None:
    run(tiny_sweep("x"), store)
    found = only(store)
    assert (found.place, found.name, found.state, found.units_left, found.failed) == (".", "tiny", "done", 0, 0)
    assert found.units_done == len(store.committed())
    assert found.seen is not None
    # A second run finds all of it.
    run(tiny_sweep("x"), store)
    assert only(store).units_done == found.units_done


def test_a_sweep_that_was_stopped_and_goes_on(store: Store) -> None:
    stop = StopSwitch()

    class Stopping(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            stop.press()
            return super().run(unit, attempt)

    spec = tiny_sweep("x", seeds=6)
    run(spec, store, Stopping, stop=stop)
    found = only(store)
    assert found.state == "stopped"
    assert found.units_done == len(store.committed()) > 0
    assert found.units_left
    run(spec, store)
    done = only(store)
    assert (done.state, done.units_left) == ("done", 0)
    assert done.units_done == len(store.committed())
    assert done.gpu_hours is not None
    assert done.gpu_hours > 0


def test_cells_without_a_score_are_failed(store: Store) -> None:
    class Failing(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            return UnitReport(unit.unit_id, attempt.number, "failed", error_type="ValueError", error="odd")

    result, _ = run(tiny_sweep("x"), store, Failing)
    found = only(store)
    assert found.state == "failed"
    assert found.failed == result.failed_cells > 0
    # Resumed, nothing is left to do, and cells have no score still.
    run(tiny_sweep("x"), store)
    assert only(store).state == "failed"


def test_a_driver_at_work_and_one_that_died(store: Store) -> None:
    run(tiny_sweep("x"), store)
    lease = Lease(store.blobs)
    lease.acquire()
    assert only(store).state == "running"
    written = written_progress(store.blobs)
    assert written is not None
    store.blobs.replace(layout.PROGRESS, encode_document({**written, "limit": 0}))
    assert only(store).state == "paused"
    store.blobs.replace(layout.PROGRESS, encode_document(written))
    seen = {"owner": "gone", "at": NOW.isoformat(), **_this_process(), "started": "1"}
    store.blobs.replace(layout.LEASE, encode_document(seen))
    found = only(store)
    assert (found.state, found.seen) == ("died", NOW)
    # Of another machine only time tells.
    store.blobs.replace(layout.LEASE, encode_document({**seen, "machine": "elsewhere"}))
    assert [item.state for item in sweeps_below(store.blobs, NOW + timedelta(seconds=20))] == ["running"]
    assert [item.state for item in sweeps_below(store.blobs, NOW + timedelta(seconds=40))] == ["died"]


def test_places_of_all_kinds(tmp_path: Path, command: Command) -> None:
    blobs = MemoryBlobs()
    run(tiny_sweep("x"), Store(blobs))
    for folder in ("a", "deep/er/b", "new", "damaged", ".hidden/c", "1/2/3/4/5/too-deep"):
        store = LocalBlobs(tmp_path / folder)
        for path, data in blobs.files.items():
            if path.startswith("_meta/"):
                store.replace(path, data)
    (tmp_path / "new" / layout.PROGRESS).unlink()
    (tmp_path / "damaged" / layout.SWEEP).write_text("{")
    (tmp_path / "notes.txt").write_text("x")
    os.symlink(tmp_path / "a", tmp_path / "link")
    code, out, err = command("ls", tmp_path, "--json")
    assert (code, err) == (0, "")
    found = {item["place"]: (item["name"], item["state"]) for item in json.loads(out)}
    assert found == {
        "a": ("tiny", "done"), "deep/er/b": ("tiny", "done"), "new": ("tiny", "new"), "damaged": (None, "damaged"),
    }  # fmt: skip
    out = command("ls", tmp_path)[1]
    head = "place sweep state done left failed seen gpu_hours cost"
    assert out.splitlines()[0].split("\t") == head.split()
    assert "damaged: `loco-sweep verify` says what" in out
    assert command("ls", tmp_path / "deep" / "er")[0] == 0
    assert command("ls", tmp_path / "1" / "2" / "3" / "4" / "5", "--json")[1].count("tiny") == 1
    (tmp_path / "empty").mkdir()
    assert command("ls", tmp_path / "empty")[1] == f"no sweep below {tmp_path / 'empty'}\n"
    code, _, err = command("ls", tmp_path / "nowhere")
    assert code != 0
    assert "nowhere is not there" in err
