"""A benchmark for localizers: simulated score tables with a declared truth, and tables of planted models."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loco_core.localizer_bench.planted import PlantedResult, PlantedTruth, run_planted
from loco_core.localizer_bench.report import BenchReport, Measure, OutcomeCount
from loco_core.localizer_bench.simulate import (
    KINDS,
    THRESHOLD,
    WINDOWS,
    Noise,
    SimulatedTable,
    simulated_table,
    simulated_tables,
)
from loco_core.localizers import Localization, Localizer, LocalizeSettings

__all__ = [
    "BenchReport",
    "Measure",
    "Noise",
    "OutcomeCount",
    "PlantedResult",
    "PlantedTruth",
    "SimulatedTable",
    "run_bench",
    "run_planted",
    "simulated_table",
    "simulated_tables",
]


@dataclass(frozen=True)
class _Answer:
    """What is kept of one table: its truth and what was said."""

    table: SimulatedTable
    found: Localization

    @property
    def localized(self) -> bool:
        return self.found.outcome == "localized"

    @property
    def true_effect(self) -> float:
        """True effect of the picked window; 0 if it is none that was swept."""
        window = self.found.window
        return float(self.table.effects[WINDOWS.index(window)]) if window in WINDOWS else 0.0


def run_bench(
    localizer: Localizer,
    name: str,
    settings: LocalizeSettings | None = None,
    *,
    tables: int = 2000,
    seed: int = 0,
    noise: Noise | None = None,
    planted: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> BenchReport:
    """Holds a localizer against tables whose truth is known.

    Complements that it asks for are added once, then it is asked again, as a sweep does.

    Args:
        localizer: what is measured.
        name: its name in the report.
        settings: given to it as they are; the declared truths are made for the default threshold of 0.8 and largest
            share of a quarter.
        tables: how many to simulate.
        seed: of the simulation.
        noise: of the simulation.
        planted: folder of tables of planted models, see `run_planted`.
        progress: called with the number of tables done.

    Raises:
        LocalizationError: from the localizer, or about the planted folder.
    """
    settings, noise = settings or LocalizeSettings(), noise or Noise()
    start = time.process_time()
    results = run_planted(planted, lambda scores: localizer(scores, settings)) if planted else ()
    answers: list[_Answer] = []
    for number, table in enumerate(simulated_tables(tables, seed, noise), start=1):
        found = localizer(table.scores, settings)
        if found.wants_complements:
            found = localizer(table.with_complements(found.wants_complements), settings)
        answers.append(_Answer(table.without_scores(), found))
        if progress:
            progress(number)
    return BenchReport(
        localizer=name,
        settings=settings,
        noise=noise,
        seed=seed,
        tables=tables,
        measures=_measures(answers),
        outcomes=_outcomes(answers),
        planted=results,
        cpu_seconds=time.process_time() - start,
    )


def _measures(answers: Sequence[_Answer]) -> tuple[Measure, ...]:
    nothing = [a for a in answers if a.table.window is None]
    single = [a for a in answers if a.table.window is not None]
    localized = [a for a in answers if a.localized]
    right = [a for a in answers if a.found.outcome in a.table.outcomes]
    power = sum(a.localized and a.true_effect >= THRESHOLD for a in single)
    wrong = sum(a.localized and a.true_effect < THRESHOLD for a in single)
    exact = sum(a.localized and a.found.window == a.table.window for a in single)
    return (
        Measure("localized where nothing is to be", sum(a.localized for a in nothing), len(nothing), at_most=0.05),
        Measure("localized at a window below the threshold", wrong, len(single), at_most=0.05),
        _rate("coverage, interval of a declared window", [_declared_covered(a) for a in answers], 0.93, 0.97),
        _rate("coverage, interval of the picked window", [_picked_covered(a) for a in localized], 0.93, 1.0),
        _rate("coverage, all simultaneous lower bounds", [_all_covered(a) for a in answers], 0.93, 1.0),
        Measure("power, a window was there and one that passes was found", power, len(single), at_least=0.9),
        Measure("exact set, a window was there and exactly it was found", exact, len(single)),
        Measure("right outcome, all tables", len(right), len(answers)),
    )


def _rate(name: str, covered: Sequence[bool | None], at_least: float, at_most: float) -> Measure:
    known = [value for value in covered if value is not None]
    return Measure(name, sum(known), len(known), at_least, at_most)


def _declared_covered(answer: _Answer) -> bool | None:
    window, true = WINDOWS[answer.table.declared], float(answer.table.effects[answer.table.declared])
    for effect in answer.found.effects:
        if (effect.window_start, effect.window_size) == (window.start, window.size):
            return _covers(effect.ci_low, effect.ci_high, true)
    return None


def _picked_covered(answer: _Answer) -> bool | None:
    return _covers(answer.found.ci_low, answer.found.ci_high, answer.true_effect)


def _covers(low: float | None, high: float | None, true: float) -> bool | None:
    return None if low is None or high is None else low <= true <= high


def _all_covered(answer: _Answer) -> bool | None:
    true = {(w.start, w.size): float(e) for w, e in zip(WINDOWS, answer.table.effects, strict=True)}
    lows = [(e.simultaneous_low, true[e.window_start, e.window_size]) for e in answer.found.effects]
    known = [low <= effect for low, effect in lows if low is not None]
    return all(known) if known else None


def _outcomes(answers: Sequence[_Answer]) -> tuple[OutcomeCount, ...]:
    counts = Counter((a.table.kind, a.found.outcome, a.found.outcome in a.table.outcomes) for a in answers)
    order = sorted(counts.items(), key=lambda item: (KINDS.index(item[0][0]), -item[1], item[0][1]))
    return tuple(OutcomeCount(kind, outcome, tables, right) for (kind, outcome, right), tables in order)
