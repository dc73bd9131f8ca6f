"""What workers' time goes into: against the clock, after a kill, on resume, and against a budget."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from orchestrator.scheduler.usage import ACTIVITIES
from tests.support.sweeps import Command

SWEEP = """\
name: usage
models: [toy]
attributes: [style/velor]
windows: {sizes: [2], stride: 2}
prompts: 4
seeds: 4
generation: {steps: 4, guidance_scale: 3.0, batch_size: 8}
controls: {random: 0}
scorer: toy-clip
localize: {resamples: 100}
images: none
"""
# As the command, but what is used is recorded every second.
EVERY_SECOND = (
    "from orchestrator.scheduler import loop; loop.USAGE_SECONDS = 1.0; from orchestrator.cli.main import main; main()"
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


def usage(results: Path) -> pd.DataFrame:
    found = pd.read_parquet(results / "usage")
    parts = found[[*ACTIVITIES, "waiting"]]
    assert (parts >= 0).all(axis=None)
    assert parts.sum(axis=1).to_numpy() == pytest.approx(found["seconds"].to_numpy())
    return found


def workers_of(driver: psutil.Process) -> Iterator[int]:
    """Yields the processes of a driver that are actors of this project."""
    for process in driver.children(recursive=True):
        try:
            if any("WorkerActor" in word for word in process.cmdline()):
                yield process.pid
        except psutil.Error:
            continue


def test_usage_is_the_time_that_the_processes_of_workers_were_there(sweep: Path, tmp_path: Path) -> None:
    results, seen = tmp_path / "results", dict[int, tuple[float, float]]()
    words = ["run", sweep, "--results", results, "--workers", "2", "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-m", "orchestrator.cli.main", *map(str, words)])
    driver = psutil.Process(process.pid)
    began = now = time.monotonic()
    turn = 0.0
    while process.poll() is None:
        turn, now = max(turn, time.monotonic() - now), time.monotonic()
        for pid in workers_of(driver):
            seen[pid] = (seen.get(pid, (now,))[0], now)
        time.sleep(0.05)
    wall = time.monotonic() - began
    assert process.returncode == 0
    found = usage(results)
    there = sum(ended - since for since, ended in seen.values())
    print(
        f"usage {found['seconds'].sum():.2f} s, their processes {there:.2f} s ({found['seconds'].sum() / there:.1%});"
        f" the command took {wall:.2f} s: {found[[*ACTIVITIES, 'waiting']].sum().round(2).to_dict()}"
    )
    assert len(seen) == 2 == found["worker"].nunique()
    # Processes are looked for in turns, which take long on a busy machine: each came and went within one.
    assert found["seconds"].sum() == pytest.approx(there, rel=0.03, abs=2.0 + 2 * len(seen) * turn)
    scores = pd.read_parquet(results / "scores")
    # Baselines of other units are drawn too, and are in no row.
    assert found["computing"].sum() > 0.95 * scores["seconds"].sum()


def test_a_killed_driver_loses_at_most_the_last_interval_and_the_next_run_adds_to_what_it_used(
    command: Command, sweep: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    words = ["run", sweep, "--results", results, "--backend", "inline", "--threads", "1"]
    process = subprocess.Popen([sys.executable, "-c", EVERY_SECOND, *map(str, words)], stderr=subprocess.DEVNULL)
    recorded: list[Path] = []
    while len(recorded) < 3:
        assert process.poll() is None
        recorded = list((results / "_meta" / "units").glob("usage-*.arrow"))
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    code, out, _ = command("status", results, "--json")
    before = json.loads(out)
    assert (code, before["outcome"]) == (0, None)
    assert sum(item["hours"] for item in before["usage"]) * 3600 > 2
    code, out, _ = command(*words)
    assert code == 0
    found = usage(results)
    runs = found.groupby("run_id")
    assert len(runs) == 2
    assert runs["seconds"].sum().min() == pytest.approx(before["gpu_hours_so_far"] * 3600, rel=0.5)
    # No interval stands twice, and those of one worker follow each other.
    ended = (found["began"] + pd.to_timedelta(found["seconds"], unit="s")).groupby(found["run_id"])
    lengths = (ended.max() - runs["began"].min()).dt.total_seconds()
    assert runs["seconds"].sum().to_numpy() == pytest.approx(lengths.to_numpy(), abs=0.5)
    code, out, _ = command("status", results, "--json")
    assert json.loads(out)["gpu_hours_so_far"] * 3600 == pytest.approx(found["seconds"].sum())
    assert command("verify", results)[0] == 0


def test_a_budget_stops_a_sweep_which_goes_on_when_it_is_raised(command: Command, sweep: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = ["run", sweep, "--results", results, "--backend", "inline", "--threads", "1", "--price", "2"]
    # Two seconds' worth: less than loading the model and drawing the first unit takes.
    code, out, _ = command(*words, "--budget", f"cost={2 * 2 / 3600}")
    assert code == 4
    assert "stopped: budget.cost: " in out
    assert "raise it, and the same command resumes" in out
    spent, cells = usage(results)["seconds"].sum(), len(pd.read_parquet(results / "scores"))
    assert spent >= 2
    assert cells < 4 * 4 * 9
    code, out, _ = command("status", results)
    assert re.search(r"no driver is running \(the last one stopped at its budget .* ago, \d+ of \d+ units done\)", out)
    assert re.search(rf"^cost: {2 * spent / 3600:.2f}", out, re.M)
    # What earlier commands used counts: nothing is started.
    code, out, _ = command(*words, "--budget", "hours=0.0001,gpu_hours=100")
    assert (code, "stopped: budget.hours: " in out) == (4, True)
    assert (usage(results)["seconds"].sum(), len(pd.read_parquet(results / "scores"))) == (spent, cells)
    code, out, _ = command(*words, "--budget", "cost=1,gpu_hours=1")
    assert code == 0
    assert (usage(results)["per_gpu_hour"] == 2).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--budget", "gpu_hour=3"], 'no limit "gpu_hour"; did you mean "gpu_hours"?'),
        (["--budget", "cost=3"], "no price is given; expected --price, too"),
        (["--budget", "hours=-1"], "--budget: hours: Input should be greater than 0"),
        (["--price", "cheap"], "--price: 'cheap' is no number; expected --price 2.5 or H100=2.5,A100=1.6"),
    ],
)
def test_a_price_or_a_budget_that_is_none_is_one_line(
    command: Command, sweep: Path, options: list[str], said: str
) -> None:
    code, _, err = command("run", sweep, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
