"""A real Ray on this machine, with workers that die, hang and are interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray.cloudpickle

from orchestrator.backends.ray.backend import RayBackend, _tail
from orchestrator.backends.ray.local import OwnFolder
from orchestrator.scheduler.loop import Patience, StopSwitch, run_units
from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.progress import RunSummary
from orchestrator.scheduler.protocol import (
    Attempt,
    BackendError,
    Unit,
    UnitReport,
    Worker,
    WorkerRefused,
)
from tests.support.planners import Derived


class ObedientWorker:
    """Does what the unit's payload says, at its first attempt or at all, then commits by creating a file."""

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        folder, word, always = unit.payload
        with (Path(folder) / "log").open("a") as file:
            file.write(f"{unit.unit_id} {attempt.number} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
        if attempt.number == 1 or always:
            self.obey(word)
        if word == "slow":
            time.sleep(0.5)
        if word == "meet":
            # Until another process is here: on a busy machine one may start long after the other.
            wait_until(lambda: len({line[2] for line in log(Path(folder))}) > 1, 120)
        (Path(folder) / unit.unit_id).touch()
        return UnitReport(unit.unit_id, attempt.number, "committed", rows=1)

    def obey(self, word: str) -> None:
        if word == "kill":
            print("last words", file=sys.stderr, flush=True)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        if word == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        if word == "exit":
            sys.exit(3)


def make_worker(model: str) -> Worker:
    if model == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return ObedientWorker()


class NoJournal:
    def __init__(self) -> None:
        self.given_up: dict[str, UnitReport] = {}

    def previous(self) -> Mapping[str, int]:
        return {}

    def record(self, attempts: Mapping[str, int]) -> None: ...

    def committed(self, unit: Unit) -> bool:
        return (Path(unit.payload[0]) / unit.unit_id).exists()

    def give_up(self, unit: Unit, report: UnitReport) -> None:
        self.given_up[unit.unit_id] = report


@dataclass
class Home:
    """A home folder in which Ray must leave nothing."""

    path: Path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(path))
        yield Home(path)


@pytest.fixture(scope="module")
def backend(home: Home) -> Iterator[RayBackend]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    handler = signal.getsignal(signal.SIGTERM)
    backend = RayBackend(make_worker, workers=2, threads=1, gpus=2)
    assert signal.getsignal(signal.SIGTERM) == handler
    yield backend
    backend.shutdown()


def unit(
    folder: Path, number: int, word: str = "ok", *, always: bool = False, gpus: int | None = 0, model: str = "a",
    seconds: float = 0.1,
) -> Unit:  # fmt: skip
    return Unit(f"u{number:02d}", "sweep", model, number, seconds, (str(folder), word, always), WorkerNeeds(gpus))


def run(
    backend: RayBackend,
    units: Sequence[Unit],
    *,
    on_turn: Callable[[], None] = lambda: None,
    patience: Patience | None = None,
    journal: NoJournal | None = None,
) -> RunSummary:
    return run_units(
        backend,
        Derived(units),
        journal or NoJournal(),
        lambda progress: on_turn(),
        StopSwitch(),
        patience=patience,
    )


def log(folder: Path) -> list[list[str]]:
    path = folder / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def done(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("u"))


def test_units_that_kill_their_process_once_are_done_by_another(backend: RayBackend, tmp_path: Path) -> None:
    words = {1: "kill", 3: "segfault", 5: "exit"}
    units = [unit(tmp_path, n, words.get(n, "ok")) for n in range(10)]
    summary = run(backend, units)
    assert (summary.outcome, summary.failures, summary.retries, summary.losses) == ("done", (), 3, 0)
    assert done(tmp_path) == [u.unit_id for u in units]
    attempts = {(line[0], line[1]) for line in log(tmp_path) if line[1] != "1"}
    assert attempts == {("u01", "2"), ("u03", "2"), ("u05", "2")}


def test_a_unit_that_always_kills_its_process_is_given_up_with_its_last_words(
    backend: RayBackend, tmp_path: Path
) -> None:
    journal = NoJournal()
    units = [unit(tmp_path, n, "kill" if n == 1 else "ok", always=True) for n in range(4)]
    summary = run(backend, units, journal=journal)
    assert (summary.outcome, [r.unit_id for r in summary.failures]) == ("done", ["u01"])
    assert done(tmp_path) == ["u00", "u02", "u03"]
    report = journal.given_up["u01"]
    assert (report.error_type, report.attempt) == ("WorkerDied", 3)
    assert "last words" in (report.error or "")


def test_the_end_of_a_log_is_read_however_long_its_lines_are(tmp_path: Path) -> None:
    log = tmp_path / "worker.err"
    with log.open("wb") as file:
        file.truncate(10**9)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast words\n")
    tracemalloc.start()
    try:
        end = _tail(log)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert end.endswith("\nlast words\n")
    assert peak < 10**6


def test_a_worker_killed_from_outside_is_replaced(backend: RayBackend, tmp_path: Path) -> None:
    units = [unit(tmp_path, n, "slow") for n in range(8)]
    killed: list[int] = []

    def kill_one() -> None:
        lines = log(tmp_path)
        if lines and not killed:
            killed.append(int(lines[-1][2]))
            os.kill(killed[0], signal.SIGKILL)

    summary = run(backend, units, on_turn=kill_one)
    assert (summary.outcome, summary.failures) == ("done", ())
    assert done(tmp_path) == [u.unit_id for u in units]
    assert killed


@pytest.mark.parametrize("word", ["hang", "freeze"])
def test_a_stuck_unit_is_killed_and_done_by_another_worker(backend: RayBackend, tmp_path: Path, word: str) -> None:
    # What does not hang has an hour, which on a busy machine it may need a part of.
    units = [unit(tmp_path, 0, word), *(unit(tmp_path, n, seconds=3600.0) for n in (1, 2))]
    summary = run(backend, units, patience=Patience(multiple=1.0, floor=6.0))
    assert (summary.outcome, summary.failures, summary.retries) == ("done", (), 1)
    assert done(tmp_path) == [u.unit_id for u in units]
    stuck = int(next(line[2] for line in log(tmp_path) if line[:2] == ["u00", "1"]))
    wait_until(lambda: not alive(stuck), 60)


def test_a_model_that_kills_its_process_while_loading_fails_its_units(backend: RayBackend, tmp_path: Path) -> None:
    summary = run(backend, [unit(tmp_path, 0, model="deadly"), unit(tmp_path, 1)])
    assert [r.unit_id for r in summary.failures] == ["u00"]
    assert done(tmp_path) == ["u01"]


@pytest.mark.parametrize("gpus", [1, None], ids=["asked for", "left open"])
def test_workers_with_a_gpu_each_see_their_own(backend: RayBackend, tmp_path: Path, gpus: int | None) -> None:
    summary = run(backend, [unit(tmp_path, n, "meet", gpus=gpus) for n in range(6)])
    assert summary.outcome == "done"
    devices = {line[2]: line[3] for line in log(tmp_path)}
    assert sorted(devices.values()) == ["0", "1"]


def test_more_gpus_than_there_are_is_one_clear_line(backend: RayBackend, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="needs 3 GPUs and this machine has 2"):
        run(backend, [unit(tmp_path, 0, gpus=3), unit(tmp_path, 1, model="other")])
    assert done(tmp_path) == ["u01"], "what can run runs first"
    backend.start_worker("w", WorkerNeeds(labels=(("zone", "b"),)), frozenset())
    (refused,) = backend.poll(0.0)
    assert isinstance(refused, WorkerRefused)
    assert "labelled zone=b" in refused.error


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: .*refused"),
        ("ray://127.0.0.1:10001", '"ray://127.0.0.1:10001" is no address of a Ray cluster; expected HOST:PORT'),
        ("head", '"head" is no address of a Ray cluster; expected HOST:PORT'),
    ],
)
def test_an_address_that_cannot_be_joined_is_one_clear_line(address: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        RayBackend(make_worker, workers=1, threads=1, address=address)


DRIVER = """
    import os, pathlib, signal, sys, time
    from orchestrator.backends.ray.backend import RayBackend
    from orchestrator.scheduler.loop import StopSwitch, run_units
    from orchestrator.scheduler.protocol import Unit, UnitReport, WorkerRefused

    folder = pathlib.Path(sys.argv[1])

    class Worker:
        def run(self, unit, attempt):
            (folder / f"pid-{os.getpid()}").touch()
            try:
                answer = input("Do you wish to run the custom code? [y/N] ")
            except EOFError:
                answer = "nobody answers"
            (folder / f"asked-{os.getpid()}").write_text(answer + " " + os.readlink("/proc/self/fd/0"))
            time.sleep(0.5)
            (folder / unit.unit_id).touch()
            return UnitReport(unit.unit_id, attempt.number, "committed", rows=1)

    class Planner:
        def begin(self): return units
        def settled(self, done): return []
        def asked(self): return None

    class Journal:
        def previous(self): return {}
        def record(self, attempts): pass
        def committed(self, unit): return (folder / unit.unit_id).exists()
        def give_up(self, unit, report): pass

    stop = StopSwitch()
    signal.signal(signal.SIGINT, lambda *_: stop.press())
    signal.signal(signal.SIGTERM, lambda *_: stop.press())
    signal.signal(signal.SIGHUP, lambda *_: stop.press())
    backend = RayBackend(lambda model: Worker(), workers=2, threads=1)
    print(backend.logs, flush=True)
    units = [Unit(f"u{n:02d}", "sweep", "a", n, 0.5, None) for n in range(40)]
    summary = run_units(backend, Planner(), Journal(), lambda progress: None, stop)
    backend.shutdown()
    print(summary.outcome, summary.committed, summary.retries, flush=True)
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for temporary files with a path that is short enough for sockets; nothing may be left in it."""
    folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def driver(home: Home, short: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, a few units in."""
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path)],
        env={**os.environ, "TMPDIR": str(short)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(done(tmp_path)) >= 2, 180)
        yield driver
    finally:
        driver.kill()
        driver.wait()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def processes_of(session: str) -> list[int]:
    """Processes that name a Ray session in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if session in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "closed terminal"])
def test_a_signal_reaches_every_process_and_the_run_drains(
    driver: subprocess.Popen[str], home: Home, short: Path, tmp_path: Path, number: signal.Signals
) -> None:
    os.killpg(driver.pid, number)
    out, err = driver.communicate(timeout=300)
    session, ended = out.splitlines()
    outcome, committed, retries = ended.split()
    assert (outcome, retries) == ("stopped", "0"), err
    # A worker goes on with its next unit until the driver, which may be slow, has seen the report before it.
    assert 2 <= int(committed) <= len(done(tmp_path)) < 40
    assert processes_of(Path(session).parents[2].name) == []
    assert list(short.iterdir()) == []
    # A worker that reads from a terminal would be stopped by it.
    asked = {path.read_text() for path in tmp_path.glob("asked-*")}
    assert asked == {"nobody answers /dev/null"}
    assert list(home.path.iterdir()) == []


def test_nothing_survives_a_driver_that_is_killed(
    driver: subprocess.Popen[str], short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert driver.stdout is not None
    session = Path(driver.stdout.readline().strip()).parents[2]
    workers = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    assert workers
    assert processes_of(session.name)
    driver.kill()
    driver.wait()
    wait_until(lambda: not any(alive(pid) for pid in workers), 60)
    # Not even its folder, once another Ray is started here.
    assert len(list(short.iterdir())) == 1
    monkeypatch.setenv("TMPDIR", str(short))
    OwnFolder().remove()
    assert list(short.iterdir()) == []
    wait_until(lambda: not any(alive(pid) for pid in processes_of(session.name)), 60)
