"""A place means one thing, whoever names it and wherever a command is called."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from loco_core.toyworld import WEIGHTS
from orchestrator.spec import load_sweep
from orchestrator.store import decode_document, open_store
from tests.support.sweeps import Command

SWEEP: dict[str, Any] = {
    "name": "places", "models": [{"id": "mine", "path": "../models/toy"}], "attributes": ["style/lumio"],
    "windows": {"sizes": [1], "stride": 8}, "prompts": 1, "seeds": 1,
    "generation": {"steps": 2, "guidance_scale": 3.0, "batch_size": 4}, "scorer": "../models/clip",
    "controls": {"identity": False, "all_sites": False, "random": 0}, "images": "none", "results": "~/x",
}  # fmt: skip
INLINE = ("--backend", "inline", "--threads", "1")


def project(folder: Path, **changes: Any) -> Path:
    """Fills a folder with a model, a scorer and a sweep that names both; returns the sweep's file."""
    for name in ("toy", "clip"):
        if not (folder / "models" / name).exists():
            shutil.copytree(WEIGHTS / name, folder / "models" / name)
    file = folder / "sweeps" / "sweep.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return file


def ids(results: Path) -> tuple[str | None, set[str], set[str]]:
    """Returns the identities of a sweep, its units and its cells."""
    store = open_store(str(results))
    return store.sweep_id(), set(store.committed()), set(pd.read_parquet(results / "scores").cell_id)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that goes to a folder of a name, and has a scratch home."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))

    def go(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        return folder

    return go


def test_a_sweep_goes_on_from_any_working_directory(elsewhere: Any, tmp_path: Path, command: Command) -> None:
    file, results = project(tmp_path), tmp_path / "home" / "x"
    elsewhere("a/b")
    assert command("run", "../../sweeps/sweep.yaml", *INLINE)[0] == 0
    begun = ids(results)
    assert (len(begun[1]), len(begun[2])) == (1, 4)

    project(tmp_path, seeds=2)
    elsewhere("models")
    assert "1 units left" not in command("plan", file)[1]
    code, printed, _ = command("run", "../sweeps/sweep.yaml", *INLINE)
    assert (code, "0 units left" in printed) == (0, True)
    grown = ids(results)
    assert grown[0] == begun[0]
    assert (len(grown[1] - begun[1]), begun[1] <= grown[1], begun[2] <= grown[2]) == (1, True, True)

    # From what is stored alone, from a third one and from the first.
    for folder, name in (("sweeps", "~/x"), ("a/b", "../../home/x"), ("home", "x")):
        elsewhere(folder)
        assert command("retry", name, *INLINE)[0] == 0
        for words in (("status",), ("verify",), ("localize", "--write"), ("report",)):
            code, printed, error = command(words[0], name, *words[1:])
            assert (code, error) == (0, ""), printed
        assert ids(results) == grown
    assert (results / "report.html").is_file()
    assert not list(tmp_path.glob("**/~*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "home", "models", "sweeps"]


def test_what_is_stored_is_absolute(elsewhere: Any, tmp_path: Path, command: Command) -> None:
    file = project(tmp_path)
    elsewhere("away")
    command("run", file, "--results", "../out", *INLINE)
    content = decode_document((tmp_path / "out" / "_meta" / "sweep.json").read_bytes(), "sweep.json")["spec"]
    assert content["models"][0]["path"] == str(tmp_path / "models" / "toy")
    assert content["scorer"] == str(tmp_path / "models" / "clip")
    assert content["results"] == str(tmp_path / "home" / "x")


def test_identities_do_not_tell_where_anything_lies(elsewhere: Any, tmp_path: Path, command: Command) -> None:
    """A project that was moved, results and all, goes on; another copy of it makes the same cells."""
    file = project(tmp_path / "one", results="../out")
    elsewhere("away")
    assert command("run", file, *INLINE)[0] == 0
    first = ids(tmp_path / "one" / "out")
    (tmp_path / "deep").mkdir()
    shutil.move(tmp_path / "one", tmp_path / "deep" / "two")
    moved = tmp_path / "deep" / "two"
    assert "units:   0" in command("plan", moved / "sweeps" / "sweep.yaml")[1]
    code, printed, error = command("run", moved / "sweeps" / "sweep.yaml", *INLINE)
    assert (code, error) == (0, ""), printed
    assert ids(moved / "out") == first
    assert load_sweep(moved / "sweeps" / "sweep.yaml").results == str(moved / "out")

    again = project(tmp_path / "three", results="../out", models=[{"id": "mine", "path": str(moved / "models/toy")}])
    assert command("run", again, *INLINE)[0] == 0
    assert ids(tmp_path / "three" / "out") == first

    # Other weights in their place are another model all the same, and plan says so.
    (moved / "models" / "toy" / "model_index.json").write_text(
        (moved / "models" / "toy" / "model_index.json").read_text() + "\n"
    )
    code, _, error = command("plan", moved / "sweeps" / "sweep.yaml")
    assert code == 2
    assert "were made with weights" in error


def test_results_are_here_where_nobody_says_where(elsewhere: Any, tmp_path: Path, command: Command) -> None:
    file = project(tmp_path, results=None)
    here = elsewhere("here")
    code, printed, _ = command("run", file, *INLINE)
    assert code == 0
    assert (here / "results" / "places" / "scores").is_dir()
    assert f"results: {here / 'results' / 'places'}" in printed
    cluster = tmp_path / "sweeps" / "cluster.yaml"
    cluster.write_text("{name: c, sweep: sweep.yaml, results: ../here/results/places, cluster: {local: true}}")
    elsewhere("a")
    for words in (("status",), ("report",), ("verify",), ("localize",)):
        assert command(*words, cluster)[0] == 0
