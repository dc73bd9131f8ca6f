"""Metrics of edited pictures through a whole sweep: planned, measured on workers, derived without torch, and shown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from loco_core import plugins
from loco_core.toyworld import WEIGHTS
from orchestrator.reporting import write_report
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit import metrics as stage_metrics
from orchestrator.store import open_store, verify
from tests.support.runs import run
from tests.support.sweeps import Command, tiny_sweep, unit_files

METRICS = ["ssim", {"cmmd": {"weights": "toy-clip"}}]
NO_TORCH = """
import sys
import numpy as np
from loco_core.scoring.set_distance import set_distance
from orchestrator.stages.edit.metrics import metric_rows
for name in ("cmmd", "fid"):
    before, after = np.random.default_rng(0).normal(size=(2, 8, 3))
    set_distance(name, before, after, list("abcdefgh"))
print([name for name in ("torch", "transformers", "PIL") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path) -> SweepSpec:
    return tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=1, controls={"random": 0},
        windows={"sizes": [2], "stride": 6}, localize={"localizer": "argmin", "resamples": 100},
        generation={"steps": 1, "guidance_scale": 3.0, "batch_size": 16},
        edit={"editors": ["loco_edit"], "targets": "paired", "lambdas": [0.01], "tokens": ["all"]},
        evaluate={"prompts": 4, "seeds": 2, "neighbours": 0, "windows": False},
    )  # fmt: skip


def with_metrics(spec: SweepSpec, *metrics: object) -> SweepSpec:
    content = spec.model_dump(mode="json", exclude_unset=True)
    content["evaluate"]["metrics"] = metrics
    return SweepSpec.model_validate(content, strict=False)


@pytest.fixture(scope="module")
def measured(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results that had no metrics first: these are measured when they are asked for."""
    root = tmp_path_factory.mktemp("metrics")
    assert run(spec, root).summary.outcome == "done"
    assert not len(pd.read_parquet(root / "metrics"))
    assert pd.read_parquet(root / "evaluations").metrics.isna().all()
    assert run(with_metrics(spec, *METRICS), root).summary.outcome == "done"
    return root


def test_every_edit_has_every_metric_once(measured: Path) -> None:
    rows, edits = pd.read_parquet(measured / "metrics"), pd.read_parquet(measured / "edits")
    assert not rows.duplicated(["edit_id", "scope", "metric", "prompt_role"]).any()
    key = list(zip(edits.edit_id, edits.scope, strict=True))
    for edit_id, scope in key:
        mine = rows[(rows.edit_id == edit_id) & (rows.scope == scope)]
        assert set(zip(mine.metric.str.partition("@")[0], mine.prompt_role, strict=True)) == {
            ("ssim", "target"), ("ssim", "paraphrase"), ("ssim", "unrelated"), ("cmmd", "unrelated"),
        }  # fmt: skip
    assert len(rows) == 4 * len(key)
    of_sets = rows[rows.metric.str.startswith("cmmd@")]
    assert (of_sets[["pictures", "prompts"]].to_numpy() == (8, 4)).all()
    assert set(of_sets.weights) == {"toy-clip"}
    assert of_sets.weights_hash.str.match("^[0-9a-f]{64}$").all()
    assert (rows.note == "").all()
    assert (rows.ci_low < rows.ci_high).all()
    assert verify(open_store(str(measured))) == []


def test_what_pandas_reads_gives_the_same_values(measured: Path) -> None:
    """By the columns that the tables say, and the formulas of the papers."""
    rows = pd.read_parquet(measured / "metrics").set_index(["edit_id", "scope", "metric", "prompt_role"])
    pictures, features = pd.read_parquet(measured / "picture_metrics"), pd.read_parquet(measured / "features")
    assert pictures.value.between(-1, 1).all()
    means = pictures.groupby(["edit_id", "scope", "metric", "prompt_role"]).value.mean()
    assert rows.value[means.index].to_numpy() == pytest.approx(means.to_numpy())
    before = features[features.edit_id.isna()].set_index(["unit_id", "prompt", "seed"])
    for (edit_id, scope), after in features[features.edit_id.notna()].groupby(["edit_id", "scope"]):
        x, y = (
            np.stack(list(column)) for column in
            (before.features[list(zip(after.unit_id, after.prompt, after.seed, strict=True))], after.features)
        )  # fmt: skip
        apart = np.not_equal.outer(after.prompt.to_numpy(), after.prompt.to_numpy())

        def kernel(a: np.ndarray, b: np.ndarray, apart: np.ndarray = apart) -> float:
            return float(np.exp(-((a[:, None].astype(float) - b[None]) ** 2).sum(-1) / 200)[apart].mean())

        expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
        (found,) = rows.loc[(edit_id, scope)].query("metric.str.startswith('cmmd@')").value
        assert found == pytest.approx(expected, abs=1e-6)


def test_what_is_measured_is_not_measured_again(
    measured: Path, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    units, rows = set(unit_files(measured)), pd.read_parquet(measured / "metrics")
    with monkeypatch.context() as patched:
        patched.setattr(stage_metrics, "set_distance", lambda *_: pytest.fail("a distance is computed again"))
        assert run(with_metrics(spec, *METRICS), measured).summary.outcome == "done"
    pd.testing.assert_frame_equal(pd.read_parquet(measured / "metrics"), rows)
    for metrics in (METRICS, METRICS[:1], ()):
        assert run(with_metrics(spec, *metrics), measured).summary.outcome == "done"
        assert set(unit_files(measured)) == units
    run(with_metrics(spec, *METRICS), measured)


def test_the_report_and_a_comparison_show_them(measured: Path, command: Command) -> None:
    page = Path(write_report(open_store(str(measured)))).read_text()
    assert re.search(r'<th scope="col" title="cmmd@[0-9a-f]{8} on toy-clip">cmmd, unrelated</th>', page)
    assert re.search(r'<td title="8 pictures of 4 prompts">-?[0-9.e-]+ \[-?[0-9.e-]+, -?[0-9.e-]+\]</td>', page)
    assert "CMMD (Jayasumana et al., CVPR 2024)" in page
    assert "weights of cmmd@" in page
    code, out, err = command("compare", measured, measured, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["metrics"]
    assert {(item["metric"].partition("@")[0], item["role"]) for item in found} == {
        ("ssim", "target"), ("ssim", "unrelated"), ("cmmd", "unrelated"),
    }  # fmt: skip
    assert all(item["first"] == item["second"] for item in found)
    code, out, _ = command("compare", measured, measured)
    assert re.search(r"^tiny\tstyle/velor\tloco_edit, paired \(localized\)\tssim\ttarget\t", out, re.M)


def test_the_driver_needs_neither_torch_nor_pictures() -> None:
    done = subprocess.run([sys.executable, "-c", NO_TORCH], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (["smim"], 'no metric "smim"; did you mean "ssim"?'),
        (["./none.py"], r"no file .*none.py"),
        ([{"ssim": {"weights": "toy-clip"}}], "ssim reads no weights; expected ssim alone"),
        (["fid"], r"fid needs weights; expected \{fid: \{weights: FOLDER_OR_HUB_ID\}\}"),
        ([{"cmmd": {"weights": "toy-clop"}}], 'no weights "toy-clop"; did you mean "toy-clip"?'),
        ([{"cmmd": {"weights": "./nowhere/at/all"}}], "no folder .*nowhere/at/all"),
        ([{"cmmd": {"weights": "./vit"}}], ".*vit holds a vit model; cmmd reads one whose model_type is clip"),
        (
            [{"dino": {"weights": "./clip"}}],
            "clip holds a clip model; dino reads one whose model_type is vit or dinov2",
        ),
        ([{"fid": {"weights": "./empty"}}], ".*empty holds no config.json; expected the folder of a model"),
        ([{"fid": {"weights": "./bare"}}], ".*bare holds no preprocessor_config.json"),
        ([{"fid": {"weights": "./light"}}], "light holds no safetensors weights"),
        ([{"cmmd": {}}], "weights"),
        (["ssim", "ssim"], "metric 'ssim' is given more than once"),
    ],
)
def test_a_wrong_metric_is_one_line_at_plan(
    metrics: list[object], said: str, spec: SweepSpec, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(WEIGHTS / "clip", "clip")
    Path("empty").mkdir()
    for folder in ("vit", "bare", "light"):
        shutil.copytree("clip", folder)
    kind = '"model_type": "clip",'
    vit = Path("vit/config.json").read_text().replace(kind, '"model_type": "vit",')
    Path("vit/config.json").write_text(vit)
    Path("bare/processor_config.json").unlink()
    Path("light/model.safetensors").unlink()
    content = spec.model_dump(mode="json", exclude_unset=True)
    content["evaluate"]["metrics"] = metrics
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    code, out, err = command("plan", "sweep.yaml")
    assert code in (1, 2)
    assert err.count("\n") == 1, err
    assert re.search(said, err), err
    assert "Traceback" not in out + err


def test_a_set_of_one_prompt_is_refused(spec: SweepSpec, command: Command, tmp_path: Path) -> None:
    content = with_metrics(spec, *METRICS).model_dump(mode="json", exclude_unset=True)
    content["evaluate"]["prompts"] = 1
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    code, _, err = command("plan", tmp_path / "sweep.yaml")
    assert code == 2
    assert "cmmd compares sets of pictures of 2 prompts or more; evaluate.prompts is 1" in err


def test_metrics_are_a_group_of_plug_ins() -> None:
    assert {"ssim", "dino", "cmmd", "fid"} <= set(plugins.keys("metrics"))
