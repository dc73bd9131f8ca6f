"""Drives the scheduler: polls a backend, writes the journal, watches for stuck workers, and tells how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from loco_core.errors import StoreError
from orchestrator.scheduler.protocol import (
    Action,
    Backend,
    BackendError,
    Bind,
    Dispatch,
    Journal,
    KillWorker,
    Settled,
    StartWorker,
    StopRequested,
    Unit,
    UnitDone,
    UnitReport,
    UnitsAdded,
    WorkerStuck,
)
from orchestrator.scheduler.state import MAX_ATTEMPTS, Scheduler

POLL_SECONDS = 0.5
ROW_BY_ROW_FACTOR = 16.0
"""How much longer a unit may take row by row: each row costs a whole batch of the frozen shape."""

Outcome = Literal["done", "stopped", "too_many_failures", "lease_lost"]
Derive = Callable[[Sequence[Settled]], Sequence[Unit]]
Requests = Callable[[], Sequence[Unit] | None]


class StopSwitch:
    """Asked to stop once, a run finishes the units that are running; asked twice, it stops at once.

    Pressing it is all that a signal handler has to do.
    """

    def __init__(self) -> None:
        self._presses = 0

    def press(self) -> None:
        """Asks once more."""
        self._presses += 1

    @property
    def pressed(self) -> bool:
        """Whether the run shall end after what is running."""
        return self._presses > 0

    @property
    def now(self) -> bool:
        """Whether the run shall end at once."""
        return self._presses > 1


@dataclass(frozen=True)
class Patience:
    """After how long a worker is taken to be stuck, in seconds.

    A unit may take ``multiple`` times what its cost table says, and never has less than ``floor``; loading a model
    may take ``load``.
    """

    multiple: float = 10.0
    floor: float = 300.0
    load: float = 1800.0

    def of(self, unit: Unit, attempt: int) -> float:
        """Returns the seconds allowed for an attempt at a unit."""
        factor = ROW_BY_ROW_FACTOR if attempt >= MAX_ATTEMPTS else 1.0
        return factor * max(self.floor, self.multiple * unit.expected_seconds)


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: units committed, those found committed already included.
        failed: units given up.
        left: units neither committed nor given up, as far as they are known.
        running: units being computed.
        workers: workers that have a model.
        pending: workers that start or load.
        rows: rows computed by this run, the invalid ones included.
        retries: attempts at units that failed.
        losses: workers lost with their machine.
        seconds: since the run began.
        rate: rows a second since the first unit went out; 0 before any is done.
        eta_seconds: until what is known is done, at the pace so far; None before anything is done.
        stopping: whether no new units go out.
    """

    done: int = 0
    failed: int = 0
    left: int = 0
    running: int = 0
    workers: int = 0
    pending: int = 0
    rows: int = 0
    retries: int = 0
    losses: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    eta_seconds: float | None = None
    stopping: bool = False


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        outcome: why it ended; ``done`` says nothing about failures.
        committed: units committed by this run.
        already: units that another attempt or run had committed.
        failures: the last report of every unit that was given up.
        left: units that remain to be done.
        rows: rows that are ok, of the units this run committed.
        invalid: rows whose image is invalid.
        failed_rows: rows recorded as failures of committed units.
        retries: attempts at units that failed.
        losses: workers lost with their machine.
        seconds: wall clock.
        unit_seconds: seconds of workers in units, summed over all attempts that reported.
    """

    outcome: Outcome
    committed: int
    already: int
    failures: tuple[UnitReport, ...]
    left: int
    rows: int
    invalid: int
    failed_rows: int
    retries: int
    losses: int
    seconds: float
    unit_seconds: float


def run_units(
    backend: Backend,
    derive: Derive,
    journal: Journal,
    on_progress: Callable[[Progress], None],
    stop: StopSwitch,
    *,
    heartbeat: Callable[[], bool] = lambda: True,
    max_failures: int | None = None,
    patience: Patience | None = None,
    requests: Requests | None = None,
) -> RunSummary:
    """Runs units until none is left, or it has to stop.

    The backend's workers are ended when this returns or raises; the backend itself stays for its owner to shut down.

    Args:
        backend: where workers run.
        derive: called with no units for those to begin with, then with the units that were settled since the last call,
            in this thread; returns the units that follow from them. Units that are already known are ignored.
        journal: keeps attempts and failures beyond the life of this process.
        on_progress: called a few times a second, in this thread.
        stop: pressed by signal handlers.
        heartbeat: called with every turn of the loop, that is every half second or unit; returns False when the results
            folder belongs to another driver now, whereupon everything stops and nothing more is written.
        max_failures: units that may be given up before the run stops; 0 stops at the first, None never.
        patience: after how long a worker is stuck.
        requests: called with every turn of the loop for units that others ask for meanwhile; until it returns None,
            workers are kept however little there is to do.

    Returns:
        How it ended.

    Raises:
        BackendError: workers cannot be had.
        StoreError: nothing that workers compute can be stored.
    """
    run = _Run(backend, derive, journal, max_failures, patience or Patience(), requests)
    outcome: Outcome | None = None
    try:
        run.begin()
        while outcome is None:
            if not heartbeat():
                outcome = "lease_lost"
                break
            outcome = run.turn(stop)
            on_progress(run.progress())
    finally:
        if outcome is None and not heartbeat():
            outcome = "lease_lost"
        run.end(outcome)
    return run.summary(outcome)


@dataclass
class _Tally:
    committed: int = 0
    already: int = 0
    rows: int = 0
    invalid: int = 0
    failed_rows: int = 0
    unit_seconds: float = 0.0
    expected_done: float = 0.0
    failures: list[UnitReport] = field(default_factory=list)

    def settle(self, settled: Settled) -> None:
        report = settled.report
        if report.outcome == "failed":
            self.failures.append(report)
            return
        if report.outcome == "already":
            self.already += 1
            return
        self.committed += 1
        self.expected_done += settled.unit.expected_seconds
        self.rows += report.rows
        self.invalid += report.invalid
        self.failed_rows += report.failed_rows


class _Run:
    """One run from begin to end; kept apart from run_units for its state."""

    def __init__(
        self,
        backend: Backend,
        derive: Derive,
        journal: Journal,
        max_failures: int | None,
        patience: Patience,
        requests: Requests | None,
    ) -> None:
        charged = journal.previous()
        if backend.isolated:
            # Units cannot have killed that driver, so each deserves a try under this one.
            charged = {unit_id: min(attempts, MAX_ATTEMPTS - 1) for unit_id, attempts in charged.items()}
        self._backend = backend
        self._derive = derive
        self._journal = journal
        self._patience = patience
        self._requests = requests
        self._scheduler = Scheduler(backend.workers, charged, max_failures)
        self._recorded: dict[str, int] | None = None
        self._tally = _Tally()
        self._since: dict[str, tuple[object, float]] = {}
        self._began = time.monotonic()
        self._first_dispatch: float | None = None
        self._stopping = False

    def begin(self) -> None:
        self._scheduler.apply(UnitsAdded(tuple(self._derive(()))))
        self._settle()
        self._act()

    def turn(self, stop: StopSwitch) -> Outcome | None:
        if stop.now:
            return "stopped"
        if not self._over:
            for event in self._backend.poll(POLL_SECONDS):
                if isinstance(event, UnitDone):
                    self._tally.unit_seconds += event.report.seconds
                self._scheduler.apply(event)
        if stop.pressed and not self._stopping:
            self._stopping = True
            self._scheduler.apply(StopRequested())
        self._watch()
        self._settle()
        self._ask()
        self._act()
        if self._scheduler.broken is not None:
            raise BackendError(f"workers do not start: {self._scheduler.broken}")
        if self._scheduler.unstorable is not None:
            raise StoreError(self._scheduler.unstorable)
        if not self._over:
            return None
        if self._scheduler.too_many_failures:
            return "too_many_failures"
        return "stopped" if self._scheduler.left or self._requests is not None else "done"

    @property
    def _over(self) -> bool:
        stopping = self._stopping or self._scheduler.too_many_failures
        return self._scheduler.over and (self._requests is None or stopping)

    def _ask(self) -> None:
        """Takes in what others ask for; when nobody will ask any more, idle workers may go."""
        if self._requests is None:
            return
        wanted = self._requests()
        if wanted is None:
            self._requests = None
        self._scheduler.keep_workers = self._requests is not None
        self._scheduler.apply(UnitsAdded(tuple(wanted or ())))

    def end(self, outcome: Outcome | None) -> None:
        for action in self._scheduler.close():
            self._execute(action)
        if outcome == "lease_lost":
            return  # the journal is its new owner's
        # This process lives, so nothing in flight has killed it. After an error the storage may refuse to note that.
        with suppress(StoreError) if outcome is None else nullcontext():
            self._record({} if outcome == "done" else self._scheduler.attempts())

    def progress(self) -> Progress:
        tally, now = self._tally, time.monotonic()
        rows = tally.rows + tally.invalid
        working = now - self._first_dispatch if self._first_dispatch is not None else 0.0
        bound, pending = self._scheduler.worker_counts()
        eta = working * self._scheduler.seconds_left / tally.expected_done if tally.expected_done else None
        return Progress(
            done=tally.committed + tally.already,
            failed=len(tally.failures),
            left=self._scheduler.left,
            running=len(self._scheduler.running()),
            workers=bound,
            pending=pending,
            rows=rows,
            retries=self._scheduler.failed_attempts,
            losses=self._scheduler.losses,
            seconds=now - self._began,
            rate=rows / working if working else 0.0,
            eta_seconds=eta,
            stopping=self._stopping or self._scheduler.too_many_failures,
        )

    def summary(self, outcome: Outcome) -> RunSummary:
        tally = self._tally
        return RunSummary(
            outcome=outcome,
            committed=tally.committed,
            already=tally.already,
            failures=tuple(tally.failures),
            left=self._scheduler.left,
            rows=tally.rows,
            invalid=tally.invalid,
            failed_rows=tally.failed_rows,
            retries=self._scheduler.failed_attempts,
            losses=self._scheduler.losses,
            seconds=time.monotonic() - self._began,
            unit_seconds=tally.unit_seconds,
        )

    def _watch(self) -> None:
        """Reports workers that have been at one unit, or at loading one model, for too long."""
        now = time.monotonic()
        patience = self._patience
        at: dict[str, tuple[object, float, str]] = {
            worker: (model, patience.load, f"loading {model}") for worker, model in self._scheduler.loading().items()
        }
        for worker, (unit, attempt) in self._scheduler.running().items():
            at[worker] = ((unit.unit_id, attempt), patience.of(unit, attempt), f"unit {unit.unit_id}")
        self._since = {
            worker: self._since[worker] if self._since.get(worker, (None,))[0] == what else (what, now)
            for worker, (what, _, _) in at.items()
        }
        for worker, (_, allowed, doing) in at.items():
            if now - self._since[worker][1] > allowed:
                self._scheduler.apply(
                    WorkerStuck(worker, f"{doing} took longer than {allowed:.0f} s; {worker} was killed")
                )

    def _settle(self) -> None:
        while settled := [self._judged(item) for item in self._scheduler.take_settled()]:
            for item in settled:
                self._tally.settle(item)
            self._scheduler.apply(UnitsAdded(tuple(self._derive(settled))))

    def _judged(self, item: Settled) -> Settled:
        """Gives a failed unit up, unless one of its attempts has committed it and could not say so."""
        if item.report.outcome == "failed" and self._journal.give_up(item.unit, item.report):
            return replace(item, report=replace(item.report, outcome="already"))
        return item

    def _act(self) -> None:
        actions = self._scheduler.decide()
        # Before anything goes out: a unit that takes this process down must be found charged for it.
        self._record(self._scheduler.attempts())
        for action in actions:
            self._execute(action)

    def _record(self, attempts: dict[str, int]) -> None:
        if attempts != self._recorded:
            self._journal.record(attempts)
            self._recorded = attempts

    def _execute(self, action: Action) -> None:
        match action:
            case StartWorker(worker, needs):
                self._backend.start_worker(worker, needs)
            case Bind(worker, model):
                self._backend.bind(worker, model)
            case Dispatch(worker, unit, attempt, row_by_row):
                self._first_dispatch = self._first_dispatch or time.monotonic()
                self._backend.dispatch(worker, unit, attempt, row_by_row)
            case KillWorker(worker):
                self._backend.kill(worker)
