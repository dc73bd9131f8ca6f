"""Every example of the page on plug-ins fulfils its group's contract, and a sweep uses those that a file may name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.localization.base import Rule, rule
from loco_core.scoring.base import Judge, Scorer, load_judge, load_scorer
from loco_core.scoring.metric import PictureMetric, load_picture_metric
from loco_core.testing.editors import EditorContract
from loco_core.testing.judges import JudgeContract
from loco_core.testing.localizers import LocalizerContract
from loco_core.testing.metrics import PictureMetricContract
from loco_core.testing.scorers import ScorerContract
from loco_core.testing.tracers import TracerContract
from loco_core.types import Generation, Row
from tests.support.clusters import COMMAND_SECONDS
from tests.support.sweeps import tiny_sweep

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "plug-ins.md").read_text()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("examples")
    for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        (folder / text.splitlines()[0].removeprefix("# ")).write_text(text)
    assert {file.stem for file in folder.iterdir()} == {
        "largest", "difference", "forget", "light", "brighter", "colours", "pag", "ledger"
    }  # fmt: skip
    return folder


def test_a_localizer_is_fifteen_lines(examples: Path) -> None:
    lines = [line for line in (examples / "largest.py").read_text().splitlines()[1:] if line]
    assert len(lines) <= 15


class TestLocalizer(LocalizerContract):
    @pytest.fixture(autouse=True)
    def _file(self, examples: Path) -> None:
        self.file = str(examples / "largest.py")

    @property
    def rule(self) -> Rule:
        return rule(self.file)


class TestTracer(TracerContract):
    @pytest.fixture(autouse=True)
    def _file(self, examples: Path) -> None:
        self.tracer = str(examples / "difference.py")

    @pytest.fixture(scope="class")
    def model(self, tiny_model: LoadedModel) -> LoadedModel:
        return tiny_model


class TestEditor(EditorContract):
    @pytest.fixture(autouse=True)
    def _file(self, examples: Path) -> None:
        self.editor = str(examples / "forget.py")

    @pytest.fixture(scope="class")
    def model(self, tiny_model: LoadedModel) -> LoadedModel:
        return tiny_model


class TestJudge(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self, examples: Path) -> Judge:
        return load_judge(str(examples / "light.py"), "cpu")


class TestMetric(PictureMetricContract):
    @pytest.fixture(scope="class")
    def metric(self, examples: Path) -> PictureMetric:
        return load_picture_metric(str(examples / "brighter.py"), "", None, "cpu")


class TestScorer(ScorerContract):
    @pytest.fixture(scope="class")
    def scorer(self, examples: Path) -> Scorer:
        return load_scorer(str(examples / "colours.py"), None, "cpu")


def test_the_family_loads_and_draws_what_the_pipeline_draws_without_it(
    examples: Path, tiny_pipeline: Path, tiny_model: LoadedModel
) -> None:
    # Its guidance of its own is switched off.
    model = load_model(str(examples / "pag.py"), str(tiny_pipeline), None, "float32", "cpu")
    assert type(model.pipeline).__name__ == "StableDiffusionPAGPipeline"
    drawn = [next(generate(one, [Row("a red circle", "", 0)], Generation(2, 3.0), 1)) for one in (model, tiny_model)]
    assert np.allclose(drawn[0].images.numpy(), drawn[1].images.numpy(), atol=1e-4)


def test_a_sweep_goes_through_the_files(examples: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    names = ("largest", "difference", "forget", "light", "brighter", "colours", "ledger")
    files = {name: str(examples / f"{name}.py") for name in names}
    spec = tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=1, scorer=files["colours"], controls={"random": 0},
        windows={"sizes": [1], "stride": 8},
        localize={"localizer": files["largest"], "compare": [files["difference"]], "resamples": 100},
        edit={"editors": [files["forget"]], "tokens": ["all"]},
        evaluate={"prompts": 1, "seeds": 1, "neighbours": 0, "windows": False, "judge": files["light"],
                  "metrics": [files["brighter"]]},
        hooks=({files["ledger"]: {"path": "ledger.txt"}},),
    )  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True)))
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", "run", "sweep.yaml", "--results", "r", "--backend", "inline"],
        cwd=tmp_path, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    tables = {name: pd.read_parquet(tmp_path / "r" / name) for name in ("localizations", "traces", "edits")}
    assert set(tables["localizations"].localizer) == {"largest", "difference"}
    assert set(tables["localizations"].outcome) == {"localized"}
    assert tables["traces"].method.str.match(r"^difference@[0-9a-f]{8}$").all()
    assert set(tables["edits"]["lambda"]) == {0.5, 1.0}
    judges = pd.read_parquet(tmp_path / "r" / "evaluations").judge
    assert judges.str.match(r"^light@[0-9a-f]{8}$").all()
    metrics = pd.read_parquet(tmp_path / "r" / "metrics")
    assert metrics.metric.str.match(r"^brighter@[0-9a-f]{8}$").all()
    ledger = (tmp_path / "ledger.txt").read_text().splitlines()
    assert ledger[0] == "tiny: style/velor"
    assert any(line.startswith("style/velor: localized at ") for line in ledger)
    assert any(re.fullmatch(r"style/velor: \S*forget.py flips [01]\.\d\d", line) for line in ledger)
    assert ledger[-2].endswith(" units done, 0 left")
    assert re.fullmatch(r"done after \d+ s, 0 cells failed", ledger[-1])
