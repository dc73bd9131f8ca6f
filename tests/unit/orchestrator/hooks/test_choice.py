"""The key `hooks`: what it takes, what is refused before anything runs, and that it decides nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from loco_core.errors import SpecError
from orchestrator.hooks.choice import makers_of
from orchestrator.resolve.lookup import check_names
from orchestrator.spec import SweepSpec, check_compatible, load_sweep
from orchestrator.spec.mapping import sweep_of
from orchestrator.stages.base import sweep_id
from orchestrator.submit import load_cluster
from orchestrator.submit.bundle import bundle

MINIMAL: dict[str, Any] = {
    "name": "s", "models": ["toy"], "attributes": ["style/lumio"], "scorer": "toy-clip",
}  # fmt: skip
FILE = "class Hook:\n    def __init__(self, folder='x'): pass\n    def on_end(self, end): pass\n"


def test_names_files_and_settings_make_hooks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "sweep.yaml").write_text(
        "name: s\nmodels: toy\nattributes: style/lumio\nscorer: toy-clip\n"
        "hooks: [tensorboard, {wandb: {project: p}}, {./mine.py: {folder: here}}]\n"
    )
    spec = load_sweep(tmp_path / "sweep.yaml")
    check_names(spec)
    assert [maker.name for maker in makers_of(spec)] == ["tensorboard", "wandb", "mine.py"]
    assert spec.all_files == (str(tmp_path / "mine.py"),)
    # Workers execute no hook.
    assert spec.files == ()
    assert SweepSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (["wandbb"], 'no hook "wandbb"; did you mean "wandb"?'),
        (["./none.py"], "no file "),
        ([{"tensorboard": {"dir": "x"}}], "got an unexpected keyword argument 'dir'; its settings are: folder"),
        (["./typo.py"], "nothing calls on_localised; did you mean"),
        (["./empty.py"], "its class Hook has no method; expected some of on_start"),
        (["./broken.py"], "expected Python"),
        (["wandb", {"wandb": {}}], "hook 'wandb' is given more than once"),
        ([{"wandb": {}, "mlflow": {}}], "2 names in one item; expected one hook"),
        ([{"wandb": "x"}], "should be an object"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hooks: list[Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "typo.py").write_text("class Hook:\n    def on_localised(self, found): pass\n")
    (tmp_path / "empty.py").write_text("class Hook:\n    pass\n")
    (tmp_path / "broken.py").write_text("class Hook\n")
    with pytest.raises(SpecError, match=re.escape(message)):
        check_names(sweep_of({**MINIMAL, "hooks": hooks}))


def test_hooks_and_messages_decide_nothing() -> None:
    without = sweep_of(MINIMAL)
    watched = sweep_of({**MINIMAL, "hooks": ["tensorboard"], "notify": "${env:ANY}"})
    assert sweep_id(watched) == sweep_id(without)
    check_compatible(without, watched)
    check_compatible(watched, without)


def test_a_hook_of_ones_own_travels_with_the_job(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "sweep.yaml").write_text(
        "name: s\nmodels: toy\nattributes: style/lumio\nscorer: toy-clip\n"
        "hooks: [tensorboard, {./mine.py: {folder: here}}]\nnotify: ['${env:ANY}']\n"
    )
    (tmp_path / "cluster.yaml").write_text(
        "name: s\nsweep: sweep.yaml\nresults: s3://bucket/s\ncluster: {address: 'http://head:8265'}\n"
    )
    job = tmp_path / "job"
    job.mkdir()
    bundle(load_cluster(tmp_path / "cluster.yaml"), job)
    there = load_sweep(job / "submitted.yaml")
    assert there.hooks == ("tensorboard", {str(job / "own-code" / "mine.py"): {"folder": "here"}})
    assert there.notify is not None
    assert there.notify.to == ("${env:ANY}",)
    check_names(there)
