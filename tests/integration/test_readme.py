"""Every snippet of the README runs, on the results of the README's own sweep."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.resolve import resolve
from orchestrator.spec import load_sweep
from tests.sweeps import Command

README = (Path(__file__).parents[2] / "README.md").read_text()


SMALLER = {
    "prompts: 8": "prompts: 2", "seeds: 6": "seeds: 2", "sizes: [1, 2, 3, 4]": "sizes: [1, 2]", "steps: 8": "steps: 4",
    ", fact/zandia": "",
}  # fmt: skip
EDITS = """\
edit: {lambdas: [0.1], neurons: [0.05], tokens: [subject], preserve: 1}
evaluate: {prompts: 1, seeds: 1, neighbours: 1, windows: false}
"""


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's sweep files, where its commands have run."""
    folder = tmp_path_factory.mktemp("readme")
    for text in snippets("yaml"):
        name = text.splitlines()[0].removeprefix("# ")
        # A smaller sweep of the same shape: the snippets are tested, not the findings.
        smaller = text + EDITS
        for long, short in SMALLER.items():
            smaller = smaller.replace(long, short)
        (folder / name).write_text(text if name == "cluster.yaml" else smaller)
    lines = [line for snippet in snippets("console") for line in snippet.splitlines()]
    # `bench-localizer` takes minutes and has tests of its own.
    commands = [line.removeprefix("$ loco-sweep ") for line in lines if "bench-localizer" not in line]
    small = {"--prompts 8 --seeds 8": "--prompts 2 --seeds 1", "--trials 32": "--trials 2 --window 12,2"}
    for text, less in small.items():
        commands = [command.replace(text, less) for command in commands]
    assert len(commands) == 9
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    for command in commands:
        patch.setattr(sys, "argv", ["loco-sweep", *shlex.split(command)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code in (0, None), command
    patch.undo()
    return folder


def test_the_sweep_files_are_valid(folder: Path) -> None:
    assert resolve(load_sweep(folder / "sweep.yaml")).models[0].n_sites == 16
    assert [model.id for model in load_sweep(folder / "sd.yaml").models] == ["sd15", "mine"]


def test_the_cluster_file_and_its_commands_are_there(folder: Path, command: Command) -> None:
    # The commands themselves run on a cluster in test_submit.py.
    code, out, err = command("submit", folder / "cluster.yaml", "--dry-run")
    assert (code, err) == (0, "")
    assert "would run on http://HEAD:8265: python -m orchestrator.cli.main run submitted.yaml" in out
    (snippet,) = snippets("sh")
    for line in snippet.splitlines():
        assert command(line.split()[1], "--help")[0] == 0, line


@pytest.mark.parametrize("snippet", snippets("python"), ids=lambda text: text.splitlines()[0].removeprefix("# "))
def test_a_recipe_runs(
    snippet: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(snippet, "README.md", "exec"), {})
    assert "attribute" in capsys.readouterr().out
