"""Runs that are stopped by signals or leave failed cells: exit codes, what is printed, and that nothing secret is."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.cli import main
from orchestrator.scheduler.protocol import Unit
from orchestrator.store import open_store
from tests.support.fake_runs import work_after
from tests.support.sweeps import Command, assert_each_once, fake_resolved, tiny_sweep

INLINE = ("--backend", "inline", "--threads", "1")
UNITS = 6
Before = Callable[[Unit], None]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of six units whose model nobody loads."""
    monkeypatch.setattr("orchestrator.runs.sweep.resolve", fake_resolved)
    work_after(monkeypatch, lambda unit: None)
    path = tmp_path / "sweep.yaml"
    changes: dict[str, Any] = {"controls": {"random": 0}, "localize": {"localizer": "argmin"}}
    path.write_text(tiny_sweep("x", attributes=["style/velor"], seeds=3, **changes).model_dump_json(exclude_unset=True))
    return path


def presses(*numbers: int) -> Before:
    def press(unit: Unit) -> None:
        for number in numbers if unit.order == 2 else ():
            os.kill(os.getpid(), number)

    return press


@pytest.mark.parametrize(
    ("numbers", "committed"),
    [
        ((signal.SIGINT,), 4),
        ((signal.SIGTERM,), 4),
        ((signal.SIGHUP,), 4),
        ((signal.SIGINT,) * 2, 2),
        ((signal.SIGTERM,) * 2, 2),
        ((signal.SIGHUP, signal.SIGINT), 2),
        ((signal.SIGHUP,) * 2, 4),
        ((signal.SIGINT, signal.SIGHUP), 4),
    ],
    ids=[
        "Ctrl-C",
        "SIGTERM",
        "closed terminal",
        "Ctrl-C twice",
        "SIGTERM twice",
        "closed terminal and Ctrl-C",
        "closed terminal twice",
        "Ctrl-C and closed terminal",
    ],
)
def test_once_ends_with_what_runs_twice_at_once_and_both_resume(
    command: Command, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...],
    committed: int,
) -> None:  # fmt: skip
    known = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    results, handlers = tmp_path / "results", [signal.getsignal(n) for n in known]
    work_after(monkeypatch, presses(*numbers))
    code, out, err = command("run", sweep, "--results", results, *INLINE)
    assert (code, err) == (4, "")
    assert out.splitlines()[-1].endswith("the same command resumes")
    store = open_store(str(results))
    assert len(store.committed()) == committed
    assert [signal.getsignal(n) for n in known] == handlers
    ran: list[str] = []
    work_after(monkeypatch, lambda unit: ran.append(unit.unit_id))
    code, out, err = command("run", sweep, "--results", results, *INLINE)
    assert (code, err, len(ran)) == (0, "", UNITS - committed)
    assert_each_once(store.read("scores"))
    assert store.read("scores").num_rows == sum(sum(plan["cells"].to_pylist()) for plan in store.plans().values())


def test_a_run_that_nohup_started_outlives_its_terminal(
    command: Command, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        work_after(monkeypatch, presses(signal.SIGHUP))
        code, _, err = command("run", sweep, "--results", tmp_path / "results", *INLINE)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (code, err) == (0, "")
    assert len(open_store(str(tmp_path / "results")).committed()) == UNITS


def test_a_run_in_a_terminal_that_closes_ends_as_it_should(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"

    def wait(unit: Unit) -> None:
        if unit.order == 2:
            there.touch()
            while os.isatty(1):
                time.sleep(0.01)

    work_after(monkeypatch, wait)
    child, terminal = pty.fork()
    if child == 0:
        # The output that pytest keeps is another.
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.__stdout__ = sys.stdout
        sys.argv = ["loco-sweep", "run", str(sweep), "--results", str(tmp_path / "results"), *INLINE]
        try:
            main.main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        finally:
            os._exit(9)
    while not there.exists():
        time.sleep(0.01)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 4
    assert len(open_store(str(tmp_path / "results")).committed()) == 4


CANARY = "canary-7f3a91"


def test_failed_cells_say_so_and_no_secret_is_anywhere(
    command: Command, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, CANARY)

    def fail(unit: Unit) -> None:
        if unit.order == 1:
            raise ValueError("no luck")

    results = tmp_path / "results"
    work_after(monkeypatch, fail)
    code, out, err = command("run", sweep, "--results", results, *INLINE)
    assert code == 3
    reason = "(style/velor of tiny): ValueError: no luck"
    advice = f"every try meets ValueError: change what it names first, then `loco-sweep retry {results}` computes"
    assert out.count(reason) == out.count(advice) == 1
    said = [out, err]
    for word in ("status", "verify", "report"):
        code, out, err = command(word, results)
        assert (code, err) == (0, "")
        said += [out, err]
        assert (reason in out and advice in out) == (word == "status")
    assert reason in (results / "report.html").read_text()
    work_after(monkeypatch, lambda unit: None)
    code, out, err = command("retry", results, *INLINE)
    assert (code, err) == (0, "")
    assert (results / "report.html").is_file()
    said += [out, err]
    for path in (path for path in results.rglob("*") if path.is_file()):
        said.append(str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else "")
        said.append(path.read_bytes().decode(errors="replace"))
    assert not any(CANARY in text for text in said)
