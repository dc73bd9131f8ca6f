"""Drives the scheduler: polls a backend, writes the journal, watches for stuck workers, and tells how far it is.

What takes long is no work of the loop: tables are made beside it, see `orchestrator.scheduler.side_work`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile

from loco_core.errors import StoreError
from orchestrator.scheduler.progress import Outcome, Pace, Progress, RunSummary, StageProgress
from orchestrator.scheduler.protocol import (
    Action,
    Backend,
    BackendError,
    BackendEvent,
    Bind,
    Clock,
    Dispatch,
    Journal,
    KillWorker,
    LimitChanged,
    Planner,
    Settled,
    StartWorker,
    StopRequested,
    Unit,
    UnitDone,
    UnitReport,
    UnitsAdded,
    WorkerLost,
    WorkerStuck,
)
from orchestrator.scheduler.roster import MAX_ATTEMPTS
from orchestrator.scheduler.side_work import SideWork
from orchestrator.scheduler.state import Scheduler
from orchestrator.scheduler.usage import Ledger, Meter

POLL_SECONDS = 0.5
WAKE_SECONDS = 0.02
"""How long a backend is waited for in one go while side work runs: no backend can be woken by its end."""
USAGE_SECONDS = 60.0
"""How often it is recorded what workers spend their time on: so much of it is lost with a driver that is killed."""
BUDGET_SECONDS = 1.0
"""How often the budget is looked at."""
ROW_BY_ROW_FACTOR = 16.0
"""How much longer a unit may take row by row: each row costs a whole batch of the frozen shape."""


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
    may take ``load``: it may fetch tens of gigabytes, and wait an hour for a hub that allows no more requests.
    """

    multiple: float = 10.0
    floor: float = 300.0
    load: float = 4 * 3600.0

    def of(self, unit: Unit, attempt: int) -> float:
        """Returns the seconds allowed for an attempt at a unit."""
        factor = ROW_BY_ROW_FACTOR if attempt >= MAX_ATTEMPTS else 1.0
        return factor * max(self.floor, self.multiple * unit.expected_seconds)


def run_units(
    backend: Backend,
    planner: Planner,
    journal: Journal,
    on_progress: Callable[[Progress], None],
    stop: StopSwitch,
    *,
    side: SideWork | None = None,
    limit: Callable[[], int | None] = lambda: None,
    alive: Callable[[], bool] = lambda: True,
    max_failures: int | None = None,
    patience: Patience | None = None,
    ledger: Ledger | None = None,
) -> RunSummary:
    """Runs units until none is left, or it has to stop.

    The backend's workers are ended when this returns or raises; the backend itself stays for its owner to shut down,
    and so does the side work, of which nothing is left where the run was not stopped at once.

    Args:
        backend: where workers run.
        planner: says which units there are; called in this thread, as long as it may be asked for more with every turn.
        journal: keeps attempts and failures beyond the life of this process.
        on_progress: called a few times a second, in this thread.
        stop: pressed by signal handlers.
        side: runs beside the loop what the planner submits; units follow from it, too. None where it submits nothing.
        limit: asked with every turn how many workers there may be; 0 pauses, None is as many as the backend says.
        alive: asked with every turn of the loop, that is every half second or unit; returns False when the results
            folder belongs to another driver now, whereupon everything stops and nothing more is written.
        max_failures: units that may be given up before the run stops; 0 stops at the first, None never.
        patience: after how long a worker is stuck.
        ledger: keeps what workers spend their time on, and ends the run when enough is used; None keeps nothing.

    Returns:
        How it ended.

    Raises:
        BackendError: workers cannot be had.
        StoreError: nothing that workers compute can be stored.
    """
    run = _Run(backend, planner, journal, side or SideWork(), limit, max_failures, patience or Patience(), ledger)
    outcome: Outcome | None = None
    try:
        run.begin()
        while outcome is None:
            if not alive():
                outcome = "lease_lost"
                break
            outcome = run.turn(stop)
            on_progress(run.progress())
    except StoreError:
        # Storage refuses whoever lost the lease; so may another driver's files.
        if alive():
            raise
        outcome = "lease_lost"
    finally:
        if outcome is None and not alive():
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
    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def settle(self, settled: Settled) -> None:
        report, stage = settled.report, settled.unit.stage
        if report.outcome == "failed":
            self.failures.append(report)
            self.failed[stage] += 1
            return
        self.done[stage] += 1
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
        planner: Planner,
        journal: Journal,
        side: SideWork,
        limit: Callable[[], int | None],
        max_failures: int | None,
        patience: Patience,
        ledger: Ledger | None,
    ) -> None:
        charged = journal.previous()
        if backend.isolated:
            # Units cannot have killed that driver, so each deserves a try under this one.
            charged = {unit_id: min(attempts, MAX_ATTEMPTS - 1) for unit_id, attempts in charged.items()}
        self._backend = backend
        self._planner = planner
        self._journal = journal
        self._side = side
        self._patience = patience
        self._asking = True
        self._asked_limit = limit
        self._limit = backend.workers
        self._scheduler = Scheduler(self._limit, charged, max_failures)
        self._recorded: dict[str, int] | None = None
        self._tally = _Tally()
        self._since: dict[str, tuple[object, float]] = {}
        self._began = time.monotonic()
        self._pace = Pace()
        self._dispatched = False
        self._stopping = False
        self._ledger, self._meter = ledger, Meter()
        self._recorded_usage = self._looked_at_budget = self._began
        self._used_up = ""

    def begin(self) -> None:
        self._look_at_budget()
        self._scheduler.apply(UnitsAdded(tuple(self._planner.begin())))
        self._settle()
        self._ask()
        self._scale()
        self._act()

    def turn(self, stop: StopSwitch) -> Outcome | None:
        if stop.now:
            return "stopped"
        if not self._over:
            events = self._events()
            self._scheduler.apply(Clock(time.monotonic() - self._began))
            for event in events:
                self._meter.note(event)
                if isinstance(event, UnitDone):
                    self._tally.unit_seconds += event.report.seconds
                self._scheduler.apply(self._informed(event))
        if stop.pressed and not self._stopping:
            self._stop()
        self._watch()
        self._scale()
        self._account()
        self._settle()
        self._ask()
        self._act()
        if self._scheduler.broken is not None and not self._side.busy:
            raise BackendError(self._scheduler.broken)
        if self._scheduler.unstorable is not None:
            raise StoreError(self._scheduler.unstorable)
        if not self._over:
            return None
        if self._scheduler.too_many_failures:
            return "too_many_failures"
        if not self._scheduler.left and not self._asking:
            return "done"
        return "over_budget" if self._used_up else "stopped"

    def _informed(self, event: BackendEvent) -> BackendEvent:
        """Adds to the loss of a worker what it has committed and cannot report any more."""
        if not isinstance(event, WorkerLost):
            return event
        held = takewhile(self._journal.committed, self._scheduler.held(event.worker))
        return replace(event, committed=tuple(unit.unit_id for unit in held))

    def _stop(self) -> None:
        self._stopping = True
        # Work beside the loop goes on: it takes no worker, and what follows from it is what is left.
        self._scheduler.apply(StopRequested())

    def _account(self) -> None:
        """Records what workers spend their time on, and stops when enough is used."""
        now = time.monotonic()
        if self._ledger is not None and now >= self._recorded_usage + USAGE_SECONDS:
            self._recorded_usage = now
            self._ledger.record(self._meter.cut())
        if now >= self._looked_at_budget + BUDGET_SECONDS:
            self._looked_at_budget = now
            self._look_at_budget()

    def _look_at_budget(self) -> None:
        if self._ledger is None or self._stopping:
            return
        self._used_up = self._ledger.used_up(self._meter.running)
        if self._used_up:
            self._stop()

    @property
    def _over(self) -> bool:
        stopping = self._stopping or self._scheduler.too_many_failures
        return self._scheduler.over and not self._side.busy and (not self._asking or stopping)

    def _events(self) -> Sequence[BackendEvent]:
        """Waits for something to happen at a worker, or beside the loop, but not for long."""
        until = time.monotonic() + POLL_SECONDS
        while self._side.busy:
            events = self._backend.poll(0.0 if self._side.finished else WAKE_SECONDS)
            if events or self._side.finished or time.monotonic() > until:
                return events
        return self._backend.poll(POLL_SECONDS)

    def _scale(self) -> None:
        """Takes note of how many workers there may be now."""
        asked = self._asked_limit()
        wanted = self._backend.most(asked, 0 if asked == 0 else self._scheduler.left)
        if wanted != self._limit:
            self._limit = wanted
            self._scheduler.apply(LimitChanged(wanted))

    def _ask(self) -> None:
        """Takes in what others ask for."""
        if not self._asking:
            return
        wanted = self._planner.asked()
        self._asking = wanted is not None
        self._scheduler.apply(UnitsAdded(tuple(wanted or ())))

    def end(self, outcome: Outcome | None) -> None:
        for action in self._scheduler.close():
            self._execute(action)
        if outcome == "lease_lost":
            return  # the journal is its new owner's
        # This process lives, so nothing in flight has killed it. After an error the storage may refuse to note that.
        with suppress(StoreError) if outcome is None else nullcontext():
            if self._ledger is not None:
                self._ledger.record(self._meter.cut())
            self._record(self._scheduler.attempts())

    def progress(self) -> Progress:
        tally, now = self._tally, time.monotonic()
        rows = tally.rows + tally.invalid
        if self._dispatched:
            self._pace.note(now, rows, tally.expected_done)
        bound, pending = self._scheduler.worker_counts()
        left, stopping = self._scheduler.left_by_stage, self._stopping or self._scheduler.too_many_failures
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
            rate=self._pace.rate(now),
            eta_seconds=None if stopping else self._pace.seconds_for(self._scheduler.seconds_left, now),
            stopping=stopping,
            used_up=self._used_up,
            limit=self._limit,
            loading=tuple(sorted(set(self._scheduler.loading().values()))),
            stages={
                name: StageProgress(tally.done[name], tally.failed[name], left.get(name, 0))
                for name in dict.fromkeys([*tally.done, *tally.failed, *left])
            },
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
            used_up=self._used_up,
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
        self._scheduler.apply(UnitsAdded(tuple(self._side.take())))
        while settled := [self._judged(item) for item in self._scheduler.take_settled()]:
            for item in settled:
                self._tally.settle(item)
            self._scheduler.apply(UnitsAdded(tuple(self._planner.settled(settled))))

    def _judged(self, item: Settled) -> Settled:
        """Gives a failed unit up, unless one of its attempts has committed it and could not say so."""
        if item.report.outcome == "failed" and self._journal.give_up(item.unit, item.report):
            return replace(item, report=replace(item.report, outcome="already"))
        return item

    def _act(self) -> None:
        # When nobody will ask for anything any more, idle workers may go.
        self._scheduler.keep_workers = self._asking or self._side.awaited
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
        self._meter.note(action)
        match action:
            case StartWorker(worker, needs, avoid):
                self._backend.start_worker(worker, needs, avoid)
            case Bind(worker, model):
                self._backend.bind(worker, model)
            case Dispatch(worker, unit, attempt):
                if not self._dispatched:
                    # The pace is that of units, not of what comes before the first one.
                    self._dispatched = True
                    self._pace.note(time.monotonic(), 0, 0.0)
                self._backend.dispatch(worker, unit, attempt)
            case KillWorker(worker):
                self._backend.kill(worker)
