"""One sweep over a small pipeline of every family, through edits and report, with one command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from loco_core.diffusion.facts import families
from tests.support import tiny_cross, tiny_joint, tiny_packed, tiny_streams
from tests.support.clusters import COMMAND_SECONDS
from tests.support.runs import localizer_of
from tests.support.sweeps import tiny_sweep
from tests.support.tiny_models import BUILDERS, SIDE, build

# The least side that every family takes.
LEAST = 2 * SIDE


def test_one_sweep_of_every_family_runs_through_edits_and_report(tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(localizer_of(start=1, size=1))
    models = [{"id": "stable_diffusion", "path": str(tiny_pipeline)}]
    models += [{"id": name, "path": str(build(name, tmp_path / name))} for name in BUILDERS]
    for tiny in (tiny_cross, tiny_joint, tiny_packed, tiny_streams):
        models += [{"id": name, "path": str(tiny.build(name, tmp_path / name))} for name in tiny.BUILDERS]
    spec = tiny_sweep(
        tiny_pipeline, models=models, attributes=["style/velor"], prompts=1, seeds=1, images="report",
        controls={"random": 0}, windows={"sizes": [1], "stride": 2},
        generation={"steps": 2, "guidance_scale": 3.0, "batch_size": 8, "height": LEAST, "width": LEAST},
        localize={"localizer": str(tmp_path / "first.py"), "resamples": 100},
        edit={"lambdas": [0.1], "neurons": [0.1], "tokens": ["all"], "preserve": 1},
        evaluate={"prompts": 1, "seeds": 1, "neighbours": 1, "judge": "toy-judge", "windows": False},
    )  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(spec.model_dump_json(exclude_unset=True))
    words = ["run", "sweep.yaml", "--results", "results", "--workers", "2", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", *words], cwd=tmp_path, capture_output=True, text=True,
        timeout=4 * COMMAND_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    # Those whose sites all share K and V with the image admit no edit.
    shared = set(tiny_packed.BUILDERS)
    said = done.stderr.splitlines()
    assert {line.split()[0] for line in said if "not edited: every site of" in line} == shared, done.stderr
    assert len(said) == len(shared), done.stderr
    results = tmp_path / "results"
    scores = pd.read_parquet(results / "scores")
    assert set(scores.model) == {item["id"] for item in models}
    assert set(scores.family) == set(families())
    assert set(scores.status) == {"ok"}
    for model, rows in scores.groupby("model"):
        swept = rows[rows.control == "window"]
        assert (swept.image_distance > 0).all(), model
        assert rows[rows.control == "identity"].image_distance.max() < 1e-4, model
    edits = pd.read_parquet(results / "edits")
    evaluations = pd.read_parquet(results / "evaluations")
    chosen = edits[edits.chosen.fillna(False).astype(bool)]
    editable = set(scores.model) - shared
    assert set(chosen.model) == editable
    assert set(evaluations[evaluations.split == "report"].model) == editable
    assert (results / "report.html").stat().st_size > 100_000
    assert json.loads((results / "_meta" / "progress.json").read_text())["failed"] == 0
