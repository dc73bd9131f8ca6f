"""Help as a person reads it at 80 columns, and the words that people try first."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from orchestrator import __version__
from orchestrator.cli import main
from tests.support.sweeps import Command

LONGEST = 45


def test_every_command_is_in_one_group_with_its_whole_summary(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    listed = [name for commands in main.GROUPS.values() for name, _ in commands]
    assert len(listed) == len(set(listed))
    group = typer.main.get_command(main.app)
    assert set(listed) == set(group.commands)  # type: ignore[attr-defined]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for name in listed:
        summary = group.commands[name].get_short_help_str(limit=1000)  # type: ignore[attr-defined]
        assert 0 < len(summary) <= LONGEST, name
        assert f"{name} {summary}" in lines
    assert [line for line in lines if line.removesuffix(":") in main.GROUPS] == [f"{name}:" for name in main.GROUPS]
    assert "..." not in out.partition("Start:")[2]


def test_short_words_for_help_and_version(command: Command) -> None:
    assert command("-h")[:2] == command("--help")[:2]
    assert command("run", "-h")[1].startswith("Usage: ")
    assert command("--version") == (0, f"loco-sweep {__version__}\n", "")


def test_shells_complete_the_names_of_commands() -> None:
    asked = {"_LOCO_SWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "loco-sweep re", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['loco-sweep']; from orchestrator.cli.main import main; main()"],
        check=False, capture_output=True, text=True, env={**os.environ, **asked},
    )  # fmt: skip
    assert {"report", "reproduce", "resume", "retry"} == set(done.stdout.split())


def test_init_without_a_kind_writes_a_sweep_that_runs_as_it_is(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("init", "--folder", tmp_path / "new")
    sweep = tmp_path / "new" / "sweep.yaml"
    assert code == 0
    assert str(sweep) in out
    code, out, err = command("plan", sweep)
    assert (code, err) == (0, "")
    assert "warning" not in out
    code, _, err = command("init", "--folder", tmp_path / "new")
    assert (code, err.count("\n"), "exists already" in err) == (2, 1, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seeds=1"], "warning: this sweep is too small to localize anything: fewer than"),
        (["seeds=4", "prompts=2"], "warning: this sweep is too small to localize anything: 2 x 4 pictures of a window"),
        (["scorer=toy-clip", "generation.height=512", "generation.width=512"], "pictures of 64 pixels, not of 512"),
        (["generation.height=512", "generation.width=512"], "warning: style/lumio in toy: attributes of the bundled"),
        (["localize.localizer=argmin"], "power:   argmin always picks a window, without a bound"),
        ([], "power:   a window that removes everything is found in 97 of 100 sweeps; one that removes 0.9 in 20"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_plan_says_what_a_sweep_can_show_and_what_cannot_mean_anything(
    command: Command, tmp_path: Path, words: list[str], expected: str
) -> None:
    command("init", "--folder", tmp_path)
    code, out, _ = command("plan", tmp_path / "sweep.yaml", *words)
    assert code == 0
    assert expected in out


def test_a_sweep_may_come_from_the_standard_input(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("init", "--folder", tmp_path)
    text = (tmp_path / "sweep.yaml").read_text()
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert command("plan", "-", "--json")[1] == command("plan", tmp_path / "sweep.yaml", "--json")[1]
    monkeypatch.setattr("sys.stdin", io.StringIO(text.replace("seeds: 4", "seeds: many")))
    code, _, err = command("plan", "-")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: <stdin>:")


def test_what_is_typed_with_the_wrong_file_is_told_the_right_command(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command("init")
    (tmp_path / "cluster.yaml").write_text("name: c\nsweep: sweep.yaml\nresults: out\ncluster: {local: true}\n")
    (tmp_path / "broken.yaml").write_text("name: c\nsweep: sweep.yaml\nresults: out\ncluster: local\n")
    for number in range(8):
        (tmp_path / f"zz{number}.yaml").write_text("")
    for words, expected in (
        (
            ("run", "other"),
            "no such file; expected a sweep file in YAML; known: broken.yaml, cluster.yaml, "
            "sweep.yaml, zz0.yaml, zz1.yaml and 6 more",
        ),
        (("run", "sweep.yaml", "--budget", "5"), "--budget 5: 5 of what? expected gpu_hours=100, hours=12 or cost=250"),
        (("submit", "sweep.yaml"), "this is a sweep file; expected a cluster file"),
        (("submit", "sweep.yaml"), "`loco-sweep submit cluster.yaml` submits it"),
        (("logs", "sweep.yaml"), "this is a sweep file"),
        (("run", "cluster.yaml"), "`loco-sweep submit cluster.yaml` runs its sweep there"),
        (("status", "sweep.yaml"), "nothing has run yet"),
        (("view", "cluster.yaml"), "`loco-sweep submit cluster.yaml` begins"),
        (("retry", "sweep.yaml"), "nothing has run yet"),
        (("submit", "cluster.yaml", "seds=3", "--dry-run"), "seds=3: unknown key 'seds'"),
    ):
        code, out, err = command(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), words
        assert expected in err
    plain, of_cluster = (json.loads(command("plan", name, "--json")[1]) for name in ("sweep.yaml", "cluster.yaml"))
    assert of_cluster.pop("bill")["workers"] >= 1
    assert plain == of_cluster
    out = command("submit", "cluster.yaml", "seeds=3", "name=other", "--dry-run")[1]
    assert '"seeds": [\n  0,\n  1,\n  2\n ]' in out
