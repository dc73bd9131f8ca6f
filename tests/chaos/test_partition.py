"""A host whose cable is pulled for a minute, and workers that outlive their driver; by hand, `make chaos`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from orchestrator.spec import SweepSpec
from orchestrator.store import open_store
from tests.support.clusters import COMMAND_SECONDS, Head, ray_head, ray_node, start
from tests.support.hosts import SWITCH, Host, hosts, why_not
from tests.support.nodes import HEALTH, committed, reading, until
from tests.support.runs import run
from tests.support.sweeps import assert_same, tiny_sweep

pytestmark = [pytest.mark.chaos, pytest.mark.skipif(why_not() is not None, reason=why_not() or "")]
CUT_SECONDS = 60
LATE = "unit is already"
"""What a worker logs of a unit that another attempt had committed."""


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path) -> SweepSpec:
    return tiny_sweep(tiny_pipeline, attributes=["style/velor"], seeds=160)


@pytest.fixture(scope="module")
def undisturbed(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    assert run(spec, root).summary.outcome == "done"
    return root


@pytest.fixture
def two_hosts() -> Iterator[list[Host]]:
    with hosts(2) as found:
        yield found


@pytest.fixture
def head(two_hosts: list[Host], tmp_path: Path) -> Iterator[Head]:
    with ray_head(tmp_path, cpus=0, host=SWITCH, variables=HEALTH) as head:
        yield head


def drive(head: Head, folder: Path, spec: SweepSpec) -> subprocess.Popen[str]:
    (folder / "sweep.yaml").write_text(spec.model_dump_json(exclude_unset=True))
    words = ["run", "sweep.yaml", "--results", "results", "--workers", "2", "--threads", "1", "--address", head.gcs]
    return start(head, folder, *words, RAY_AUTH_MODE="token")


def test_a_host_that_is_cut_off_for_a_minute_costs_no_row(
    spec: SweepSpec, undisturbed: Path, two_hosts: list[Host], head: Head, tmp_path: Path
) -> None:
    results, (first, second) = tmp_path / "results", two_hosts
    with ExitStack() as stack:
        stack.enter_context(ray_node(head, "first", host=first))
        stack.enter_context(ray_node(head, "second", host=second))
        stack.enter_context(reading(results))
        process = drive(head, tmp_path, spec)
        until(lambda: committed(results) >= 6, process)
        first.unplug()
        cut = time.monotonic()
        until(lambda: _losses(results) == 1, process)
        print(f"missed after {time.monotonic() - cut:.0f} s, {committed(results)} units committed")
        until(lambda: time.monotonic() > cut + CUT_SECONDS, process)
        first.plug()
        # Its raylet has given up meanwhile, as on a real host, where whatever watches it starts another.
        stack.enter_context(ray_node(head, "again", host=first))
        back, before = time.monotonic(), committed(results)
        out, err = process.communicate(timeout=COMMAND_SECONDS)
        assert (process.returncode, err) == (0, ""), out + err
        print(f"{committed(results) - before} units in {time.monotonic() - back:.0f} s after it was back")
    assert_same(open_store(str(results)), open_store(str(undisturbed)))


def _losses(results: Path) -> int:
    path = results / "_meta" / "progress.json"
    return int(json.loads(path.read_text())["losses"]) if path.is_file() else 0


def test_workers_of_a_dead_driver_that_commit_late_change_nothing(
    spec: SweepSpec, undisturbed: Path, two_hosts: list[Host], head: Head, tmp_path: Path
) -> None:
    results, (first, second) = tmp_path / "results", two_hosts
    with ExitStack() as stack:
        node = stack.enter_context(ray_node(head, "first", host=first))
        process = drive(head, tmp_path, spec)
        until(lambda: committed(results) >= 6, process)
        # A host that hangs: nobody can end what runs there, and it goes on when all is over.
        first.unplug()
        zombies = psutil.Process(node.pid).children(recursive=True)
        for zombie in zombies:
            zombie.suspend()
        process.kill()
        process.wait()
        stack.enter_context(ray_node(head, "second", host=second))
        out, err = drive(head, tmp_path, spec).communicate(timeout=COMMAND_SECONDS)
        assert err == "", out + err
        assert_same(open_store(str(results)), open_store(str(undisturbed)))
        before = _late(head)
        for zombie in zombies:
            os.kill(zombie.pid, signal.SIGCONT)
        deadline = time.monotonic() + COMMAND_SECONDS
        while _late(head) == before:
            assert time.monotonic() < deadline, "the worker did not commit"
            time.sleep(0.5)
    assert_same(open_store(str(results)), open_store(str(undisturbed)))


def _late(head: Head) -> int:
    return sum(path.read_text().count(LATE) for path in Path(head.folder).glob("session_2*/logs/worker-*.err"))
