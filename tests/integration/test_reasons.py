"""Why cells failed reaches whoever looks, on every backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.support.sweeps import Command, tiny_sweep

# No picture can be scored, whoever tries.
SCORER = """\
import os
from loco_core.toyworld import WEIGHTS
from loco_core.scoring.scorers.clip import Scorer as Honest

WEIGHTS = str(WEIGHTS / "clip")
REASON = {reason!r}

class Scorer(Honest):
    def embed_images(self, images):
        raise {error}(REASON)
"""


@pytest.mark.parametrize(
    "backend", [("inline", "--threads", 1), ("ray", "--workers", 1, "--threads", 1)], ids=lambda b: b[0]
)
def test_the_reason_is_said_by_run_status_and_report_and_no_retry_is_offered_that_cannot_help(
    backend: tuple[object, ...], tiny_pipeline: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    scorer, own, root = tmp_path / "types.py", tmp_path / "own.yaml", tmp_path / "results"
    scorer.write_text(SCORER.format(reason="a picture of 30 pixels; 28 fit", error="ValueError"))
    spec = tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=1, windows={"sizes": [2], "stride": 7},
        controls={"random": 0}, generation={"steps": 1, "batch_size": 8}, scorer=str(scorer),
    )  # fmt: skip
    own.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True)))
    code, out, err = command("run", own, "--results", root, "--backend", *backend)
    assert code == 3, err
    reason = "(style/velor of tiny): ValueError: a picture of 30 pixels; 28 fit"
    lines = out.splitlines()
    assert [line for line in lines if reason in line] == [line for line in lines if "28 fit" in line] != []
    assert "every try meets ValueError: change what it names first, then" in out
    assert "computes failed cells again" not in out
    code, shown, _ = command("status", root)
    assert (code, reason in shown, "every try meets ValueError" in shown) == (0, True, True)
    (kind,) = json.loads(command("status", root, "--json")[1])["failed"]
    assert (kind["lasting"], kind["models"], kind["attributes"]) == (True, ["tiny"], ["style/velor"])
    assert f"{kind['cells']} cells {reason}" in out
    assert command("report", root)[0] == 0
    assert reason in (root / "report.html").read_text()
