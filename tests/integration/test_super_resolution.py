"""A sweep whose pictures a second stage enlarges, from the cells to an exported edit."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from diffusers import DiffusionPipeline
from PIL import Image

from loco_core.errors import SpecError
from orchestrator.reporting.findings import read_findings
from orchestrator.spec import SweepSpec
from orchestrator.store import open_store
from tests.support.runs import localizer_of, run
from tests.support.sweeps import Command, tiny_sweep
from tests.support.tiny_models import SIDE, build, build_second_stage

SIDES = {"height": SIDE, "width": SIDE}
KEY = ["prompt_id", "seed", "control", "window_start", "window_size"]


@dataclass(frozen=True)
class Made:
    """Two sweeps that differ in the second stage alone, and their results."""

    first: Path
    second: Path
    alone: Path
    both: Path
    spec: SweepSpec


def sweep(folder: Path, model: Mapping[str, Any]) -> SweepSpec:
    return tiny_sweep(
        "", models=[model], attributes=["style/velor"], prompts=1, seeds=1, images="report", controls={"random": 0},
        windows={"sizes": [1], "stride": 5}, generation={"steps": 2, "guidance_scale": 3.0, "batch_size": 8, **SIDES},
        localize={"localizer": str(folder / "first.py"), "resamples": 100},
        edit={"editors": ["loco_edit"], "lambdas": [0.1], "tokens": ["all"], "preserve": 1},
        evaluate={"prompts": 1, "seeds": 1, "neighbours": 1, "judge": "toy-judge", "windows": False},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("two-stages")
    (folder / "first.py").write_text(localizer_of(start=1, size=1))
    first, second = build("deepfloyd_if", folder / "first"), build_second_stage(folder / "second")
    model = {"id": "mine", "path": str(first)}
    spec = sweep(folder, {**model, "super_resolution": str(second)})
    for name, one in (("alone", sweep(folder, model)), ("both", spec)):
        result = run(one, folder / name)
        assert (result.summary.outcome, result.failed_cells) == ("done", 0)
    return Made(first, second, folder / "alone", folder / "both", spec)


def test_every_cell_is_scored_on_the_larger_picture(made: Made) -> None:
    alone, both = (pd.read_parquet(root / "scores") for root in (made.alone, made.both))
    pairs = both.merge(alone, on=KEY)
    assert len(pairs) == len(both) == len(alone)
    assert set(both.status) == {"ok"}
    assert {*both.height, *both.width} == {2 * SIDE}
    assert {*alone.height, *alone.width} == {SIDE}
    assert (pairs.clip_score_x != pairs.clip_score_y).all()
    assert not set(both.image_id) & set(alone.image_id)
    assert both[both.control == "identity"].image_distance.max() == 0
    assert (both[both.control == "window"].image_distance > 0).all()
    for root, side in ((made.alone, SIDE), (made.both, 2 * SIDE)):
        kept = pd.read_parquet(root / "images").image
        assert {Image.open(io.BytesIO(item["bytes"])).size for item in kept} == {(side, side)}


def test_results_and_report_name_the_second_stage(made: Made, command: Command) -> None:
    revisions = [set(pd.read_parquet(root / "scores").model_revision) for root in (made.alone, made.both)]
    ((first,), (both,)) = revisions
    assert both.startswith(f"{first}+")
    assert len(both) == 2 * len(first) + 1
    provenance = read_findings(open_store(str(made.both))).provenance
    assert provenance["weights of mine"] == both
    assert provenance["second stage of mine"] == str(made.second)
    assert "second stage of mine" not in read_findings(open_store(str(made.alone))).provenance
    for root, told in ((made.alone, False), (made.both, True)):
        assert command("report", root)[0] == 0
        page = (root / "report.html").read_text(encoding="utf-8")
        assert (f"Images of mine were enlarged by {made.second}, which read the empty prompt" in page) == told


def test_results_with_and_without_it_never_mix(made: Made) -> None:
    plain = made.spec.models[0].model_copy(update={"super_resolution": None})
    without = made.spec.model_copy(update={"models": (plain,)})
    for spec, root in ((made.spec, made.alone), (without, made.both)):
        with pytest.raises(SpecError, match=r"models\.mine\.super_resolution .*--results"):
            run(spec, root)


def test_an_export_is_the_edited_first_stage_and_says_so(made: Made, command: Command, tmp_path: Path) -> None:
    for root, expected in ((made.alone, 1), (made.both, 2)):
        out = tmp_path / root.name
        code, said, err = command("export", root, out, "--targets", "paired")
        assert (code, err, said.count("\n")) == (0, "", expected)
        pipeline = DiffusionPipeline.from_pretrained(out, use_safetensors=True)
        assert type(pipeline).__name__ == "IFPipeline"
    assert f"the second stage, {made.second}, is as published" in said
    # One edit, whatever enlarges the pictures on which it is measured.
    edits = [pd.read_parquet(root / "edits") for root in (made.alone, made.both)]
    assert set(edits[0].edit_id) == set(edits[1].edit_id)
    files = [(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors") for name in ("alone", "both")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != (made.first / "unet" / files[0].name).read_bytes()


def test_a_second_stage_that_changed_is_refused(made: Made) -> None:
    """Last, as it changes what the others read."""
    config = made.second / "scheduler" / "scheduler_config.json"
    before = config.read_text()
    config.write_text(before.replace("1.5", "1.25"))
    with pytest.raises(SpecError, match=r"weights \w{12} and \w{12}, .*t and .*d now hold \w{12} and") as error:
        run(made.spec, made.both)
    assert "put the old weights back" in str(error.value)
    config.write_text(before)
    again = run(made.spec, made.both)
    assert (again.failed_cells, again.summary.committed) == (0, 0)
