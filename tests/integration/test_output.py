"""What a command prints may not fit, may have no reader, and may have letters that the terminal has not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forks import run_all

SWEEP = """\
{name: "orté 日本", models: [toy], windows: {sizes: [1], stride: 8}, prompts: 1, seeds: 1, images: none, results: out,
 attributes: [{kind: style, name: "néon ☃", mode: remove, records: [{prompt: "a café, mori", donor: "a café",
   score_text: mori, donor_text: plain, content_text: "a café"}]}],
 generation: {steps: 2, guidance_scale: 3.0, batch_size: 4}, scorer: toy-clip,
 controls: {identity: false, all_sites: false, random: 0}}
"""
INLINE = ("--backend", "inline", "--threads", "1")
Ended = dict[str, list[tuple[list[str], int, str]]]
FULL = "error: the output cannot be written: No space left on device\n"
PRINTING = (
    ["plan", "café.yaml"], ["plan", "café.yaml", "--json"], ["status", "out"], ["status", "out", "--json"],
    ["models"], ["attributes"], ["--help"],
)  # fmt: skip
# Where the output goes: the exit code, and what is said on the standard error.
SINKS = {"full": (1, FULL), "no reader": (1, ""), "closed": (0, ""), "ascii": (0, "")}
WRONG = (["plan", "cafè.yaml"], ["status", "nowhére"], ["models", "tóy"], ["nonsense"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that was run with a terminal of ASCII, whose names have letters that it has not."""
    folder = tmp_path_factory.mktemp("output")
    (folder / "café.yaml").write_text(SWEEP, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", "run", "café.yaml", *INLINE], cwd=folder, check=False,
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    assert rb"n\xe9on" in done.stdout
    return folder


@pytest.fixture(scope="module")
def ended(folder: Path) -> Ended:
    """What all commands end with, by where their output goes; one process imports for them all."""
    commands = [(sink, words) for sink in SINKS for words in (*PRINTING, *WRONG)]
    # The second in the folder of the first.
    commands += [(sink, ["run", "café.yaml", *INLINE]) for sink in ("full", "ascii")]
    found = run_all(folder, commands, seconds=900)
    by_sink: Ended = {sink: [] for sink in SINKS}
    for (sink, _), each in zip(commands, found, strict=True):
        by_sink[sink].append(each)
    return by_sink


@pytest.mark.parametrize("sink", SINKS)
def test_no_command_ends_in_a_traceback_over_its_output(ended: Ended, sink: str) -> None:
    code, said = SINKS[sink]
    found_all = [each for each in ended[sink] if each[0][0] != "run"]
    assert len(found_all) == len(PRINTING) + len(WRONG)
    for words, *found in found_all:
        if words in WRONG:
            assert found[0] in (1, 2), (words, found)
            assert "Traceback" not in str(found[1]), (words, found)
        else:
            assert found == [code, said], words


def test_what_is_printed_is_there_at_once_where_that_is_wanted(folder: Path) -> None:
    code = "import os; from orchestrator.cli import main; main._open_output(); print('there', end=''); os._exit(0)"
    for wanted, printed in (("1", "there"), ("", "")):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, check=False, capture_output=True, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": wanted},
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, printed), done.stderr


def test_a_run_whose_output_is_full_says_so_and_keeps_what_is_done(ended: Ended) -> None:
    (_, code, said), (_, again, error) = (ended[sink][-1] for sink in ("full", "ascii"))
    assert (code, said) == (1, FULL)
    assert (again, error) == (0, "")
