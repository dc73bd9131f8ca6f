"""Runs many commands in forks of one process, which imports once.

`python -m tests.support.forks` reads what to run as JSON.

The input is ``[[sink, [word, ...]], ...]``; a line of the output is ``[words, code, said]``, said being what went to
the standard error. A sink is ``null``, ``full``, ``no reader``, ``closed`` or ``ascii``.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run_all(
    folder: Path, commands: Sequence[tuple[str, Sequence[str]]], seconds: float, env: Mapping[str, str] | None = None
) -> list[tuple[list[str], int, str]]:
    """Runs commands in a folder; returns of each its words, its exit code and what it said on the standard error.

    Args:
        folder: working directory.
        commands: for each the sink that its standard output goes to, and its words.
        seconds: time that all may take together.
        env: variables beside those of this process.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.forks"], cwd=folder, text=True, capture_output=True, check=False,
        input=json.dumps([[sink, list(words)] for sink, words in commands]), timeout=seconds,
        env={**os.environ, "PYTHONPATH": path, **(env or {})},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def _into(sink: str) -> None:
    """Leads the standard output of this process there."""
    if sink == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif sink == "no reader":
        gone, end = os.pipe()
        os.dup2(end, 1)
        os.close(gone)
        os.close(end)
    elif sink == "closed":
        os.close(1)
    else:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _fork(words: list[str], sink: str) -> tuple[int, str]:
    from orchestrator.cli.main import main

    inside, outside = os.pipe()
    child = os.fork()
    if not child:
        os.close(inside)
        os.dup2(outside, 2)
        _into(sink)
        encoding: dict[str, Any] = {"encoding": "ascii" if sink == "ascii" else "utf-8", "closefd": False}
        # As Python opens them at its start.
        sys.stdout = sys.__stdout__ = None if sink == "closed" else open(1, "w", **encoding)  # type: ignore[assignment,misc]  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", errors="backslashreplace", **encoding)  # type: ignore[misc]  # noqa: SIM115
        sys.argv = ["loco-sweep", *words]
        main()
    os.close(outside)
    with open(inside, errors="replace") as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


if __name__ == "__main__":
    # What the commands would import each by itself.
    for name in ("cli.main", "runs.sweep", "runs.status", "reporting", "spec", "submit", "backends.inline"):
        importlib.import_module(f"orchestrator.{name}")
    for name in ("diffusers.schedulers", "rich.console", "rich.table"):
        importlib.import_module(name)
    for sink, words in json.loads(sys.stdin.read()):
        print(json.dumps([words, *_fork(words, sink)]), flush=True)
