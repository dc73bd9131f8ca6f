"""A package of somebody else's adds a plug-in of every kind, one file each, and sweeps use them.

The package is a copy of ``tests/outside``, installed as pip leaves it: its files, and its entry points beside them.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from diffusers import StableDiffusionPAGPipeline, StableDiffusionPipeline, UNet2DConditionModel

from loco_core.diffusion.model import LoadedModel
from loco_core.localization.base import Rule, rule
from loco_core.scoring.base import Judge, Scorer, load_judge, load_scorer
from loco_core.testing.editors import EditorContract
from loco_core.testing.families import FamilyContract, Subject
from loco_core.testing.judges import JudgeContract
from loco_core.testing.localizers import LocalizerContract
from loco_core.testing.scorers import ScorerContract
from loco_core.testing.tracers import TracerContract
from orchestrator.resolve.lookup import resolve
from tests.support.clusters import COMMAND_SECONDS
from tests.support.sweeps import Command, tiny_sweep

ENTRY_POINTS = """
[loco_sweep.families]
pag = stranger.pag
[loco_sweep.scorers]
outside-scorer = stranger.colours
[loco_sweep.localizers]
outside = stranger.lowest
outside-difference = stranger.difference
[loco_sweep.tracers]
outside-tracer = stranger.difference
[loco_sweep.judges]
outside-judge = stranger.light
[loco_sweep.editors]
outside_edit = stranger.shrink
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the path that holds the package, for this process and those that it starts."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(Path(__file__).parents[1] / "support" / "outside", folder / "stranger")
    about = folder / "stranger-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        importlib.invalidate_caches()
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "stranger"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pipeline of a class that no bundled family names, with seven sites."""
    folder = tmp_path_factory.mktemp("models") / "pag"
    torch.manual_seed(5)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=8, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=8,
    )  # fmt: skip
    parts = StableDiffusionPipeline.from_pretrained(tiny_pipeline, use_safetensors=True).components
    StableDiffusionPAGPipeline(**{**parts, "unet": unet}, requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sweep(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = tiny_sweep(
        pipeline, attributes=["style/velor"], prompts=1, seeds=1, scorer="outside-scorer", controls={"random": 0},
        windows={"sizes": [2], "stride": 2},
        localize={"localizer": "outside", "compare": ["outside-difference"], "resamples": 100},
        edit={"editors": ["outside_edit"]},
        evaluate={"prompts": 1, "seeds": 1, "neighbours": 1, "windows": False, "judge": "outside-judge"},
    )  # fmt: skip
    file = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True)))
    return file


class TestFamily(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, site: Path, pipeline: Path) -> Subject:
        return Subject("pag", pipeline, {"pag_scale": 0.0})


class TestScorer(ScorerContract):
    @pytest.fixture(scope="class")
    def scorer(self, site: Path) -> Scorer:
        return load_scorer("outside-scorer", None, "cpu")


@pytest.mark.usefixtures("site")
class TestLocalizer(LocalizerContract):
    @property
    def rule(self) -> Rule:
        return rule("outside")


class TestEditor(EditorContract):
    editor = "outside_edit"

    @pytest.fixture(scope="class")
    def model(self, site: Path, tiny_model: LoadedModel) -> LoadedModel:
        return tiny_model


class TestJudge(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self, site: Path) -> Judge:
        return load_judge("outside-judge", "cpu")


class TestTracer(TracerContract):
    tracer = "outside-tracer"

    @pytest.fixture(scope="class")
    def model(self, site: Path, tiny_model: LoadedModel) -> LoadedModel:
        return tiny_model


def test_a_sweep_on_ray_workers_goes_through_all_of_them(site: Path, sweep: Path) -> None:
    words = ["run", "sweep.yaml", "--results", "results", "--workers", "1", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", *words], cwd=sweep.parent, capture_output=True, text=True,
        timeout=COMMAND_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    results = sweep.parent / "results"
    scores = pd.read_parquet(results / "scores")
    assert set(scores.family) == {"pag"}
    assert set(scores.scorer) == {"outside-scorer"}
    assert set(scores.status) == {"ok"}
    swept = scores[scores.control == "window"]
    assert (swept.image_distance > 0).all()
    found, beside = (row for _, row in pd.read_parquet(results / "localizations").sort_values("compared").iterrows())
    assert (found.localizer, found.outcome) == ("outside", "localized")
    # Its tracer makes the last site the largest.
    assert (beside.localizer, beside.window_start, beside.n_prompts) == ("outside-difference", 6, 1)
    traces = pd.read_parquet(results / "traces")
    assert set(traces.method.str.partition("@")[0]) == {"outside-tracer"}
    assert traces.value.notna().all()
    assert found.window_start == swept.window_start[swept.clip_score.idxmin()]
    edits = pd.read_parquet(results / "edits")
    assert set(edits.editor) == {"outside_edit"}
    assert set(edits["lambda"][edits.scope == "localized"]) == {0.1, 1.0}
    assert (edits.norm > 0).all()
    evaluations = pd.read_parquet(results / "evaluations")
    assert {"localized", "all_sites", "placebo", "grown"} == set(evaluations.scope[evaluations.split == "report"])
    assert set(evaluations.judge.str.partition("@")[0]) == {"outside-judge"}
    assert set(evaluations.judge_before) <= {"velor", "other"}
    assert set(evaluations.scorer) == {"outside-scorer"}
    page = (results / "report.html").read_text()
    assert "outside_edit" in page
    assert "the same made larger" in page


def test_a_scorer_of_another_file_or_other_weights_is_another(pipeline: Path, site: Path, tmp_path: Path) -> None:
    """What it gives would not belong into the same table."""
    file, weights = tmp_path / "mine.py", tmp_path / "weights" / "model.safetensors"
    weights.parent.mkdir()
    code = (site / "stranger" / "colours.py").read_text() + f"\n\nWEIGHTS = {str(weights.parent)!r}\n"

    def pinned(text: str, held: bytes) -> str:
        file.write_text(text)
        weights.write_bytes(held)
        found = resolve(tiny_sweep(pipeline, scorer=str(file))).scorer
        assert (found.name, found.source) == ("mine.py", str(file))
        return found.weights

    assert pinned(code, b"1") == pinned(code, b"1")
    assert len({pinned(code, b"1"), pinned(code, b"2"), pinned(code + "\n", b"1")}) == 3
    assert load_scorer(str(file), None, "cpu").path == str(weights.parent)  # type: ignore[attr-defined]


def test_wrong_names_are_told_with_their_neighbours(site: Path, sweep: Path, command: Command) -> None:
    for good, wrong in (("outside-scorer", "outside-scorr"), ("outside_edit", "outside_edt"), ("outside", "outsid")):
        broken = sweep.with_name("broken.yaml")
        broken.write_text(re.sub(rf"\b{good}$", wrong, sweep.read_text(), flags=re.MULTILINE))
        code, _, error = command("plan", broken)
        assert code == 2
        assert f'did you mean "{good}"' in error
