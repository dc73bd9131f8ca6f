"""What is looked up of the weights that metrics read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loco_core.errors import ModelError, SpecError
from loco_core.scoring.metric import load_picture_metric, metric_info
from loco_core.toyworld import WEIGHTS
from orchestrator.resolve.metrics import check_metrics, check_sides, resolve_metrics
from orchestrator.runs.session import _check_commit
from tests.support.edit_specs import TOY
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


def test_weights_on_the_hub_may_be_named_with_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metric's own weights, too; results hold the commit."""
    shutil.copytree(WEIGHTS / "clip", whole := tmp_path / "whole")
    own = metric_info("cmmd").weights
    assert own is not None
    with serving({"owner/whole": whole, own: whole}) as hub:
        redirect(monkeypatch, hub, tmp_path / "cache")
        for settings in ({"weights": "owner/whole", "revision": "main"}, {"revision": "main"}):
            (found,) = resolve_metrics(tiny_sweep("x", evaluate={"metrics": [{"cmmd": settings}]}))
            assert (found.revision, found.asked, found.digest) == (COMMIT, "main", f"hub:{COMMIT}")
        gone = tiny_sweep("x", evaluate={"metrics": [{"cmmd": {"weights": "owner/whole", "revision": "gone"}}]})
        with pytest.raises(ModelError, match=r"owner/whole.* cannot be had"):
            resolve_metrics(gone)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ({"cmmd": {"weights": "toy-clip", "revision": "main"}}, "revision main is given, but .* is no hub id"),
        ({"ssim": {"revision": "main"}}, "ssim reads no weights, which could have a revision; expected ssim alone"),
    ],
)
def test_a_revision_of_what_is_not_on_the_hub_is_refused(metric: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        check_metrics(tiny_sweep("x", evaluate={"metrics": [metric]}))


def test_a_name_that_stands_for_another_commit_is_refused_unless_the_sweep_says_which() -> None:
    def pinned(revision: str, asked: str | None = None) -> dict[str, Any]:
        said = {
            "source": "cmmd",
            "sets": True,
            "path": "owner/whole",
            "revision": revision,
            "digest": f"hub:{revision}",
        }
        return said if asked is None else {**said, "asked": asked}

    first, second = "a" * 40, "b" * 40
    before = {"cmmd@1": pinned(first)}
    _check_commit("r", "cmmd@1", pinned(first), before)
    _check_commit("r", "cmmd@2", pinned(second, second), before)
    _check_commit("r", "cmmd@2", {**pinned(second), "path": "owner/other"}, before)
    for asked, branch in ((None, "its main branch"), ("main", "main")):
        earlier = {"cmmd@1": pinned(first, asked)}
        said = f"commit {first[:12]}, {branch} is now {second[:12]}; put revision: {first} beside it to keep that"
        with pytest.raises(SpecError, match=said):
            _check_commit("r", "cmmd@2", pinned(second, asked), earlier)


def test_pictures_without_a_whole_window_are_refused_at_plan_and_by_ssim() -> None:
    small = tiny_sweep("x", evaluate={"metrics": ["ssim"]}, generation={"height": 8, "width": 64, "steps": 1})
    with pytest.raises(SpecError, match="ssim compares pictures of 11 x 11 pixels or more; those of toy are 8 x 64"):
        check_sides(small, [TOY])
    large = small.model_copy(update={"generation": small.generation.model_copy(update={"height": 11})})
    check_sides(large, [TOY])
    ssim = load_picture_metric("ssim", "", None, "cpu")
    assert np.isfinite(ssim.compare(torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11))).all()
    with pytest.raises(SpecError, match="ssim reads windows of 11 x 11 pixels; a picture of 10 x 64 holds none"):
        ssim.compare(torch.zeros(1, 3, 10, 64), torch.ones(1, 3, 10, 64))
