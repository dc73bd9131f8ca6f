"""Whole runs on disks that are full, broken or read-only, and what writers that were stopped there leave."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from loco_core.errors import StoreError
from orchestrator.resolve.resolved import Resolved
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.store import DiskFullError, MissingFileError, Store, UnwritableError, layout, open_store, repair
from orchestrator.store.local import STAGING, LocalBlobs
from orchestrator.store.testing import MemoryBlobs
from tests.support.fake_runs import run
from tests.support.sweeps import FakeWorker, Reader, assert_same, fake_resolved, payload, tiny_sweep

MOMENTS = 6


def staged(store: Store) -> list[str]:
    return [path for path in store.blobs.list(STAGING) if not path.endswith(".lock")]


def forget_lease(store: Store) -> None:
    """A run that could not give its lease back leaves it to this process, which lives: a dead one's is free."""
    store.blobs.delete(layout.LEASE)


def test_a_disk_that_fails_at_any_moment_costs_nothing_but_another_run(
    spec: SweepSpec, undisturbed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, number, look = sys.maxsize, 0, Reader(tmp_path / "sound")

    def fsync(_: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(number, os.strerror(number))
        look()

    monkeypatch.setattr(os, "fsync", fsync)
    run(spec, open_store(str(look.root)))
    needed = sys.maxsize - left
    for moment in range(1, MOMENTS + 1):
        left, number = moment * needed // (MOMENTS + 1), (errno.ENOSPC, errno.EIO)[moment % 2]
        look = Reader(tmp_path / str(moment))
        store = open_store(str(look.root))
        with pytest.raises(StoreError) as error:
            run(spec, store)
        assert "\n" not in str(error.value)
        assert isinstance(error.value, DiskFullError) == (number == errno.ENOSPC)
        assert staged(store) == []
        done, left = store.committed(), sys.maxsize
        look()
        forget_lease(store)
        result, _ = run(spec, store)
        assert (result.summary.outcome, result.failed_cells) == ("done", 0), f"sync {moment} of {MOMENTS}"
        assert (result.summary.committed, result.summary.already) == (len(undisturbed.committed() - done), 0)
        assert_same(store, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a file system of its own needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_ends_the_run_and_more_room_completes_it(
    spec: SweepSpec, undisturbed: Store, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"

    class Filling(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            if unit.order == 3 and not ballast.exists():
                with suppress(OSError), ballast.open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass
            return super().run(unit, attempt)

    store = open_store(str(small_disk / "results"))
    with pytest.raises(DiskFullError, match="no space left on the disk; free some and run the same command again"):
        run(spec, store, Filling)
    assert len(store.committed()) == 3
    assert staged(store) == []
    Reader(small_disk / "results")()
    ballast.unlink()
    forget_lease(store)
    result, _ = run(spec, store)
    assert (result.summary.committed, result.summary.already) == (len(undisturbed.committed()) - 3, 0)
    assert_same(store, undisturbed)


def test_a_folder_that_cannot_be_written_is_refused_before_a_worker_starts(spec: SweepSpec, small_disk: Path) -> None:
    store = open_store(str(small_disk / "results"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UnwritableError, match=r"Read-only file system; expected a folder .*--results"):
        run(spec, store, lambda *_: pytest.fail("a worker started"))


ASLEEP = """
import os, signal, sys
from orchestrator.store.local import LocalBlobs

link = os.link

def asleep(*paths):
    os.kill(os.getpid(), signal.SIGSTOP)
    link(*paths)

os.link = asleep
print(LocalBlobs(sys.argv[1]).put_if_absent("_meta/units/u.arrow", b"late", "late"))
"""


@pytest.fixture
def asleep(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker that was stopped with its unit written and not yet published."""
    words = [sys.executable, "-c", ASLEEP, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        yield process


def wake(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.send_signal(signal.SIGCONT)
    return process.communicate(timeout=300)


def test_a_worker_that_wakes_up_late_does_not_replace_a_unit(asleep: subprocess.Popen[str], tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    assert blobs.put_if_absent("_meta/units/u.arrow", b"first", "first") == "won"
    assert wake(asleep) == ("lost\n", "")
    assert blobs.read("_meta/units/u.arrow") == b"first"
    assert blobs.list(STAGING) == []


def test_a_worker_that_wakes_up_after_the_folder_was_cleaned_publishes_nothing(
    asleep: subprocess.Popen[str], tmp_path: Path
) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.clean()
    out, error = wake(asleep)
    assert (out, MissingFileError.__name__ in error) == ("", True)
    assert not blobs.exists("_meta/units/u.arrow")
    assert blobs.list(STAGING) == []


@pytest.mark.parametrize("kept", [0.0, 0.5], ids=["empty", "truncated"])
def test_a_damaged_record_of_attempts_is_no_reason_to_stop(spec: SweepSpec, undisturbed: Store, kept: float) -> None:
    stop = StopSwitch()

    class Stopping(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            if unit.order == 2:
                stop.press()
                raise ValueError("no luck")
            return super().run(unit, attempt)

    store = Store(MemoryBlobs())
    run(spec, store, Stopping, stop=stop)
    assert list(store.in_flight().values()) == [1]
    data = store.blobs.read(layout.IN_FLIGHT)
    store.blobs.replace(layout.IN_FLIGHT, data[: int(kept * len(data))])
    assert store.in_flight() == {}
    done = store.committed()
    result, _ = run(spec, store)
    assert (result.summary.committed, result.summary.already) == (len(undisturbed.committed() - done), 0)
    assert_same(store, undisturbed)


def test_a_damaged_plan_costs_no_row_and_doubles_none_in_batches_of_another_size() -> None:
    def slow(spec: SweepSpec) -> Resolved:
        """A model that is slow enough for units to be single batches."""
        found = fake_resolved(spec)
        models = tuple(model.model_copy(update={"seconds_per_image": 100.0}) for model in found.models)
        return found.model_copy(update={"models": models})

    def sweep(seeds: int, batch_size: int) -> SweepSpec:
        return tiny_sweep(
            "x", attributes=["style/velor"], prompts=1, seeds=seeds, localize={"localizer": "argmin"},
            generation={"steps": 2, "guidance_scale": 3.0, "batch_size": batch_size},
        )  # fmt: skip

    blobs, undisturbed = MemoryBlobs(), Store(MemoryBlobs())
    store = Store(blobs)
    run(sweep(1, 16), store, resolve=slow)
    run(sweep(2, 16), store, resolve=slow)
    done = store.committed()
    for number in range(2):
        blobs.files[layout.plan(number)] = blobs.files[layout.plan(number)][:-9]
    assert [damage.path for damage in repair(store)] == [layout.plan(0), layout.plan(1)]
    result, found = run(sweep(3, 4), store, resolve=slow)
    assert (result.summary.outcome, result.summary.already, found[0].outcome) == ("done", 0, "localized")
    assert done < store.committed()
    run(sweep(3, 16), undisturbed, resolve=slow)
    cells = [payload(item.read("scores").drop_columns(["unit_id"])) for item in (store, undisturbed)]
    assert cells[0] == cells[1]
    assert store.read("localizations").equals(undisturbed.read("localizations"))


def test_names_that_lead_elsewhere_stay_inside_the_folder(tmp_path: Path) -> None:
    names = ["../x", "a/b", "a=b", "..", "\u00fc \u4f60", "x" * 300]
    record = {"prompt": "a dog", "donor": "dog", "score_text": "a", "donor_text": "b", "content_text": "dog"}
    spec = tiny_sweep(
        "x", name="../../elsewhere", prompts=1, seeds=1, localize={"localizer": "argmin"}, controls={"random": 0},
        attributes=[{"kind": "style", "name": name, "mode": "remove", "records": [record]} for name in names],
    )  # fmt: skip
    root = tmp_path / "inner" / "results"
    store = open_store(str(root))
    run(spec, store)
    assert all(path.is_relative_to(root) for path in tmp_path.rglob("*") if path.is_file())
    assert len(store.committed()) == len(names)
    assert sorted(store.read("localizations")["attribute"].to_pylist()) == sorted(f"style/{name}" for name in names)
