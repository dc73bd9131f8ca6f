from __future__ import annotations

import os

import pytest

from loco_core.errors import StoreError
from orchestrator.scheduler.host import MESSAGE_LENGTH, THREAD_VARIABLES, WorkerHost, failure
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport, Worker

UNIT = Unit("u", "sweep", "a", 0, 1.0, None)


class Loader:
    """Makes workers and knows which are still alive."""

    alive = 0

    def __call__(self, model: str) -> Worker:
        assert Loader.alive == 0, "two models in memory at once"
        return Model(model)


class Model:
    def __init__(self, name: str) -> None:
        self.name = name
        Loader.alive += 1

    def __del__(self) -> None:
        Loader.alive -= 1

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        if self.name == "bad":
            raise MemoryError("x\n" * 1000)
        if self.name == "refused":
            raise StoreError("no space left")
        return UnitReport(unit.unit_id, attempt.number, "committed")


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "9")


def test_a_report_carries_the_name_of_its_worker() -> None:
    host = WorkerHost("worker-007", Loader(), 1)
    host.bind("good")
    assert host.run(UNIT, Attempt(2)) == UnitReport("u", 2, "committed", worker="worker-007")


def test_an_exception_is_a_failed_report_on_one_short_line() -> None:
    host = WorkerHost("w", Loader(), 1)
    host.bind("bad")
    report = host.run(UNIT, Attempt(1))
    assert (report.outcome, report.error_type) == ("failed", "MemoryError")
    assert report.error is not None
    assert "\n" not in report.error
    assert len(report.error) <= MESSAGE_LENGTH


def test_results_that_cannot_be_stored_are_not_the_units_fault() -> None:
    host = WorkerHost("w", Loader(), 1)
    host.bind("refused")
    report = host.run(UNIT, Attempt(1))
    assert (report.outcome, report.error_type, report.error) == ("unstored", "StoreError", "no space left")


def test_the_model_before_leaves_the_memory_first() -> None:
    host = WorkerHost("w", Loader(), 1)
    for model in ("good", "bad", "good"):
        host.bind(model)


def test_threads_are_set_before_the_model_is_loaded() -> None:
    def make_worker(model: str) -> Worker:
        assert {os.environ[name] for name in THREAD_VARIABLES} == {"3"}
        return Model(model)

    WorkerHost("w", make_worker, 3).bind("good")


def test_an_error_that_nobody_wrote_for_a_person_says_where_it_arose() -> None:
    with pytest.raises(MemoryError) as raised:
        Model("bad").run(UNIT, Attempt(1))
    line = failure(raised.value)
    assert (line.endswith(" (scheduler/test_host.py, line 34)"), len(line)) == (True, MESSAGE_LENGTH)
    assert failure(StoreError("no space left")) == "no space left"
