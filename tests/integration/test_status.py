"""``status`` where drivers end as they like: it never speaks of workers that are gone, and counts all kinds of work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.store import open_store
from tests.support.inbox import CANARY, inbox
from tests.support.sweeps import Command, unit_files

# So many units that a driver is at work for a while.
SWEEP = """\
name: first
models: [toy]
attributes: [style/lumio]
windows: {sizes: [1], stride: 2}
prompts: 2
seeds: 12
generation: {steps: 8, guidance_scale: 3.0, batch_size: 16}
controls: {random: 0}
scorer: toy-clip
localize: {localizer: argmin}
results: out
images: none
"""
EDITS = """\
edit: {lambdas: [0.1], editors: [loco_edit], tokens: [subject], preserve: 1}
evaluate: {prompts: 1, seeds: 1, neighbours: 1, windows: false}
"""
SECONDS, UNITS = 300, 24


def _start(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    words = ["run", "sweep.yaml", "--backend", "inline", "--threads", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli.main", *words], cwd=folder, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _wait_for_units(folder: Path, driver: subprocess.Popen[bytes], count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while len(unit_files(folder / "out")) < count:
        assert driver.poll() is None, driver.communicate()[0].decode()
        assert time.monotonic() < deadline, "no unit was committed"
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGINT] * 2], ids=["SIGKILL", "Ctrl-C twice"])
def test_a_driver_that_is_gone_is_said_to_be_gone(command: Command, folder: Path, signals: list[int]) -> None:
    driver = _start(folder)
    try:
        _wait_for_units(folder, driver, 1)
        # What a driver does is written every ten seconds.
        deadline = time.monotonic() + SECONDS
        while "1 worker at work" not in (found := command("status", "sweep.yaml"))[1]:
            assert (found[0], "no driver" in found[1]) == (0, False)
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
        for number in signals:
            os.kill(driver.pid, number)
            time.sleep(0.2)
    finally:
        try:
            driver.communicate(timeout=SECONDS)
        finally:
            driver.kill()
    done = len(open_store(str(folder / "out")).committed())
    assert 0 < done < UNITS, "the driver was meant to be stopped in the middle"
    code, out, _ = command("status", "sweep.yaml")
    assert code == 0
    # It had no time to give its lease back.
    ended = "died" if signal.SIGKILL in signals else "stopped"
    assert f"no driver is running (the last one {ended} " in out
    assert f"ago, {done} of {UNITS} units done); `loco-sweep run sweep.yaml` resumes" in out
    assert "at work" not in out
    assert "left" not in out
    told = json.loads(command("status", "out", "--json")[1])
    assert (told["driver"]["works"], told["progress"], told["outcome"]) == (False, None, None)
    assert told["driver"]["died"] == (ended == "died")
    (listed,) = json.loads(command("ls", ".", "--json")[1])
    assert (listed["place"], listed["name"], listed["state"]) == ("out", "first", ended)
    # As the driver wrote last.
    assert 0 <= listed["units_done"] <= done
    assert listed["units_done"] + listed["units_left"] == UNITS
    assert told["stages"] == [{"stage": "sweep", "units": UNITS, "units_done": done}]


def test_the_next_driver_says_that_one_was_killed(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(SWEEP + "notify: '${env:NOTIFY_HERE}'\n")
    with inbox() as taken:
        for killed in (True, False):
            driver = _start(folder, NOTIFY_HERE=taken.address)
            try:
                _wait_for_units(folder, driver, 1)
                deadline = time.monotonic() + SECONDS
                while not (killed or taken.messages):
                    assert time.monotonic() < deadline, "no message came"
                    time.sleep(0.1)
                os.kill(driver.pid, signal.SIGKILL if killed else signal.SIGINT)
                out = driver.communicate(timeout=SECONDS)[0].decode()
            finally:
                driver.kill()
            assert CANARY not in out
    assert taken.titles == ["loco-sweep: first: its driver died", "loco-sweep: first was stopped"]
    assert not [path for path in (folder / "out").rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_traces_and_edits_are_counted_and_a_finished_sweep_says_so(command: Command, folder: Path) -> None:
    text = SWEEP.replace("localizer: argmin", "localizer: argmin, compare: [attention_contribution]")
    text = text.replace("steps: 8", "steps: 2").replace("seeds: 12", "seeds: 1")
    (folder / "sweep.yaml").write_text(text + EDITS)
    assert command("run", "sweep.yaml", "--backend", "inline", "--threads", 1)[0] == 0
    found = json.loads(command("status", "sweep.yaml", "--json")[1])
    stages = {item["stage"]: (item["units_done"], item["units"]) for item in found["stages"]}
    assert stages.keys() == {"sweep", "trace", "edit"}
    assert all(done == units > 0 for done, units in stages.values())
    assert found["units"] == sum(units for _, units in stages.values()) == len(
        open_store(str(folder / "out")).committed()
    )  # fmt: skip
    out = command("status", "sweep.yaml")[1]
    assert "no driver is running: the last one finished" in out
    assert "resumes" not in out
    code, again, _ = command("run", "out", "--backend", "inline", "--threads", 1)
    assert code == 0, "a results folder stands for its sweep"
    assert again.splitlines()[-1].startswith("0 cells in")
    lines = [line.split("\t") for line in out.splitlines() if "\t" in line]
    assert lines[0] == ["model", "attribute", "units", "cells", "invalid", "failed", "outcome", "sites"]
    assert lines[1][:2] == ["toy", "style/lumio"]
