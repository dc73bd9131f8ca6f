"""Nobody is asked: neither by libraries that would run code which lies beside weights, nor by anything else."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from loco_core.quiet import quiet_libraries, unasked
from orchestrator.backends.inline import InlineBackend
from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import (
    Attempt,
    BindFailed,
    Unit,
    UnitDone,
    UnitReport,
    Worker,
)


@pytest.fixture(autouse=True)
def willing(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A person who says yes to everything."""
    answers = io.StringIO("y\n" * 100)
    monkeypatch.setattr(sys, "stdin", answers)
    return answers


class Asking:
    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        raise RuntimeError(input("really? "))


def test_a_worker_in_this_process_gets_no_answer(willing: io.StringIO) -> None:
    def make(model: str) -> Worker:
        if model == "asks":
            input("run the custom code? [y/N] ")
        return Asking()

    backend = InlineBackend(make, threads=1)
    backend.start_worker("w", WorkerNeeds(), frozenset())
    backend.bind("w", "asks")
    backend.bind("w", "toy")
    backend.dispatch("w", Unit("u", "sweep", "toy", 0, 0.1, None, WorkerNeeds()), Attempt(1))
    _, failed, _, done = [event for _ in range(4) for event in backend.poll(0)]
    assert isinstance(failed, BindFailed)
    assert isinstance(done, UnitDone)
    assert (failed.error_type, done.report.error_type) == ("EOFError", "EOFError")
    assert sys.stdin is willing
    assert willing.tell() == 0


def test_the_terminal_comes_back_after_an_error(willing: io.StringIO) -> None:
    with pytest.raises(EOFError), unasked():
        input()
    assert input() == "y"


def test_code_beside_weights_is_refused_without_a_question(willing: io.StringIO, tmp_path: Path) -> None:
    from transformers import AutoModel

    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    kinds = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": kinds}))
    quiet_libraries()
    with pytest.raises(ValueError, match="custom code"):
        AutoModel.from_pretrained(tmp_path)
    assert willing.tell() == 0
    assert not marker.exists()


def test_a_process_without_a_terminal_reads_nothing_from_it() -> None:
    code = """
        import os, sys
        from loco_core.quiet import without_terminal
        without_terminal()
        print(os.readlink("/proc/self/fd/0"), repr(sys.stdin.read()), repr(os.read(0, 1)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], input="y\n", capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{os.devnull} '' b''\n"
