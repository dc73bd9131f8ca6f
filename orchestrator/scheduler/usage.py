"""What workers spend their time on: the account behind the table ``usage``.

The driver knows when a worker was there and what it was sent; a worker says with every report what a unit took. All of
a worker's time is in exactly one interval, and all of an interval is either one of four activities or waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from orchestrator.scheduler.protocol import (
    Action,
    BackendEvent,
    Bind,
    BindFailed,
    Dispatch,
    KillWorker,
    UnitDone,
    UnitReport,
    WorkerBound,
    WorkerLost,
    WorkerReady,
)

Activity = Literal["loading", "computing", "scoring", "committing"]
ACTIVITIES: tuple[Activity, ...] = ("loading", "computing", "scoring", "committing")
_GIVEN_UP: tuple[Activity, ...] = ("computing", "scoring", "committing", "loading")
"""Which activity is cut first where clocks do not agree."""


@dataclass(frozen=True)
class Interval:
    """Some time of one worker, whole.

    Attributes:
        worker: name of the worker.
        model: model that it had, or loaded; empty before the first.
        device: name of its device, such as ``cpu`` or the name of a GPU; empty of GPUs that are not known before a
            model is loaded.
        gpus: how many GPUs it held.
        ended: seconds between its end and the moment when it was asked for.
        seconds: its length: all that follows, taken together.
        loading: seconds that the worker loaded a model.
        computing: seconds in units, except for what follows.
        scoring: seconds in which pictures were scored.
        committing: seconds in which results were written.
        waiting: seconds in which it had nothing to do.
    """

    worker: str
    model: str
    device: str
    gpus: int
    ended: float
    seconds: float
    loading: float = 0.0
    computing: float = 0.0
    scoring: float = 0.0
    committing: float = 0.0
    waiting: float = 0.0


class Ledger(Protocol):
    """Keeps intervals beyond the life of this process, and knows when enough was used."""

    def record(self, intervals: Sequence[Interval]) -> None:
        """Keeps intervals, durably where the storage allows it.

        Args:
            intervals: those that have ended since the last call.
        """
        ...

    def used_up(self, running: Callable[[], Sequence[Interval]]) -> str:
        """Returns what is used up, in words; empty while nothing is.

        Args:
            running: returns what was used since the last call of `record`.
        """
        ...


@dataclass(eq=False)
class _Account:
    """One worker.

    Attributes:
        worker: name of the worker.
        gpus: GPUs that it holds; None is not known before its device is.
        since: when the interval began.
        spent: seconds of the interval by activity.
        activity: what it is at.
        from_: since when that is not booked.
        ahead: seconds of the unit it is at that are booked already, as computing.
        queue: how many units it has.
    """

    worker: str
    gpus: int | None
    since: float
    model: str = ""
    device: str = ""
    spent: dict[Activity, float] = field(default_factory=lambda: dict.fromkeys(ACTIVITIES, 0.0))
    activity: Literal["loading", "computing"] | None = None
    from_: float = 0.0
    ahead: float = 0.0
    queue: int = 0

    def begin(self, activity: Literal["loading", "computing"] | None, now: float) -> None:
        self.activity, self.from_, self.ahead = activity, now, 0.0

    def book(self, now: float) -> None:
        """Books what it is at; whether it scores or commits is said at the end of the unit."""
        if self.activity is not None:
            self.spent[self.activity] += now - self.from_
            self.ahead += now - self.from_
            self.from_ = now

    def done(self, report: UnitReport, now: float) -> None:
        parts: dict[Activity, float] = {
            "computing": max(0.0, report.seconds - report.scoring - report.committing),
            "scoring": report.scoring, "committing": report.committing,
        }  # fmt: skip
        _cut(parts, self.ahead)
        for activity, seconds in parts.items():
            self.spent[activity] += seconds
        self.queue = max(0, self.queue - 1)
        self.begin("computing" if self.queue else None, now)

    def interval(self, now: float, *, running: bool = False) -> Interval:
        """Returns the interval up to now, and begins the next, unless it goes on."""
        spent, seconds = dict(self.spent), now - self.since
        if self.activity is not None:
            spent[self.activity] += now - self.from_
        _cut(spent, sum(spent.values()) - seconds)
        if not running:
            self.book(now)
            self.since, self.spent = now, dict.fromkeys(ACTIVITIES, 0.0)
        gpus = (self.device not in ("", "cpu")) if self.gpus is None else self.gpus
        waiting = max(0.0, seconds - sum(spent.values()))
        return Interval(self.worker, self.model, self.device, int(gpus), 0.0, seconds, **spent, waiting=waiting)


def _cut(parts: dict[Activity, float], seconds: float) -> None:
    """Takes seconds away that are booked elsewhere: computing first, which is most of all."""
    for activity in _GIVEN_UP:
        if seconds > 0 and activity in parts:
            cut = min(parts[activity], seconds)
            parts[activity] -= cut
            seconds -= cut


class Meter:
    """Accounts for the time of all workers, from when they run until they are gone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts without workers.

        Args:
            clock: seconds that never go back.
        """
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._ended: list[tuple[float, Interval]] = []

    def note(self, what: BackendEvent | Action) -> None:
        """Takes note of an event of a worker, or of a command to one; to be called when it happens."""
        now = self._clock()
        if isinstance(what, WorkerReady):
            # Which of the GPUs it holds shows when it has loaded a model, where the machine names none.
            device = "cpu" if what.gpus == 0 else what.node.gpu or ("" if what.gpus else "cpu")
            self._accounts[what.worker] = _Account(what.worker, what.gpus, now - what.seconds, device=device)
        elif (account := self._accounts.get(what.worker)) is not None:
            self._note(account, what, now)

    def _note(self, account: _Account, what: BackendEvent | Action, now: float) -> None:
        match what:
            case Bind(_, model):
                if account.model:
                    self._close(account, now)
                account.model = model
                account.begin("loading", now)
            case WorkerBound(_, device):
                account.book(now)
                account.begin(None, now)
                account.device = device
            case BindFailed():
                account.book(now)
                account.begin(None, now)
            case Dispatch():
                account.queue += 1
                if account.queue == 1:
                    account.begin("computing", now)
            case UnitDone(_, report):
                account.done(report, now)
            case WorkerLost() | KillWorker():
                self._close(self._accounts.pop(account.worker), now)

    def cut(self) -> list[Interval]:
        """Ends the intervals of all workers, and returns those that have ended since the last call."""
        now = self._clock()
        for account in self._accounts.values():
            self._close(account, now)
        ended, self._ended = self._ended, []
        return [replace(interval, ended=now - at) for at, interval in ended]

    def running(self) -> list[Interval]:
        """Returns what the next call of `cut` would, without ending anything."""
        now = self._clock()
        open_ = [account.interval(now, running=True) for account in self._accounts.values()]
        return [*(replace(interval, ended=now - at) for at, interval in self._ended), *open_]

    def _close(self, account: _Account, now: float) -> None:
        if now > account.since:
            self._ended.append((now, account.interval(now)))
