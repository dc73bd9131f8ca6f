"""Real pipelines through the whole chain: inline, Ray, killed and resumed."""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Backend
from orchestrator.spec import SweepSpec
from orchestrator.store import open_store
from orchestrator.worker import WorkerSettings
from tests.support.runs import run
from tests.support.sweeps import assert_each_once, kill_at_storage_call, payload, tiny_sweep

MOMENTS = 10
FOLDERS = ("scores", "failures", "embeddings", "images", "effects", "localizations")


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path) -> SweepSpec:
    return tiny_sweep(tiny_pipeline, images="report")


@pytest.fixture(scope="module")
def undisturbed(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    result = run(spec, root)
    assert result.summary.outcome == "done"
    return root


def test_every_folder_is_read_by_pandas_as_it_is(undisturbed: Path) -> None:
    frames = {name: pd.read_parquet(undisturbed / name) for name in FOLDERS}
    scores = frames["scores"]
    assert len(scores) == len(frames["embeddings"]) + scores.duplicated(["unit_id", "image_id"]).sum()
    assert set(scores["status"]) == {"ok"}
    assert (scores[scores["control"] == "clean"]["image_distance"] == 0).all()
    assert scores[scores["control"] == "clean"]["clip_score_unrelated"].notna().all()
    assert len(frames["effects"]) == 16
    assert len(frames["localizations"]) == 2
    assert frames["images"]["image"].iloc[0]["bytes"][:4] == b"\x89PNG"


def test_the_identity_control_changes_nothing(undisturbed: Path) -> None:
    scores = pd.read_parquet(undisturbed / "scores").set_index(["attribute", "prompt_id", "seed"])
    clean = scores[scores["control"] == "clean"]["clip_score"].sort_index()
    identity = scores[scores["control"] == "identity"]["clip_score"].sort_index()
    assert (clean - identity).abs().max() < 1e-4


def test_a_model_is_drawn_with_its_own_guidance(tiny_pipeline: Path, undisturbed: Path, tmp_path: Path) -> None:
    models = [
        {"id": "tiny", "path": str(tiny_pipeline), "guidance_scale": 3.0},
        {"id": "b", "path": str(tiny_pipeline)},
    ]
    generation = {"steps": 2, "guidance_scale": 7.0, "batch_size": 16}
    run(tiny_sweep("", models=models, generation=generation, attributes=["style/velor"]), tmp_path)
    scores, alone = (pd.read_parquet(root / "scores") for root in (tmp_path, undisturbed))
    own, other = (scores[scores["model"] == name] for name in ("tiny", "b"))
    columns = ["cell_id", "image_id", "guidance_scale", "clip_score"]
    pd.testing.assert_frame_equal(
        own[columns].sort_values("cell_id", ignore_index=True),
        alone[alone["attribute"] == "style/velor"][columns].sort_values("cell_id", ignore_index=True),
    )
    assert set(other["guidance_scale"]) == {7.0}
    assert not set(own["image_id"]) & set(other["image_id"])


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_workers_make_the_same_table(spec: SweepSpec, undisturbed: Path, tmp_path: Path, workers: int) -> None:
    from orchestrator.backends.ray.backend import RayBackend

    def make(settings: WorkerSettings) -> Backend:
        return RayBackend(settings, workers=workers, threads=1)

    result = run(spec, tmp_path, make)
    assert result.summary.outcome == "done"
    assert payload(open_store(str(tmp_path)).read("scores")) == payload(open_store(str(undisturbed)).read("scores"))


def _killed_run(spec: SweepSpec, root: Path, call: int, words: Any) -> None:
    """Runs in a forked child that kills itself in the middle of its n-th storage call."""
    torch.set_num_threads(1)

    def say(path: str) -> None:
        words.put(f"killed at storage call {call}: {path}")
        words.close()
        words.join_thread()

    kill_at_storage_call(call, say=say)
    run(spec, root)


@pytest.mark.parametrize("call", sorted(random.Random(20260724).sample(range(4, 40), MOMENTS)))
def test_a_killed_driver_loses_nothing(spec: SweepSpec, undisturbed: Path, tmp_path: Path, call: int) -> None:
    context = get_context("fork")
    words = context.Queue()
    child = context.Process(target=_killed_run, args=(spec, tmp_path, call, words))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    print(words.get(timeout=60))
    run(spec, tmp_path)
    found = open_store(str(tmp_path)).read("scores")
    assert_each_once(found)
    assert payload(found) == payload(open_store(str(undisturbed)).read("scores"))


def test_a_killed_worker_loses_nothing(spec: SweepSpec, undisturbed: Path, tmp_path: Path) -> None:
    """Workers are killed in the middle of units while the driver runs on."""
    from orchestrator.backends.ray.backend import RayBackend

    killed: list[int] = []
    backends: list[RayBackend] = []

    def one(settings: WorkerSettings) -> Backend:
        backends.append(RayBackend(settings, workers=1, threads=1))
        return backends[-1]

    def kill_now_and_then(progress: Any) -> None:
        if progress.running and len(killed) < 2 and progress.done > 2 * len(killed):
            # Of one that is killed, news may take a while.
            for place in [each for each in backends[-1]._places.values() if each.pid not in killed]:
                time.sleep(0.05)
                print(f"worker {place.pid} killed after {progress.done} units")
                os.kill(place.pid, signal.SIGKILL)
                killed.append(place.pid)

    result = run_sweep(
        spec, str(tmp_path), one, on_progress=kill_now_and_then, on_localized=lambda _: None, stop=StopSwitch()
    )
    assert len(killed) == 2
    assert result.summary.outcome == "done"
    assert payload(open_store(str(tmp_path)).read("scores")) == payload(open_store(str(undisturbed)).read("scores"))


def test_images_that_are_none_are_invalid_and_stay(
    spec: SweepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not-a-number, black and one-coloured images are rows with status invalid."""
    from orchestrator.stages.sweep import work as sweep_work

    original = sweep_work.generate

    def spoiled(*args: Any, **options: Any) -> Any:
        for pictures in original(*args, **options):
            pictures.images[0] = float("nan")
            pictures.images[1] = 0.0
            pictures.images[2] = 0.7
            yield pictures

    monkeypatch.setattr(sweep_work, "generate", spoiled)
    result = run(spec, tmp_path)
    scores = pd.read_parquet(tmp_path / "scores")
    assert result.summary.invalid == (scores["status"] == "invalid").sum() > 0
    assert scores[scores["status"] == "invalid"]["clip_score"].isna().all()
    assert len(scores) == result.summary.rows + result.summary.invalid
