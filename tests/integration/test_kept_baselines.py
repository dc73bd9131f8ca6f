"""A clean picture that a worker keeps for its block: the same table, bit for bit, as without, whatever happens."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from loco_core.types import Row
from orchestrator.resolve.lookup import resolve
from orchestrator.runs.outlook import outlook
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Backend
from orchestrator.spec import SweepSpec
from orchestrator.stages.context import Kept
from orchestrator.stages.sweep import work as sweep_work
from orchestrator.store import Store, layout, open_store
from orchestrator.worker import WorkerSettings
from tests.support.runs import run
from tests.support.sweeps import assert_same, kill_at_storage_call, tiny_sweep
from tests.support.tiny_models import SIDE, build

BLOCKS = 3


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path) -> SweepSpec:
    """Three blocks of ten units, each a batch of four; nothing is left for a localizer to ask for."""
    return tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=BLOCKS, images="all",
        windows={"sizes": [1, 2], "stride": 2},
        controls={"random": 1, "complement": True},
        generation={"steps": 2, "guidance_scale": 3.0, "batch_size": 4, "unit_seconds": 1},
    )  # fmt: skip


@contextmanager
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts the pictures that workers of this process draw, by whether they are clean."""
    found, original = Counter[str](), sweep_work.generate

    def counting(model: Any, rows: list[Row], *args: Any, **options: Any) -> Any:
        for row in rows:
            clean = not row.intervention.sites and row.prompt != row.donor
            found["clean" if clean else "other"] += 1
        return original(model, rows, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(sweep_work, "generate", counting)
        yield found


def images(root: Path) -> dict[str, bytes]:
    rows = open_store(str(root)).read("images").select(["cell_id", "image"]).to_pylist()
    return {row["cell_id"]: row["image"]["bytes"] for row in rows}


def differences(root: Path) -> dict[str, tuple[float, float]]:
    rows = open_store(str(root)).read("scores").select(["cell_id", "image_distance", "margin_clean"]).to_pylist()
    return {row["cell_id"]: (row["image_distance"], row["margin_clean"]) for row in rows}


def embeddings(store: Store) -> pa.Table:
    return store.read("embeddings").drop_columns(["unit_id"]).sort_by("cell_id")


@pytest.fixture(scope="module")
def without(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a worker that keeps nothing: every unit draws the clean picture of its block."""
    root = tmp_path_factory.mktemp("without")
    with pytest.MonkeyPatch.context() as patched, drawn(patched) as pictures:
        patched.setattr(Kept, "get", lambda *_: None)
        assert run(spec, root).summary.outcome == "done"
    units = len(open_store(str(root)).committed())
    assert units == 10 * BLOCKS
    assert pictures["clean"] == units
    return root


def same(root: Path, without: Path) -> None:
    one, other = open_store(str(root)), open_store(str(without))
    assert_same(one, other)
    assert embeddings(one).equals(embeddings(other))
    assert images(root) == images(without)


def test_with_kept_pictures_each_is_drawn_once(
    spec: SweepSpec, without: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = outlook(spec, resolve(spec), None)
    with drawn(monkeypatch) as pictures:
        run(spec, tmp_path)
    same(tmp_path, without)
    assert pictures["clean"] == BLOCKS
    assert pictures.total() == planned.images
    assert planned.images_per_cell == pictures.total() / planned.cells <= 1.0
    assert planned.most_images_per_cell is not None
    assert planned.most_images_per_cell > 1.3


@pytest.mark.parametrize(("family", "source"), [("flux", "run"), ("flux", "own"), ("sd3", "run"), ("sdxl", "run")])
def test_families_draw_the_same_with_kept_pictures(
    family: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX and SD3 draw the donor prompt in the batch of the rows that read from it, SDXL knows a pooled text."""
    pipeline, size = build(family, tmp_path / "model"), {"height": SIDE, "width": SIDE}
    spec = tiny_sweep(
        pipeline, attributes=["style/velor"], prompts=1, seeds=1, images="all", windows={"sizes": [1], "stride": 2},
        interventions=[{"source": source}],
        generation={"steps": 1, "guidance_scale": 3.0, "batch_size": 4, "unit_seconds": 1, **size},
    )  # fmt: skip
    found = []
    for name, changes in (("with", {}), ("without", {"get": lambda *_: None})):
        with monkeypatch.context() as patched, drawn(patched) as pictures:
            for attribute, value in changes.items():
                patched.setattr(Kept, attribute, value)
            assert run(spec, tmp_path / name).summary.outcome == "done"
        found.append(pictures["clean"])
    units = len(open_store(str(tmp_path / "with")).committed())
    assert found == [1, units]
    assert units > 1
    table = pq.read_table(tmp_path / "with" / "scores", filters=[("control", "=", "window")])
    assert set(table["source"].to_pylist()) == {source}
    same(tmp_path / "with", tmp_path / "without")


def test_in_row_by_row_mode_nothing_else_comes_out(
    spec: SweepSpec, without: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the units fail until each row is drawn alone, in whatever place of the batch it was."""
    original = sweep_work._Slice._measured

    def failing(self: Any, rows: Any) -> Any:
        if not self._attempt.row_by_row and int(self._planned.unit_id[:2], 16) % 4 == 0:
            raise RuntimeError("a batch that fails")
        return original(self, rows)

    monkeypatch.setattr(sweep_work._Slice, "_measured", failing)
    result = run(spec, tmp_path)
    assert (result.failed_cells, result.summary.outcome) == (0, "done")
    assert result.summary.retries > 2
    assert images(tmp_path) == images(without)
    assert differences(tmp_path) == differences(without)


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_workers_that_keep_pictures_make_the_same_table(
    spec: SweepSpec, without: Path, tmp_path: Path, workers: int
) -> None:
    from orchestrator.backends.ray.backend import RayBackend

    def make(settings: WorkerSettings) -> Backend:
        return RayBackend(settings, workers=workers, threads=1)

    run(spec, tmp_path, make)
    same(tmp_path, without)


def test_a_worker_that_is_killed_in_the_middle_of_a_block_changes_nothing(
    spec: SweepSpec, without: Path, tmp_path: Path
) -> None:
    from orchestrator.backends.ray.backend import RayBackend

    killed: list[int] = []
    backends: list[RayBackend] = []

    def one(settings: WorkerSettings) -> Backend:
        backends.append(RayBackend(settings, workers=1, threads=1))
        return backends[-1]

    def kill_now_and_then(progress: Any) -> None:
        # Blocks have ten units.
        if progress.running and len(killed) < 2 and progress.done >= (3, 15)[len(killed)]:
            # Of one that is killed, news may take a while.
            for place in [each for each in backends[-1]._places.values() if each.pid not in killed]:
                time.sleep(0.05)
                os.kill(place.pid, signal.SIGKILL)
                killed.append(place.pid)

    result = run_sweep(
        spec, str(tmp_path), one, on_progress=kill_now_and_then, on_localized=lambda _: None, stop=StopSwitch()
    )
    assert (len(killed), result.summary.outcome) == (2, "done")
    same(tmp_path, without)


def _killed_run(spec: SweepSpec, root: Path) -> None:
    torch.set_num_threads(1)
    kill_at_storage_call(5, first=layout.UNITS)
    run(spec, root)


def test_a_driver_that_is_killed_in_the_middle_of_a_block_changes_nothing(
    spec: SweepSpec, without: Path, tmp_path: Path
) -> None:
    child = get_context("fork").Process(target=_killed_run, args=(spec, tmp_path))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    done = len(open_store(str(tmp_path)).committed())
    assert 0 < done < 10
    run(spec, tmp_path)
    same(tmp_path, without)


def test_what_is_kept_is_bounded_and_the_latest() -> None:
    kept = Kept(most_bytes=100)
    for name in "abc":
        kept.put(name, name.upper(), 40)
    assert [kept.get(name) for name in "abc"] == [None, "B", "C"]
    kept.get("b")
    kept.put("d", "D", 40)
    assert [kept.get(name) for name in "bcd"] == ["B", None, "D"]
    kept.put("large", "L", 101)
    assert kept.get("large") is None
    kept.put("b", "B2", 100)
    assert (kept.get("b"), kept.get("d")) == ("B2", None)
