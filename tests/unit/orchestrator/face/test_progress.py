"""What a person reads of a run's progress, also on a terminal of 80 columns."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from orchestrator.face import progress as face
from orchestrator.face.progress import progress_text, reporter
from orchestrator.scheduler.progress import Progress

BUSY = Progress(
    done=1200, failed=2, left=3600, running=8, workers=8, rate=113.6, eta_seconds=5300, losses=3, before=192
)  # fmt: skip


def test_workers_that_compute_are_never_said_to_start() -> None:
    text = progress_text(Progress(left=96, running=2, workers=2))
    assert text == "0/96 units, 2 workers at work"
    assert progress_text(Progress(left=96, pending=1)) == "0/96 units, 1 worker starting"


def test_what_is_loaded_is_named() -> None:
    text = progress_text(Progress(left=96, pending=3, loading=("sd15", "sdxl", "toy")))
    assert text == "0/96 units, loading sd15 and 2 more"
    assert "loading sdxl" in progress_text(
        Progress(left=9, running=1, workers=1, pending=1, rate=2.0, loading=("sdxl",))
    )


def test_what_earlier_runs_did_counts() -> None:
    assert progress_text(Progress(before=40, done=1, left=55, running=1, workers=1)).startswith("41/96 units")


def test_a_stopping_run_has_no_end_in_sight() -> None:
    text = progress_text(Progress(done=3, left=93, running=2, workers=2, rate=5.0, stopping=True))
    assert text == "3/96 units, finishing 2 units"


def test_a_paused_run_says_so() -> None:
    going = Progress(done=3, left=93, running=2, workers=2, rate=5.0, limit=0)
    assert progress_text(going) == "3/96 units, pausing after 2 units"
    assert progress_text(Progress(done=5, left=91, rate=1.0, eta_seconds=9.0, limit=0)) == "5/96 units, paused"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 80 columns is sent."""
    sent = io.StringIO()
    monkeypatch.setattr(
        face, "console", lambda: Console(file=sent, width=80, force_terminal=True, markup=False, highlight=False)
    )
    monkeypatch.setattr(face, "_is_live", lambda: True)
    return sent


def _lines(sent: io.StringIO) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent.getvalue())
    return re.split(r"[\r\n]+", plain)


def test_nothing_of_it_is_cut_at_80_columns(shown: io.StringIO) -> None:
    with reporter() as report:
        report.progress(BUSY)
    assert any(progress_text(BUSY) in line for line in _lines(shown)), _lines(shown)
    assert all(len(line) <= 80 for line in _lines(shown))


def test_ctrl_c_says_once_above_the_bar_what_a_second_one_does(shown: io.StringIO) -> None:
    stopping = Progress(done=3, left=93, running=2, workers=2, rate=5.0, stopping=True)
    with reporter() as report:
        report.progress(BUSY)
        report.progress(stopping)
        report.progress(stopping)
    said = [line for line in _lines(shown) if "a second Ctrl-C stops now" in line]
    assert len(said) == 1
    assert len(said[0].rstrip()) <= 80
    assert any("finishing 2 units" in line for line in _lines(shown))


def test_a_budget_that_is_reached_is_not_taken_for_ctrl_c(shown: io.StringIO) -> None:
    with reporter() as report:
        report.progress(Progress(left=93, running=2, stopping=True, used_up="hours: 5 of 5 hours used"))
    said = " ".join(_lines(shown))
    assert "the budget is reached (hours: 5 of 5 hours used)" in said
    assert "Ctrl-C" not in said
