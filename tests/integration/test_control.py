"""``scale``, ``pause`` and ``resume``: while a driver runs, and while none does."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runs import control
from orchestrator.runs.control import ControlWatch, change_control
from orchestrator.runs.status import survey
from orchestrator.scheduler.protocol import Unit
from orchestrator.store import Store, StoreError, open_store, verify
from orchestrator.store.testing import MemoryBlobs
from tests.support.fake_runs import work_after
from tests.support.sweeps import Command, fake_resolved, tiny_sweep

INLINE = ("--backend", "inline", "--threads", "1")
UNITS = 6


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of six units whose model nobody loads."""
    monkeypatch.setattr("orchestrator.runs.sweep.resolve", fake_resolved)
    monkeypatch.setattr(control, "CONTROL_SECONDS", 0.05)
    path = tmp_path / "sweep.yaml"
    changes: dict[str, Any] = {"controls": {"random": 0}, "localize": {"localizer": "argmin"}}
    path.write_text(tiny_sweep("x", attributes=["style/velor"], seeds=3, **changes).model_dump_json(exclude_unset=True))
    return path


def test_a_pause_lets_workers_go_until_somebody_resumes(
    command: Command, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = str(tmp_path / "results")
    seen: list[tuple[int, bool]] = []

    def watch() -> None:
        store = open_store(results)
        deadline = time.monotonic() + 60
        # What runs is finished, and what was sent out behind it before the driver had seen that.
        while survey(store).units_done < before_it + 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        for _ in range(2):
            time.sleep(1.0)
            found = survey(store)
            seen.append((found.units_done, found.paused))
        change_control(store, paused=False)

    other, looked, before_it = threading.Thread(target=watch), threading.Event(), 2
    look = ControlWatch._look

    def looks(self: ControlWatch) -> None:
        look(self)
        if self.limit() == 0:
            looked.set()

    monkeypatch.setattr(ControlWatch, "_look", looks)

    def before(unit: Unit) -> None:
        if unit.order == before_it and not other.ident:
            change_control(open_store(results), paused=True)
            other.start()
            assert looked.wait(60), "the driver never looks"

    work_after(monkeypatch, before)
    code, _, err = command("run", sweep, "--results", results, *INLINE)
    other.join()
    assert (code, err) == (0, "")
    assert seen[0][1], "it says that it is paused"
    assert seen[0] == seen[1], "nothing is begun while it is paused"
    assert seen[0][0] == before_it + 2 < UNITS
    assert survey(open_store(results)).units_done == UNITS
    assert verify(open_store(results)) == []


def test_what_is_asked_while_no_driver_runs_holds_for_the_next(
    command: Command, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    work_after(monkeypatch, lambda unit: os.kill(os.getpid(), signal.SIGINT) if unit.order == 2 else None)
    assert command("run", sweep, "--results", results, *INLINE)[0] == 4
    code, out, _ = command("pause", results)
    assert (code, out) == (
        0, f"{results}: paused; it holds for the next driver, `loco-sweep run {results}`\n"
    )  # fmt: skip
    assert f"paused: no new units are begun until `loco-sweep resume {results}`" in command("status", results)[1]
    assert command("scale", results, "3")[0] == 0
    assert "not paused; it holds" in command("resume", results)[1]
    assert "not paused, nothing to resume" in command("resume", results)[1]
    assert "at most 3 workers" in command("status", results)[1]
    found = json.loads(command("status", results, "--json")[1])
    assert (found["most_workers"], found["paused"]) == (3, False)
    work_after(monkeypatch, lambda unit: None)
    assert command("run", sweep, "--results", results, *INLINE)[0] == 0


@pytest.mark.parametrize("workers", ["0", "-1", "2.5", "many"])
def test_a_number_of_workers_that_is_none_is_refused(command: Command, tmp_path: Path, workers: str) -> None:
    code, _, err = command("scale", tmp_path, "--", workers)
    assert code == 2
    assert err == f"error: '{workers}' is no number of workers; expected 1 to 100000, or auto; `pause` lets all go\n"


def test_results_without_a_sweep_are_left_alone() -> None:
    with pytest.raises(StoreError, match="holds no sweep"):
        change_control(Store(MemoryBlobs()), paused=True)


def test_what_cannot_be_read_leaves_what_was_asked_before(caplog: pytest.LogCaptureFixture) -> None:
    store = Store(MemoryBlobs())
    store.blobs.replace("_meta/control.json", b"{")
    watch = ControlWatch(store, 60.0)
    assert watch.limit() is None
    assert "cannot be read" in caplog.text
    watch.close()
