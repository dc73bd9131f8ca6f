"""What is looked up of the weights that metrics read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from loco_core.errors import ModelError, SpecError
from loco_core.toyworld import WEIGHTS
from orchestrator.resolve.metrics import resolve_metrics
from tests.support.hub import COMMIT, redirect, serving
from tests.support.sweeps import tiny_sweep


def test_weights_on_the_hub_that_are_pickles_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any picture is drawn."""
    whole, pickled = tmp_path / "whole", tmp_path / "pickled"
    for folder in (whole, pickled):
        shutil.copytree(WEIGHTS / "clip", folder)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with serving({"owner/whole": whole, "owner/pickled": pickled}) as hub:
        redirect(monkeypatch, hub, tmp_path / "cache")
        (found,) = resolve_metrics(tiny_sweep("x", evaluate={"metrics": [{"cmmd": {"weights": "owner/whole"}}]}))
        assert found.revision == COMMIT
        assert not any(line.startswith("GET") and "safetensors" in line for line in hub.requests)
        spec = tiny_sweep("x", evaluate={"metrics": [{"cmmd": {"weights": "owner/pickled"}}]})
        with pytest.raises(ModelError, match=r"owner/pickled holds no safetensors weights.*pytorch_model.bin"):
            resolve_metrics(spec)


def test_one_metric_under_two_names_is_refused(tmp_path: Path) -> None:
    """The bundled weights, and a copy of them."""
    shutil.copytree(WEIGHTS / "clip", tmp_path / "clip")
    named = [{"cmmd": {"weights": "toy-clip"}}, {"cmmd": {"weights": str(tmp_path / "clip")}}]
    with pytest.raises(SpecError, match=r"cmmd@\w{8} is given more than once, on toy-clip and on .*clip: these"):
        resolve_metrics(tiny_sweep("x", evaluate={"metrics": named}))
    other = [named[0], {"fid": {"weights": "toy-clip"}}]
    assert len(resolve_metrics(tiny_sweep("x", evaluate={"metrics": other}))) == 2
