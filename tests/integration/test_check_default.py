"""A pipeline of a class that has no family, from ``check`` to results."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest

from orchestrator.store import open_store
from tests.support.sweeps import Command, tiny_sweep
from tests.support.tiny_own import OwnPipeline, build_own

SAID = "tiny is a OwnPipeline, which has no family: the default family serves it, "
QUICK = (
    "--steps",
    "2",
    "--seeds",
    "1",
    "--device",
    "cpu",
    "--json",
    "--scorer",
    "toy-clip",
    "--attribute",
    "style/lumio",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(diffusers, "OwnPipeline", OwnPipeline, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


def write(folder: Path, **changes: object) -> None:
    sweep = tiny_sweep(folder, attributes=["style/velor"], prompts=1, seeds=1, **changes)
    Path("sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))


def test_it_is_checked_planned_and_run(command: Command, folder: Path) -> None:
    write(build_own(folder))
    code, out, err = command("plan", "sweep.yaml")
    assert code == 0, out + err
    assert f"family:  {SAID}not checked: loco-sweep check {folder}\n" in out
    code, out, err = command("check", folder, *QUICK)
    assert code == 0, out + err
    found = json.loads(out)
    states = {each["name"]: each["state"] for each in found["checks"]}
    assert (found["family"], found["pipeline"], found["sites_found"]) == ("default", "OwnPipeline", 3)
    assert {states[name] for name in ("sites", "pictures", "identity", "all_sites", "batch")} == {"passed"}
    code, out, err = command("run", "sweep.yaml", "--backend", "inline", "--results", "results")
    assert code == 0, out + err
    assert f"{SAID}checked on cpu, float32, " in out
    scores = open_store("results").read("scores")
    assert scores.num_rows > 0
    assert set(scores["family"].to_pylist()) == {"default"}
    # Others of its class are others.
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "steps_offset": 1}))
    code, out, err = command("plan", "sweep.yaml")
    assert code == 0, out + err
    assert f"{SAID}another model of the class was checked, this was not: loco-sweep check {folder}\n" in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"interventions": [{"tokens": "words"}]}, "which does not know which tokens are words"),
        ({"generation": {"steps": 2, "height": 32}}, "takes no height and width; expected no generation.height"),
        ({"localize": {"localizer": "causal_tracing"}}, "whose models cannot be traced by causal_tracing"),
    ],
)
def test_what_it_cannot_do_is_refused_at_plan(
    command: Command, folder: Path, changes: dict[str, object], said: str
) -> None:
    write(build_own(folder), **changes)
    code, _, err = command("plan", "sweep.yaml")
    assert code == 2
    assert said in err


def test_what_cannot_be_served_is_one_line(command: Command, folder: Path) -> None:
    write(build_own(folder, unconditional_first=True))
    for words in (("check", folder), ("plan", "sweep.yaml"), ("run", "sweep.yaml", "--backend", "inline")):
        code, _, err = command(*words)
        assert code != 0
        assert "guidance runs the unconditional half first" in err
        assert err.count("\n") == 1, err
