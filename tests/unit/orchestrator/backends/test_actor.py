"""What one worker's process does with units that were queued behind a failed one."""

from __future__ import annotations

import pytest

from orchestrator.backends.ray import actor
from orchestrator.scheduler.host import THREAD_VARIABLES
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport

UNITS = Unit("bad", "sweep", "model", 0, 1.0, None), Unit("good", "sweep", "model", 1, 1.0, None)


class Worker:
    """Fails at units whose name says so, and remembers all that it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        self.given.append(unit.unit_id)
        if "bad" in unit.unit_id:
            raise ValueError(unit.unit_id)
        return UnitReport(unit.unit_id, attempt.number, "committed")


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def process(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> actor.WorkerActor:
    # These change the whole process, here that of the tests.
    for name in ("without_terminal", "mask_everything"):
        monkeypatch.setattr(actor, name, lambda: None)
    monkeypatch.setattr(actor.faulthandler, "enable", lambda: None)
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")
    made = actor.WorkerActor("w", lambda model: worker, 1)
    made.bind("model")
    return made


def test_units_behind_a_failed_one_wait_until_the_driver_has_its_report(
    process: actor.WorkerActor, worker: Worker
) -> None:
    first, second = UNITS
    report = process.run(first, Attempt(1), 0)
    assert report is not None
    assert (report.outcome, report.error_type) == ("failed", "ValueError")
    assert process.run(second, Attempt(1), 0) is None
    assert worker.given == ["bad"]
    report = process.run(second, Attempt(1), 1)
    assert report is not None
    assert report.outcome == "committed"
    # What is well needs no answer.
    assert process.run(second, Attempt(2), 1) is not None
