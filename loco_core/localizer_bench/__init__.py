"""A benchmark for localizers: simulated score tables with a declared truth, and tables of planted models."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from loco_core.localizer_bench.planted import PlantedResult, PlantedTruth, run_planted
from loco_core.localizer_bench.report import BenchReport, Measure, OutcomeCount, Thrift
from loco_core.localizer_bench.serve import Served
from loco_core.localizer_bench.simulate import (
    KINDS,
    THRESHOLD,
    Layout,
    Noise,
    SimulatedTable,
    simulated_table,
    simulated_tables,
)
from loco_core.localizers import Localization, LocalizeSettings, Rule

__all__ = [
    "BenchReport",
    "Layout",
    "Measure",
    "Noise",
    "OutcomeCount",
    "PlantedResult",
    "PlantedTruth",
    "SimulatedTable",
    "Thrift",
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
        windows = self.table.layout.windows
        return float(self.table.effects[windows.index(window)]) if window in windows else 0.0


def run_bench(
    rule: Rule,
    name: str,
    settings: LocalizeSettings | None = None,
    *,
    tables: int = 2000,
    seed: int = 0,
    noise: Noise | None = None,
    layout: Layout | None = None,
    reference: Rule | None = None,
    planted: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> BenchReport:
    """Holds a localizer against tables whose truth is known.

    It is given what it asks for, as a sweep does, and asked again: the whole grid and then complements, or, if it
    begins small, only that.

    Args:
        rule: what is measured.
        name: its name in the report.
        settings: given to it as they are; the declared truths are made for the default threshold of 0.8 and largest
            share of a quarter.
        tables: how many to simulate.
        seed: of the simulation.
        noise: of the simulation.
        layout: windows of the simulation.
        reference: is given the whole grid of every table; answers and images of both are compared.
        planted: folder of tables of planted models, see `run_planted`.
        progress: called with the number of tables done.

    Raises:
        LocalizationError: from the localizer, or about the planted folder.
    """
    settings, noise, layout = settings or LocalizeSettings(), noise or Noise(), layout or Layout()
    start = time.process_time()
    results = run_planted(planted, rule, settings) if planted else ()
    answers: list[_Answer] = []
    thrift = Thrift() if reference else None
    for number, table in enumerate(simulated_tables(tables, seed, noise, layout), start=1):
        served = Served(pa.concat_tables([table.scores, table.complement_scores]), layout.sites)
        answer = served.answer(rule, settings)
        if reference and thrift:
            thrift = thrift.plus(answer, served.answer(reference, settings))
        answers.append(_Answer(table.without_scores(), answer.found))
        if progress:
            progress(number)
    return BenchReport(
        localizer=name,
        settings=settings,
        noise=noise,
        layout=layout,
        seed=seed,
        tables=tables,
        measures=_measures(answers),
        thrift=thrift,
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
    window = answer.table.layout.windows[answer.table.declared]
    true = float(answer.table.effects[answer.table.declared])
    for effect in answer.found.effects:
        if (effect.window_start, effect.window_size) == (window.start, window.size):
            return _covers(effect.ci_low, effect.ci_high, true)
    return None


def _picked_covered(answer: _Answer) -> bool | None:
    return _covers(answer.found.ci_low, answer.found.ci_high, answer.true_effect)


def _covers(low: float | None, high: float | None, true: float) -> bool | None:
    return None if low is None or high is None else low <= true <= high


def _all_covered(answer: _Answer) -> bool | None:
    true = {(w.start, w.size): float(e) for w, e in zip(answer.table.layout.windows, answer.table.effects, strict=True)}
    lows = [(e.simultaneous_low, true[e.window_start, e.window_size]) for e in answer.found.effects]
    known = [low <= effect for low, effect in lows if low is not None]
    return all(known) if known else None


def _outcomes(answers: Sequence[_Answer]) -> tuple[OutcomeCount, ...]:
    counts = Counter((a.table.kind, a.found.outcome, a.found.outcome in a.table.outcomes) for a in answers)
    order = sorted(counts.items(), key=lambda item: (KINDS.index(item[0][0]), -item[1], item[0][1]))
    return tuple(OutcomeCount(kind, outcome, tables, right) for (kind, outcome, right), tables in order)
