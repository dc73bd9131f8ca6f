"""Hooks are called with what happens; one that fails, hangs or is slow holds nothing up."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loco_core.localization.base import Localization
from orchestrator.hooks import runner
from orchestrator.hooks.events import Failure, RunEnd, RunStart
from orchestrator.hooks.runner import Hooks, Maker
from orchestrator.scheduler.progress import Progress
from orchestrator.scheduler.protocol import Attempt, BackendError, Unit, UnitReport
from orchestrator.store import Store, encode_document, layout
from orchestrator.store.lease import _this_process
from orchestrator.store.testing import MemoryBlobs
from tests.support.fake_runs import run
from tests.support.sweeps import FakeWorker, tiny_sweep

START = RunStart("s", "0" * 16, "1" * 64, "results", "run", ("m",), ("a",), 1, 1)
FOUND = Localization("m", "style/x", "style", "remove", "localized", "because", effect=0.5)
METHODS = ("on_start", "on_progress", "on_localized", "on_edited", "on_failed", "on_end")


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """A hook, as a file, that keeps what it is called with."""
    file = tmp_path / "mine.py"
    body = "".join(f"    def {name}(self, event): self.calls.append(({name!r}, event))\n" for name in METHODS)
    file.write_text(f"class Hook:\n    calls = []\n{body}")
    return str(file)


def calls_of(file: str) -> list[tuple[str, Any]]:
    from loco_core import plugins

    found: list[tuple[str, Any]] = plugins.load("hooks", file).Hook.calls
    return found


def written(folder: Path, name: str, body: str) -> str:
    file = folder / f"{name}.py"
    file.write_text(f"import time\nclass Hook:\n{body}")
    return str(file)


def test_a_run_calls_its_hooks_in_order(recording: str) -> None:
    run(tiny_sweep("x", hooks=(recording,)), Store(MemoryBlobs()))
    calls = calls_of(recording)
    names = [name for name, _ in calls]
    assert names[0] == "on_start"
    assert names[-2:] == ["on_progress", "on_end"]
    start, end = calls[0][1], calls[-1][1]
    assert (start.name, start.command, start.models, start.died) == ("tiny", "run", ("tiny",), None)
    assert sorted(event.attribute for name, event in calls if name == "on_localized") == ["fact/zandia", "style/velor"]
    assert end.outcome == "done"
    assert end.progress.left == 0 < end.progress.done
    assert [item.attribute for item in end.localizations] == ["fact/zandia", "style/velor"]


def test_a_unit_that_is_given_up_is_told_once(recording: str) -> None:
    class Failing(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            if unit.payload.attribute == "style/velor":
                return UnitReport(unit.unit_id, attempt.number, "failed", error_type="ValueError", error="odd")
            return super().run(unit, attempt)

    result, _ = run(tiny_sweep("x", hooks=(recording,)), Store(MemoryBlobs()), Failing)
    told = [event for name, event in calls_of(recording) if name == "on_failed"]
    assert {failure.unit_id for failure in told} == {report.unit_id for report in result.summary.failures}
    assert len(told) == len(result.summary.failures) > 0
    assert {(failure.attribute, failure.error_type, failure.attempts) for failure in told} == {
        ("style/velor", "ValueError", 3)
    }
    end = calls_of(recording)[-1][1]
    assert end.failed_cells == result.failed_cells > 0


def test_an_error_that_ends_a_run_is_told(recording: str) -> None:
    def none(make_worker: Any) -> Any:
        raise BackendError("no workers")

    with pytest.raises(BackendError):
        run(tiny_sweep("x", hooks=(recording,)), Store(MemoryBlobs()), backend=none)
    name, end = calls_of(recording)[-1]
    assert (name, end.outcome, end.error) == ("on_end", "error", "no workers")


def test_a_driver_that_died_is_told_by_the_next(recording: str) -> None:
    store = Store(MemoryBlobs())
    run(tiny_sweep("x"), store)
    lease = {"owner": "dead", **_this_process(), "started": "1", "at": "2026-01-02T03:04:05+00:00"}
    store.blobs.replace(layout.LEASE, encode_document(lease))
    run(tiny_sweep("x", hooks=(recording,)), store)
    assert calls_of(recording)[0][1].died.isoformat() == "2026-01-02T03:04:05+00:00"
    run(tiny_sweep("x", hooks=(recording,)), store)
    assert [event.died is None for name, event in calls_of(recording) if name == "on_start"] == [False, True]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "    def __init__(self): raise ValueError('no place')\n    def on_end(self, end): pass\n",
            "ValueError: no place",
        ),
        ("    def on_progress(self, progress): raise SystemExit('enough')\n", "SystemExit: enough"),
        ("    def on_start(self, run): import nothing_like_it\n", "No module named 'nothing_like_it'"),
    ],
)
def test_a_hook_that_fails_is_one_warning(
    tmp_path: Path, recording: str, caplog: pytest.LogCaptureFixture, body: str, why: str
) -> None:
    result, _ = run(tiny_sweep("x", hooks=(written(tmp_path, "bad", body), recording)), Store(MemoryBlobs()))
    assert result.summary.outcome == "done"
    assert calls_of(recording)[-1][0] == "on_end"
    told = [record.message for record in caplog.records if "the run goes on" in record.message]
    assert len(told) == 1
    assert told[0].startswith("hook bad.py: ")
    assert why in told[0]


def test_a_hook_that_hangs_is_left_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "DRAIN_SECONDS", 0.2)
    # The command line ends the process at once where there is one: here later tests call it in this process.
    left: set[str] = set()
    monkeypatch.setattr(runner, "LEFT_BEHIND", left)
    hanging = written(tmp_path, "hang", "    def on_start(self, run): time.sleep(1000)\n")
    result, _ = run(tiny_sweep("x", hooks=(hanging,)), Store(MemoryBlobs()))
    assert result.summary.outcome == "done"
    assert "hook hang.py is at work" in caplog.text
    assert left == {"hang.py"}


HANGING = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from orchestrator.cli import main
from orchestrator.hooks.runner import Hooks, Maker

class Hook:
    def on_start(self, run):
        threading.Thread(target=time.sleep, args=(1000,)).start()
        ThreadPoolExecutor().submit(time.sleep, 1000).result()

def commands():
    hooks = Hooks([Maker("mine", Hook)])
    hooks.start(None)
    hooks.close(0.5)
    print("all is written")
    sys.exit(3)

main._commands = commands
main.main()
"""


def test_threads_of_a_hook_that_is_left_behind_do_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (3, "all is written\n")
    assert "hook mine is at work" in done.stderr


def test_a_slow_hook_holds_nothing_up_and_learns_the_end(caplog: pytest.LogCaptureFixture) -> None:
    go, calls = threading.Event(), []

    class Slow:
        def on_localized(self, found: Localization) -> None:
            go.wait(60)
            calls.append("on_localized")

        def on_progress(self, progress: Progress) -> None:
            calls.append("on_progress")

        def on_end(self, end: RunEnd) -> None:
            calls.append("on_end")

    hooks = Hooks([Maker("slow", Slow)])
    hooks.start(START)
    for _ in range(runner.MOST_WAITING + 500):
        hooks.localized(FOUND)
        hooks.progress(Progress())
    hooks.end(lambda seconds, progress: RunEnd("done", None, seconds, progress))
    assert not calls
    go.set()
    hooks.close(60)
    assert calls[-1] == "on_end"
    assert runner.MOST_WAITING - 5 <= calls.count("on_localized") <= runner.MOST_WAITING + 1
    assert caplog.text.count("is slow") == 1


def test_a_package_that_is_missing_says_what_installs_it(caplog: pytest.LogCaptureFixture) -> None:
    def make() -> object:
        raise ModuleNotFoundError("No module named 'wandb'", name="wandb")

    hooks = Hooks([Maker("wandb", make, "wandb", "wandb")])
    hooks.start(START)
    hooks.close(60)
    assert "hook wandb: wandb is not installed; `pip install 'loco-sweep[wandb]'` installs it" in caplog.text


def test_progress_is_passed_on_every_few_seconds_only() -> None:
    calls: list[Progress] = []

    class Counting:
        def on_progress(self, progress: Progress) -> None:
            calls.append(progress)

    hooks = Hooks([Maker("counting", Counting)])
    hooks.start(START)
    for done in range(100):
        hooks.progress(replace(Progress(), done=done))
        time.sleep(0.001)
    hooks.end(lambda seconds, progress: RunEnd("done", None, seconds, progress))
    hooks.close(60)
    # The first one, and the last one at the end.
    assert [progress.done for progress in calls] in ([0, 99], [99])


def test_what_hooks_are_called_with_is_frozen() -> None:
    for event in (START, Failure("u", "sweep", "m", None, "E", "e", 3), RunEnd("done", None, 1.0, Progress())):
        with pytest.raises(AttributeError):
            event.seconds = 2  # type: ignore[union-attr,misc]
