"""Every snippet of the README and of the how-to guides runs, on the results of the README's own sweep."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from loco_core.errors import SpecError
from orchestrator.cli.main import main
from orchestrator.resolve.lookup import resolve
from orchestrator.spec import load_sweep
from tests.support.documents import GUIDES, OF_CLUSTERS, ROOT, Snippet, load, snippets
from tests.support.sweeps import Command

# A smaller sweep of the same shape: the snippets are tested, not the findings.
SMALLER = {"prompts: 8": "prompts: 2", "seeds: 4": "seeds: 2", "steps: 8": "steps: 4"}
ADDED = """\
windows: {sizes: [1, 2], stride: 1}
images: report
edit: {lambdas: [0.1], neurons: [0.05], tokens: [subject], preserve: 1}
evaluate: {prompts: 1, seeds: 1, neighbours: 1, windows: false, attacks: noised_clean}
"""
SMALLER_COMMANDS = {"--prompts 8 --seeds 8": "--prompts 2 --seeds 1", "--trials 32": "--trials 2 --window 12,2"}
# `bench-localizer` takes minutes and has tests of its own.
LONG = "bench-localizer"

YAML = list(snippets(GUIDES, "yaml"))
PARTS = [snippet for snippet in YAML if snippet.file is None]
PYTHON = list(snippets(GUIDES, "python"))
FILES = [snippet for snippet in PYTHON if snippet.file]
# Plug-ins are files; the page on them has tests of its own.
RECIPES = [snippet for snippet in PYTHON if not snippet.file]


def run(line: str, patch: pytest.MonkeyPatch) -> object:
    patch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def named() -> dict[str, list[Snippet]]:
    """Returns the snippets that are files by their names, those of the README first."""
    found: dict[str, list[Snippet]] = {}
    for snippet in (*YAML, *FILES):
        if snippet.file is not None:
            found.setdefault(snippet.file, []).append(snippet)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sweep files of the pages, where their commands have run."""
    folder = tmp_path_factory.mktemp("readme")
    for name, (first, *_) in named().items():
        (folder / name).write_text(first.text)
    smaller = (folder / "sweep.yaml").read_text()
    for long, short in SMALLER.items():
        assert long in smaller
        smaller = smaller.replace(long, short)
    (folder / "sweep.yaml").write_text(smaller + ADDED)
    lines = [line.removeprefix("$ ") for snippet in snippets(GUIDES, "console") for line in snippet.text.splitlines()]
    assert len([line for line in lines if LONG not in line]) >= 8
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    for line in lines:
        for long, short in SMALLER_COMMANDS.items():
            line = line.replace(long, short)
        if LONG not in line:
            assert run(line, patch) in (0, None), line
    patch.undo()
    return folder


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_sweep_files_are_valid(folder: Path) -> None:
    assert resolve(load_sweep(folder / "sweep.yaml")).models[0].n_sites == 16
    assert resolve(load_sweep(folder / "mine.yaml")).models[0].n_sites == 16
    assert [model.id for model in load_sweep(folder / "sd.yaml").models] == ["sd15", "mine"]


def test_the_cluster_file_is_valid_and_checked_without_the_cluster(folder: Path, command: Command) -> None:
    # The commands themselves run on a cluster in test_submit.py.
    code, out, err = command("submit", folder / "cluster.yaml", "--dry-run")
    assert (code, err) == (0, "")
    assert "would run on http://HEAD:8265: python -m orchestrator.cli.main run submitted.yaml" in out


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_of_a_file_fits_into_one(part: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP_FOLDER", str(tmp_path))
    files = named()
    (tmp_path / "sweep.yaml").write_text(files["sweep.yaml"][0].text)
    name = "cluster.yaml" if part.keys & OF_CLUSTERS else "sweep.yaml"
    problems = []
    # Not every kind of cluster takes every key.
    for whole in files[name]:
        rest = {key: value for key, value in yaml.safe_load(whole.text).items() if key not in part.keys}
        (tmp_path / name).write_text(yaml.safe_dump(rest) + part.text)
        try:
            load(tmp_path / name)
        except SpecError as error:
            problems.append(str(error))
        else:
            return
    pytest.fail("\n".join(problems))


@pytest.mark.parametrize(("name", "found"), named().items(), ids=named())
def test_files_of_one_name_are_one(name: str, found: list[Snippet]) -> None:
    # Other than in their comments. Slurm is another cluster.
    texts = [snippet.text for snippet in found if (name, snippet.page.stem) != ("cluster.yaml", "slurm")]
    contents = [yaml.safe_load(text) if name.endswith(".yaml") else text for text in texts]
    assert all(content == contents[0] for content in contents)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_recipe_runs(
    recipe: Snippet, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(recipe.text, recipe.page.name, "exec"), {})
    printed = capsys.readouterr().out
    # A table of results or the scores of pictures: no recipe ends without a number.
    assert re.search(r"\d", printed), printed
