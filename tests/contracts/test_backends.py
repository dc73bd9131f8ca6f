"""What every backend must do, run on each of them with workers that obey their units."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.backends.inline import InlineBackend
from orchestrator.scheduler.loop import Patience, StopSwitch, run_units
from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.progress import Progress, RunSummary
from orchestrator.scheduler.protocol import (
    Attempt,
    Backend,
    BackendEvent,
    Settled,
    Unit,
    UnitReport,
    Worker,
    WorkerReady,
)
from tests.support.planners import Derived


@dataclass(frozen=True)
class Orders:
    """What a fake worker does with a unit: one word an attempt, the last one from then on."""

    folder: str
    attempts: tuple[str, ...] = ("ok",)


class FakeWorker:
    """Commits by creating a file that must not exist yet, as the store does."""

    def __init__(self, model: str) -> None:
        if model.startswith("broken"):
            raise ValueError(f"{model} is not a model")
        self.model = model

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        orders: Orders = unit.payload
        folder = Path(orders.folder)
        with (folder / "log").open("a") as log:
            log.write(f"{unit.unit_id} {attempt.number} {attempt.row_by_row} {self.model} {os.getpid()}\n")
        word = orders.attempts[min(attempt.number, len(orders.attempts)) - 1]
        if (folder / unit.unit_id).exists():
            return UnitReport(unit.unit_id, attempt.number, "already")
        if word == "raise":
            raise RuntimeError("no\nluck")
        if word == "exit":
            sys.exit(7)
        if word == "wait":
            time.sleep(0.3)
        try:
            (folder / unit.unit_id).open("x").close()
        except FileExistsError:
            return UnitReport(unit.unit_id, attempt.number, "already")
        return UnitReport(unit.unit_id, attempt.number, "committed", rows=4, invalid=1)


def make_worker(model: str) -> Worker:
    return FakeWorker(model)


@dataclass
class MemoryJournal:
    """Keeps what the store would."""

    attempts: dict[str, int] = field(default_factory=dict)
    records: list[dict[str, int]] = field(default_factory=list)
    given_up: dict[str, UnitReport] = field(default_factory=dict)

    def committed(self, unit: Unit) -> bool:
        return (Path(unit.payload.folder) / unit.unit_id).exists()

    def previous(self) -> Mapping[str, int]:
        return self.attempts

    def record(self, attempts: Mapping[str, int]) -> None:
        self.records.append(dict(attempts))

    def give_up(self, unit: Unit, report: UnitReport) -> None:
        self.given_up[unit.unit_id] = report


@pytest.fixture(scope="module", params=["inline", "ray"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    if request.param == "inline":
        yield InlineBackend(make_worker, threads=1)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        import ray.cloudpickle

        from orchestrator.backends.ray.backend import RayBackend

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        ray_backend = RayBackend(make_worker, workers=2, threads=1)
        yield ray_backend
        ray_backend.shutdown()


def unit(folder: Path, number: int, *attempts: str, model: str = "a") -> Unit:
    return Unit(f"unit-{number:02d}", "sweep", model, number, 1.0, Orders(str(folder), attempts or ("ok",)))


def run(
    backend: Backend,
    units: Sequence[Unit],
    journal: MemoryJournal | None = None,
    *,
    max_failures: int | None = None,
    stop: StopSwitch | None = None,
    on_progress: list[Progress] | None = None,
) -> RunSummary:
    seen: list[Progress] = [] if on_progress is None else on_progress
    return run_units(
        backend,
        Derived(units),
        journal or MemoryJournal(),
        seen.append,
        stop or StopSwitch(),
        max_failures=max_failures,
        patience=Patience(floor=20.0),
    )


def log(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def committed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "log")


def test_every_unit_is_committed_once(backend: Backend, tmp_path: Path) -> None:
    units = [unit(tmp_path, n, model="ab"[n // 6]) for n in range(12)]
    progress: list[Progress] = []
    journal = MemoryJournal()
    summary = run(backend, units, journal, on_progress=progress)
    assert (summary.outcome, summary.left, summary.failures) == ("done", 0, ())
    # An idle worker runs what another one is at, and may be the first to say that it is committed already.
    assert summary.committed + summary.already == 12
    assert (summary.rows, summary.invalid) == (4 * summary.committed, summary.committed)
    assert committed(tmp_path) == [u.unit_id for u in units]
    assert progress[-1].done == 12
    assert progress[-1].left == 0
    assert journal.records[-1] == {}


def test_a_failing_unit_is_tried_again_then_row_by_row_then_given_up(backend: Backend, tmp_path: Path) -> None:
    units = [
        unit(tmp_path, 0, "raise"),
        unit(tmp_path, 1, "raise", "raise", "ok"),
        unit(tmp_path, 2, "exit"),
        *(unit(tmp_path, n) for n in (3, 4)),
    ]
    journal = MemoryJournal()
    summary = run(backend, units, journal)
    assert summary.outcome == "done"
    assert committed(tmp_path) == ["unit-01", "unit-03", "unit-04"]
    assert sorted(journal.given_up) == ["unit-00", "unit-02"]
    assert summary.failures == tuple(journal.given_up[r.unit_id] for r in summary.failures)
    raised = journal.given_up["unit-00"]
    assert (raised.error_type, raised.error, raised.attempt) == (
        "RuntimeError",
        "no luck (contracts/test_backends.py, line 56)",
        3,
    )
    assert "exit" in (journal.given_up["unit-02"].error or "").lower()
    tries = [(line[1], line[2]) for line in log(tmp_path) if line[0] == "unit-01"]
    assert tries == [("1", "False"), ("2", "False"), ("3", "True")]


def test_a_failed_unit_keeps_its_error_where_the_next_one_kills_its_worker(backend: Backend, tmp_path: Path) -> None:
    units = [unit(tmp_path, n, "exit" if n % 2 else "raise") for n in range(4)]
    journal = MemoryJournal()
    summary = run(backend, units, journal)
    assert summary.outcome == "done"
    own = {name for name, report in journal.given_up.items() if report.error_type == "RuntimeError"}
    assert (own, len(journal.given_up)) == ({"unit-00", "unit-02"}, 4)


def test_a_model_that_does_not_load_costs_its_units_and_no_others(backend: Backend, tmp_path: Path) -> None:
    units = [unit(tmp_path, n, model="broken" if n < 3 else "a") for n in range(6)]
    summary = run(backend, units)
    assert [r.unit_id for r in summary.failures] == ["unit-00", "unit-01", "unit-02"]
    assert {r.error for r in summary.failures} == {"broken is not a model (contracts/test_backends.py, line 44)"}
    assert committed(tmp_path) == ["unit-03", "unit-04", "unit-05"]


def test_units_of_a_run_before_count_as_already_done(backend: Backend, tmp_path: Path) -> None:
    run(backend, [unit(tmp_path, n) for n in range(3)])
    summary = run(backend, [unit(tmp_path, n) for n in range(5)])
    assert (summary.committed, summary.already) == (2, 3)


def test_units_derived_from_others_run_in_the_same_run(backend: Backend, tmp_path: Path) -> None:
    def following(done: Sequence[Settled]) -> Sequence[Unit]:
        return [unit(tmp_path, 10 + int(s.unit.unit_id[-2:])) for s in done if s.unit.order < 30]

    planner = Derived([unit(tmp_path, 0)], following)
    summary = run_units(backend, planner, MemoryJournal(), lambda progress: None, StopSwitch())
    assert summary.outcome == "done"
    assert committed(tmp_path) == ["unit-00", "unit-10", "unit-20", "unit-30"]


def test_stopped_once_it_finishes_what_runs_and_resumes(backend: Backend, tmp_path: Path) -> None:
    units = [unit(tmp_path, n, "wait") for n in range(24)]
    stop = StopSwitch()
    journal = MemoryJournal()

    def following(done: Sequence[Settled]) -> Sequence[Unit]:
        stop.press()
        return ()

    summary = run_units(backend, Derived(units, following), journal, lambda progress: None, stop)
    assert summary.outcome == "stopped"
    assert summary.left == 24 - summary.committed
    # What ran, and what was done before a slow driver had seen the first report.
    assert 1 <= summary.committed <= 12
    assert journal.records[-1] == {}
    assert run(backend, units).left == 0
    assert committed(tmp_path) == [u.unit_id for u in units]


def test_stopped_twice_it_stops_at_once(backend: Backend, tmp_path: Path) -> None:
    stop = StopSwitch()
    stop.press()
    stop.press()
    summary = run(backend, [unit(tmp_path, 0)], stop=stop)
    assert (summary.outcome, summary.left) == ("stopped", 1)
    assert committed(tmp_path) == []


def test_too_many_failures_stop_the_run(backend: Backend, tmp_path: Path) -> None:
    units = [unit(tmp_path, n, "raise", model="a") for n in range(30)]
    summary = run(backend, units, max_failures=1)
    assert summary.outcome == "too_many_failures"
    assert summary.left > 0


def test_a_killed_worker_reports_nothing(backend: Backend, tmp_path: Path) -> None:
    backend.start_worker("w", WorkerNeeds(), frozenset())
    events: list[BackendEvent] = []
    while not events:
        events = list(backend.poll(1.0))
    assert [type(event) for event in events] == [WorkerReady]
    backend.bind("w", "a")
    backend.dispatch("w", unit(tmp_path, 0, "wait"), Attempt(1))
    backend.kill("w")
    backend.kill("w")
    assert [e for _ in range(3) for e in backend.poll(0.2)] == []
