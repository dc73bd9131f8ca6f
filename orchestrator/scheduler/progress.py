"""How far a run is, and how it ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.scheduler.protocol import UnitReport

Outcome = Literal["done", "stopped", "over_budget", "too_many_failures", "lease_lost"]
PACE_SECONDS = 60.0


@dataclass(frozen=True)
class StageProgress:
    """How far the units of one stage are under this driver.

    Attributes:
        done: units committed, those found committed already included.
        failed: units given up.
        left: units neither committed nor given up, as far as they are known.
    """

    done: int = 0
    failed: int = 0
    left: int = 0


class Pace:
    """How fast work is done at present: over the last minute, or since a unit ended before it where units take longer.

    An average since the start counts the loading of models for hours.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, float]] = deque()

    def note(self, now: float, rows: int, cost: float) -> None:
        """Takes note of how much is done; to be called again and again.

        Args:
            now: seconds of a clock that never goes back.
            rows: rows computed so far.
            cost: expected seconds of the units that are done.
        """
        samples = self._samples
        if not samples or samples[-1][1:] != (rows, cost):
            samples.append((now, rows, cost))
        while len(samples) > 2 and samples[1][0] <= now - PACE_SECONDS:
            samples.popleft()

    def rate(self, now: float) -> float:
        """Returns rows per second; 0 before any is done."""
        return self._per_second(now, 1)

    def seconds_for(self, cost: float, now: float) -> float | None:
        """Returns how long units of a cost will take at this pace; None before any is done."""
        speed = self._per_second(now, 2)
        return cost / speed if speed else None

    def _per_second(self, now: float, column: Literal[1, 2]) -> float:
        if len(self._samples) < 2 or now <= self._samples[0][0]:
            return 0.0
        first, last = self._samples[0], self._samples[-1]
        return (last[column] - first[column]) / (now - first[0])


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
        loading: models that workers are loading.
        rows: rows computed by this run, the invalid ones included.
        retries: attempts at units that failed.
        losses: workers lost with their machine.
        seconds: since the run began.
        rate: rows per second, over the last minute; 0 before any is done.
        eta_seconds: until what is known is done, at this pace; None before anything is done, and where no new units go
            out.
        stopping: whether no new units go out.
        used_up: the limit of the budget that is reached, in words; empty while none is.
        limit: how many workers there may be; 0 where the run is paused.
        before: units that earlier runs committed.
        stages: the same counts by stage.
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
    used_up: str = ""
    limit: int | None = None
    before: int = 0
    loading: tuple[str, ...] = ()
    stages: Mapping[str, StageProgress] = field(default_factory=dict)


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
        used_up: what of the budget is used up, in words; empty where nothing is.
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
    used_up: str = ""
