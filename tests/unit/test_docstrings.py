"""The examples in the docstrings of the public faces are true, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import loco_core
import orchestrator

MODULES = (
    "loco_core", "loco_core.face.model", "loco_core.face.edits", "loco_core.face.measures", "orchestrator",
    "orchestrator.face.sweep", "orchestrator.face.results",
)  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> orchestrator.Results:
    """Results of the sweep that the docstrings of `Results` speak of."""
    sweep = orchestrator.Sweep(
        name="example", models=["toy"], attributes=["style/lumio"], windows={"sizes": [1, 2], "stride": 4}, prompts=2,
        seeds=2, generation={"steps": 2, "guidance_scale": 3.0, "batch_size": 16}, scorer="toy-clip",
        controls={"random": 0}, images="report",
    )  # fmt: skip
    return orchestrator.run(sweep, tmp_path_factory.mktemp("example") / "results", "inline", threads=1, progress=False)


@pytest.mark.parametrize("name", MODULES)
def test_examples_say_what_they_show(
    name: str, results: orchestrator.Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    known = {"results": results, "model": loco_core.load_model("toy")}
    done = doctest.testmod(importlib.import_module(name), optionflags=options, extraglobs=known)
    assert done.attempted
    assert not done.failed


def public(package: Any) -> dict[str, Any]:
    """Functions of a face, and what its classes that are made of functions offer."""
    found: dict[str, Any] = {}
    for name in package.__all__:
        item = getattr(package, name)
        if inspect.isfunction(item):
            found[name] = item
        elif item.__module__.startswith((f"{package.__name__}.face",)):
            members = inspect.getmembers(item, inspect.isfunction)
            found |= {f"{name}.{key}": member for key, member in members if not key.startswith("_")}
    return found


@pytest.mark.parametrize("package", [loco_core, orchestrator], ids=lambda package: package.__name__)
def test_every_public_function_says_its_arguments_and_shows_its_use(package: Any) -> None:
    assert len(public(package)) > 8
    for name, function in public(package).items():
        text = inspect.getdoc(function) or ""
        assert ">>> " in text or name == "AppliedEdit.undo", name
        for argument in set(inspect.signature(function).parameters) - {"self"}:
            assert f"{argument}: " in text, (name, argument)
