"""Whole runs whose workers fail in every way that needs neither a model nor Ray."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loco_core.errors import OutOfMemoryError, StoreError
from orchestrator.scheduler.protocol import Attempt, MakeWorker, Unit, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.store import Publisher, Store, UnwritableError, check_marker, layout, open_store
from orchestrator.store.testing import FaultyBlobs, MemoryBlobs
from orchestrator.worker import WorkerSettings
from tests.support.fake_runs import run
from tests.support.flaky import FATES, FlakyBackend
from tests.support.sweeps import KEY, FakeWorker, Reader, assert_each_once, assert_same, payload, tiny_sweep


@pytest.mark.parametrize(("workers", "seeds"), [(1, (4, 7, 12)), (4, (4, 6, 18))])
def test_whatever_befalls_workers_every_row_is_there_once(
    spec: SweepSpec,
    undisturbed: Store,
    tmp_path: Path,
    workers: int,
    seeds: tuple[int, ...],
) -> None:
    fates: Counter[str] = Counter()
    for seed in seeds:
        root, backends = tmp_path / str(seed), list[FlakyBackend]()

        def flaky(make_worker: MakeWorker, seed: int = seed, made: list[FlakyBackend] = backends) -> FlakyBackend:
            made.append(FlakyBackend(make_worker, workers=workers, seed=seed))
            return made[-1]

        store = open_store(str(root))
        result, _ = run(spec, store, backend=flaky, on_progress=Reader(root))
        (backend,) = backends
        assert (result.summary.outcome, result.failed_cells, result.summary.left) == ("done", 0, 0), f"seed {seed}"
        assert_same(store, undisturbed)
        units = len(store.committed())
        assert backend.runs + len(backend.late) <= units + sum(backend.fates.values()) + backend.copies
        before = {path: path.read_bytes() for path in root.rglob("*.parquet")}
        assert all(report.outcome == "already" for report in backend.haunt(99))
        assert {path: path.read_bytes() for path in root.rglob("*.parquet")} == before
        assert [path for path in store.blobs.list("_meta/staging") if not path.endswith(".lock")] == []
        fates += backend.fates
    assert set(fates) == set(FATES)


def test_storage_that_refuses_workers_ends_the_run_and_no_unit_is_to_blame(spec: SweepSpec, undisturbed: Store) -> None:
    blobs, ran = MemoryBlobs(), list[str]()
    expired = UnwritableError("S3 refuses (ExpiredToken); check credentials")
    refusing = Store(FaultyBlobs(blobs, 3, after=False, error=expired))

    class Counting(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            ran.append(unit.unit_id)
            return super().run(unit, attempt)

    def refused(settings: Any, model: str, _: Any) -> FakeWorker:
        return Counting(settings, model, lambda: refusing)

    store = Store(blobs)
    with pytest.raises(StoreError, match=r"^S3 refuses \(ExpiredToken\); check credentials$"):
        run(spec, store, refused)
    assert len(store.committed()) == 2
    assert store.read("scores").num_rows > 0
    assert len(ran) <= 2 + 3
    ran.clear()
    result, _ = run(spec, store, Counting)
    assert (result.summary.outcome, result.failed_cells) == ("done", 0)
    assert len(ran) == len(set(ran)) == len(undisturbed.committed()) - 2
    assert_same(store, undisturbed)


def test_workers_that_see_another_folder_end_the_run_and_no_unit_is_to_blame(
    spec: SweepSpec, undisturbed: Store
) -> None:
    def blind(settings: WorkerSettings, *_: Any) -> FakeWorker:
        check_marker(MemoryBlobs(), settings.marker)
        raise AssertionError("the marker was found elsewhere")

    store = Store(MemoryBlobs())
    with pytest.raises(
        StoreError, match="does not see this folder as the driver does; expected a folder that every machine mounts"
    ):
        run(spec, store, blind)
    assert store.committed() == frozenset()
    run(spec, store)
    assert_same(store, undisturbed)


def test_a_unit_that_a_worker_commits_before_it_dies_for_the_last_time_has_not_failed(
    spec: SweepSpec, undisturbed: Store
) -> None:
    class Dying(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            if unit.order != 1:
                return super().run(unit, attempt)
            if attempt.number == 3:
                super().run(unit, attempt)
            raise MemoryError("out of memory")

    store = Store(MemoryBlobs())
    result, _ = run(spec, store, Dying)
    assert (result.summary.outcome, result.summary.failures, result.failed_cells) == ("done", (), 0)
    assert result.summary.already == 1
    assert_same(store, undisturbed)


def test_a_worker_that_commits_a_unit_after_it_was_given_up_changes_nothing(
    spec: SweepSpec, undisturbed: Store
) -> None:
    late: list[tuple[FakeWorker, Unit]] = []

    class Late(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            if unit.order == 1 and len(late) < 3:
                late.append((self, unit))
                raise TimeoutError("too slow")
            return super().run(unit, attempt)

    blobs = MemoryBlobs()
    store = Store(blobs)
    run(spec, store, Late)
    before = dict(blobs.files)
    worker, unit = late[0]
    assert FakeWorker.run(worker, unit, Attempt(1)).outcome == "already"
    Publisher(store).publish(flush=True)
    assert blobs.files == before
    scores, failures = (store.read(name).select(KEY).to_pylist() for name in ("scores", "failures"))
    planned = undisturbed.read("scores").select(KEY).to_pylist()
    assert sorted(map(str, scores + failures)) == sorted(map(str, planned))
    result, _ = run(spec, store, retry=True)
    assert result.failed_cells == 0
    assert_each_once(store.read("scores"))
    assert store.read("scores").num_rows == len(planned)


def test_batches_too_large_for_the_memory_are_retried_in_smaller_ones() -> None:
    tried: list[tuple[str, bool]] = []

    class Small(FakeWorker):
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            tried.append((unit.unit_id, attempt.row_by_row))
            if unit.payload.batch_size > 4:
                raise OutOfMemoryError("CUDA out of memory")
            return super().run(unit, attempt)

    def sweep(batch_size: int) -> SweepSpec:
        return tiny_sweep(
            "x", attributes=["style/velor"], localize={"localizer": "argmin"}, seeds=4,
            generation={"steps": 2, "guidance_scale": 3.0, "batch_size": batch_size},
        )  # fmt: skip

    store, undisturbed = Store(MemoryBlobs()), Store(MemoryBlobs())
    result, _ = run(sweep(16), store, Small)
    assert result.failed_cells == store.read("failures").num_rows > 0
    assert set(store.read("failures")["error"].to_pylist()) == {"CUDA out of memory"}
    # Three attempts, none row by row, show that nothing fits; of eight units most are not tried.
    assert len(tried) == 3
    assert not any(row_by_row for _, row_by_row in tried)
    result, _ = run(sweep(4), store, Small, retry=True)
    assert (result.summary.outcome, result.failed_cells) == ("done", 0)
    run(sweep(4), undisturbed)
    cells = [payload(item.read("scores").drop_columns(["unit_id"])) for item in (store, undisturbed)]
    assert cells[0] == cells[1]
    assert len(store.blobs.list(layout.PLANS)) == 2
