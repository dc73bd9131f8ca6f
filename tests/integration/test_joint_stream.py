"""The bundled joint-stream model through all that a person does with it: sweep, traces, edits, report, other rules."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.support.runs import localizer_of
from tests.support.sweeps import Command

SWEEP = {
    "name": "joint", "models": ["toy-mmdit"], "attributes": ["object/star"], "windows": {"sizes": [1], "stride": 4},
    "prompts": 1, "seeds": 1, "generation": {"steps": 2, "batch_size": 16}, "scorer": "toy-clip", "images": "report",
    "interventions": [{}, {"source": "own"}, {"pooled": "donor"}], "controls": {"random": 0},
    "edit": {"lambdas": [0.1], "tokens": ["all"], "preserve": 1},
    "evaluate": {"prompts": 1, "seeds": 1, "neighbours": 1, "judge": "toy-judge", "windows": False},
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.py").write_text(localizer_of(start=1, size=1))
    rules = {"localizer": "first.py", "compare": ["sequential", "attention_contribution", "causal_tracing"]}
    written = tmp_path / "sweep.yaml"
    written.write_text(yaml.safe_dump({**SWEEP, "localize": {**rules, "resamples": 100}}))
    return written


def test_it_is_swept_traced_edited_and_reported_by_its_name(file: Path, command: Command, tmp_path: Path) -> None:
    assert "toy-mmdit at 2 steps" in command("plan", file)[1]
    code, out, err = command("run", file, "--results", "out", "--backend", "inline", "--threads", "1")
    assert (code, err) == (0, ""), out + err
    scores = pd.read_parquet(tmp_path / "out" / "scores")
    assert set(scores.family) == {"sd3"}
    assert set(scores.status) == {"ok"}
    # A prompt that reads itself is the clean picture, from its own picture and from its run alike.
    assert scores[scores.control == "identity"].image_distance.max() < 1e-4
    everywhere = scores[scores.control == "all_sites"]
    assert {(row.source, row.pooled) for row in everywhere.itertuples()} == {
        ("run", "prompt"), ("own", "prompt"), ("run", "donor")
    }  # fmt: skip
    assert (everywhere.image_distance > 0).all()
    traces = pd.read_parquet(tmp_path / "out" / "traces")
    assert set(traces.method) == {"attention_contribution", "causal_tracing"}
    assert set(traces[traces.method == "attention_contribution"].layer) == set(range(10))
    edits = pd.read_parquet(tmp_path / "out" / "edits")
    assert edits.chosen.fillna(False).any()
    assert "toy-mmdit" in (tmp_path / "out" / "report.html").read_text()
    code, out, err = command("localize", "out", "--localizer", "argmin")
    assert (code, err) == (0, ""), out + err
    assert "toy-mmdit" in out
