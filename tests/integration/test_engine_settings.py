"""Settings of memory and speed in a whole run: what is recorded, and what happens where memory runs out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from loco_core.diffusion.batches import BatchProbe
from loco_core.diffusion.generate import Pictures, generate
from loco_core.diffusion.model import LoadedModel
from loco_core.errors import ModelError, OutOfMemoryError, SpecError
from orchestrator.resolve.lookup import resolve
from orchestrator.runs.outlook import outlook
from orchestrator.spec import EditSpec, SweepSpec
from orchestrator.stages.probe import work as probe_work
from orchestrator.stages.sweep import work as sweep_work
from orchestrator.store import decode_document, encode_document, open_store
from orchestrator.store.layout import RESOLVED
from tests.support.runs import run
from tests.support.sweeps import tiny_sweep


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path) -> SweepSpec:
    return sweep(tiny_pipeline)


def sweep(pipeline: Path, **engine: Any) -> SweepSpec:
    return tiny_sweep(
        pipeline, models=[{"id": "tiny", "path": str(pipeline), "engine": engine}], attributes=["style/velor"],
        prompts=1, localize={"localizer": "argmin"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    root = tmp_path_factory.mktemp("undisturbed")
    run(spec, root)
    return pd.read_parquet(root / "scores")


def test_what_an_engine_was_set_to_stands_beside_every_score(
    tiny_pipeline: Path, undisturbed: pd.DataFrame, tmp_path: Path
) -> None:
    run(sweep(tiny_pipeline, attention="math", vae_slicing=True), tmp_path)
    scores = pd.read_parquet(tmp_path / "scores")
    assert {text: json.loads(text) for text in set(scores["engine"])} == {
        scores["engine"][0]: {"attention": "math", "vae_slicing": True}
    }
    assert set(undisturbed["engine"]) == {"{}"}
    assert not set(scores["image_id"]) & set(undisturbed["image_id"])
    key = ["prompt_id", "seed", "control", "window_start", "window_size"]
    both = scores.merge(undisturbed, on=key)
    assert len(both) == len(scores) == len(undisturbed)
    assert (both["clip_score_x"] - both["clip_score_y"]).abs().max() < 1e-4
    store = open_store(str(tmp_path))
    pinned = decode_document(store.blobs.read(RESOLVED), RESOLVED)
    assert pinned["engines"]["tiny"]["attention"] == "math"
    assert pinned["engines"]["tiny"]["offload"] == "none"


def test_results_that_say_nothing_of_engines_go_on(spec: SweepSpec, tmp_path: Path) -> None:
    run(spec, tmp_path)
    store = open_store(str(tmp_path))
    pinned = decode_document(store.blobs.read(RESOLVED), RESOLVED)
    del pinned["engines"]
    store.blobs.replace(RESOLVED, encode_document(pinned))
    again = run(spec, tmp_path)
    assert (again.failed_cells, again.summary.committed) == (0, 0)


def test_edits_of_layers_that_are_offloaded_one_by_one_are_refused_before_anything_is_loaded(
    tiny_pipeline: Path,
) -> None:
    spec = sweep(tiny_pipeline, offload="sequential").model_copy(update={"edit": EditSpec()})
    with pytest.raises(SpecError, match=r"weights of tiny .*cannot be edited; expected offload: model") as error:
        resolve(spec)
    assert error.value.loc == ("models", 0, "engine", "offload")


def full(monkeypatch: pytest.MonkeyPatch, failing: range) -> list[int]:
    """Makes memory run out in some calls of the generator, in the middle of them; returns the batch sizes of all."""
    sizes: list[int] = []

    def generating(*arguments: Any, **options: Any) -> Iterator[Pictures]:
        sizes.append(arguments[3])
        if len(sizes) - 1 in failing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total of ...")
        yield from generate(*arguments, **options)

    monkeypatch.setattr(sweep_work, "generate", generating)
    return sizes


def test_memory_that_runs_out_once_is_freed_and_the_batch_drawn_again(
    spec: SweepSpec, undisturbed: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = full(monkeypatch, range(1))
    result = run(spec, tmp_path)
    assert (result.failed_cells, result.summary.retries) == (0, 0)
    assert sizes[0] == sizes[1]
    scores = pd.read_parquet(tmp_path / "scores")
    for name in ("cell_id", "clip_score", "batch_size", "attempt"):
        pd.testing.assert_series_equal(scores[name], undisturbed[name])


def test_batches_that_never_fit_end_with_advice_that_works(
    spec: SweepSpec, tiny_pipeline: Path, undisturbed: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch, range(1000))
    result = run(spec, tmp_path)
    failures = pd.read_parquet(tmp_path / "failures")
    assert len(failures) == result.failed_cells == len(undisturbed)
    assert set(failures["error_type"]) == {"OutOfMemoryError"}
    (error,) = set(failures["error"])
    assert error.startswith("tiny runs out of memory with batches of ")
    assert "(CUDA out of memory. Tried to allocate 20.00 MiB); expected a smaller generation.batch_size" in error
    assert result.summary.retries <= 4
    monkeypatch.undo()
    smaller = spec.model_copy(update={"generation": spec.generation.model_copy(update={"batch_size": 4})})
    result = run(smaller, tmp_path, retry=True)
    assert result.failed_cells == 0
    scores = pd.read_parquet(tmp_path / "scores")
    assert set(scores["batch_size"]) <= {2, 3, 4}
    assert set(scores["cell_id"]) == set(undisturbed["cell_id"])


def test_a_batch_size_is_measured_once_and_stays(
    tiny_pipeline: Path, undisturbed: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def probed(model: LoadedModel, *_: Any) -> BatchProbe:
        measured.append(model.device)
        return BatchProbe(5, {1: 1.0, 5: 0.2}, 2.5, {})

    def auto(**changes: Any) -> SweepSpec:
        spec = sweep(tiny_pipeline)
        generation = {**spec.generation.model_dump(), "batch_size": "auto"}
        return SweepSpec.model_validate({**spec.model_dump(), "generation": generation, **changes}, strict=False)

    monkeypatch.setattr(probe_work, "probe_batches", probed)
    assert outlook(auto(), resolve(auto()), str(tmp_path)).guessed_batches == ("tiny",)
    run(auto(seeds=1), tmp_path)
    run(auto(), tmp_path)
    assert measured == ["cpu"]
    assert outlook(auto(), resolve(auto()), str(tmp_path)).guessed_batches == ()
    scores = pd.read_parquet(tmp_path / "scores")
    assert set(scores["cell_id"]) == set(undisturbed["cell_id"])
    assert set(scores["batch_size"]) <= {3, 4, 5}
    assert (scores["batch_size"] == 5).any()


def test_a_model_that_cannot_be_measured_ends_the_run_with_its_reason(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_fits(*_: Any) -> BatchProbe:
        raise OutOfMemoryError("not even a batch of 1 fits; expected engine.offload, or a larger device")

    spec = sweep(tiny_pipeline).model_copy(update={"seeds": (0,)})
    auto = spec.model_copy(update={"generation": spec.generation.model_copy(update={"batch_size": "auto"})})
    monkeypatch.setattr(probe_work, "probe_batches", nothing_fits)
    with pytest.raises(ModelError, match=r"batch_size: auto: not even a batch of 1 fits; expected engine.offload"):
        run(auto, tmp_path)
    assert pd.read_parquet(tmp_path / "failures").empty
    monkeypatch.undo()
    run(auto, tmp_path)
    assert not len(pd.read_parquet(tmp_path / "failures"))
