"""What is checked in a process of its own fails as if it had been checked here, and is checked once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from loco_core.diffusion.checks import Checks, Steps, check
from loco_core.errors import ModelError, SpecError
from orchestrator.resolve.apart import apart, once


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Makes this process look like one without torch, with an empty cache."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def steps(count: int) -> Checks:
    wanted = Steps("mine", "DDIMScheduler", {"num_train_timesteps": 100}, None, count, False, ("models", 1))
    return Checks((), (wanted,), (), None, (), None)


def test_a_process_of_its_own_answers_whatever_lies_in_the_folder_and_on_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise RuntimeError('of somebody else')")
    monkeypatch.chdir(tmp_path)
    assert apart(os.getpid) != os.getpid()
    assert apart(print, "not an answer") is None


def test_an_error_arrives_with_its_place() -> None:
    with pytest.raises(SpecError, match="mine: DDIMScheduler cannot take 200 steps") as error:
        once(check, steps(200))
    assert error.value.loc == ("models", 1)


def test_a_process_that_ends_without_an_answer_is_told_of() -> None:
    with pytest.raises(ModelError, match="process that was to check models has failed: it ended with 9"):
        apart(os._exit, 9)
    with pytest.raises(ModelError, match=r"ZeroDivisionError: .*by zero"):
        apart(divmod, 1, 0)


def test_what_was_found_right_is_not_looked_at_again_until_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    once(check, steps(50))
    monkeypatch.setattr(sys, "executable", "/nowhere")
    once(check, steps(50))
    with pytest.raises(FileNotFoundError):
        once(check, steps(60))


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    once(check, steps(50))
