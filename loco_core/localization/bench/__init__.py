"""A benchmark for localizers: tables whose truth is known.

Simulated ones have a declared truth, of those drawn from real pictures it is counted in all of these, and in planted
models it was trained.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from loco_core.localization.base import Effect, Localization, LocalizeSettings, Rule
from loco_core.localization.bench.conditions import Condition, conditions
from loco_core.localization.bench.methods import Method, MethodsReport, run_methods
from loco_core.localization.bench.planted import (
    PlantedResult,
    PlantedTruth,
    count_tables,
    planted_folders,
    read_cards,
    run_all_planted,
    run_planted,
)
from loco_core.localization.bench.replay import ReplayedTable
from loco_core.localization.bench.report import BenchReport, Measure, OutcomeCount, Savings
from loco_core.localization.bench.simulate import THRESHOLD, Noise, SimulatedTable, simulated_table, simulated_tables
from loco_core.localization.bench.truths import KINDS, Layout
from loco_core.localization.decision import MOST
from loco_core.statistics import Floats

__all__ = [
    "BenchReport",
    "Condition",
    "Layout",
    "Measure",
    "Method",
    "MethodsReport",
    "Noise",
    "OutcomeCount",
    "PlantedResult",
    "PlantedTruth",
    "Savings",
    "SimulatedTable",
    "conditions",
    "planted_folders",
    "run_bench",
    "run_methods",
    "run_planted",
    "simulated_table",
    "simulated_tables",
]


COUNTED = 0.03
"""Nearly three standard errors of a share that is counted in 2,000 simulated prompts."""


@dataclass(frozen=True)
class _Answer:
    """What is kept of one table: its truth and what was said."""

    table: SimulatedTable
    found: Localization

    @property
    def localized(self) -> bool:
        return self.found.outcome == "localized"

    @cached_property
    def _places(self) -> dict[tuple[int, int], int]:
        return {(window.start, window.size): place for place, window in enumerate(self.table.layout.windows)}

    def at(self, truth: Floats, start: int | None, size: int | None) -> float | None:
        """Returns what is true of a window; None of none, or of one that was not swept."""
        if start is None or size is None or (start, size) not in self._places:
            return None
        return float(truth[self._places[start, size]])

    def hold(self, bounds: Iterable[tuple[Effect, float | None]], truth: Floats, slack: float = 0.0) -> bool | None:
        """Tells whether all lower bounds of windows hold; None where there are none."""
        found = [(low, self.at(truth, effect.window_start, effect.window_size)) for effect, low in bounds]
        known = [low <= true + slack for low, true in found if low is not None and true is not None]
        return all(known) if known else None

    @property
    def effect_here(self) -> float | None:
        """True effect in these prompts of the window that the outcome speaks of."""
        return self.at(self.table.here, self.found.best_start, self.found.best_size)


def run_bench(
    rule: Rule,
    name: str,
    settings: LocalizeSettings | None = None,
    *,
    tables: int = 2000,
    seed: int = 0,
    condition: Condition | None = None,
    reference: Rule | None = None,
    planted: Sequence[Path] = (),
    tracer: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> BenchReport:
    """Holds a localizer against tables whose truth is known.

    It is given what it asks for, as a sweep does, and asked again: the whole grid and then complements, or, if it
    begins small, only that.

    Args:
        rule: rule that is measured.
        name: its name in the report.
        settings: given to it as they are; the declared truths are made for the default threshold of 0.8 and largest
            share of a quarter.
        tables: number of tables to draw.
        seed: seed of the draw.
        condition: condition that says what they are like; None takes the usual ones.
        reference: rule that is given the whole grid of every table; answers and images of both are compared.
        planted: folders of tables of planted models, see `run_planted`.
        tracer: what the traces that the rule reads are called in tables; then planted models are all that there is, as
            simulated tables have none.
        progress: called with the number of tables done.

    Raises:
        LocalizationError: from the localizer, or about the planted folder.
    """
    settings, condition = settings or LocalizeSettings(), condition or Condition("usual")
    start, tables = time.process_time(), 0 if tracer else tables
    cards, results = read_cards(planted), run_all_planted(planted, rule, settings, tracer)
    left_out = ""
    if tracer:
        all_planted = sum(map(count_tables, planted))
        without = f"{all_planted - len(results)} of {all_planted} planted tables"
        left_out = f"left out: tables of all conditions and {without}, as they have no traces for {name} to read"
    answers: list[_Answer] = []
    savings = Savings() if reference else None
    for number, table in enumerate(condition.tables(tables, seed), start=1):
        replayed = ReplayedTable(pa.concat_tables([table.scores, table.complement_scores]), table.layout.sites)
        answer = replayed.answer(rule, settings)
        if reference and savings:
            savings = savings.plus(answer, replayed.answer(reference, settings))
        answers.append(_Answer(table.without_scores(), answer.found))
        if progress:
            progress(number)
    return BenchReport(
        localizer=name,
        settings=settings,
        condition=condition.name,
        seed=seed,
        tables=tables,
        measures=_measures(answers),
        flattery=_flattery(answers),
        savings=savings,
        outcomes=_outcomes(answers),
        planted=results,
        cards=cards,
        left_out=left_out,
        cpu_seconds=time.process_time() - start,
    )


def _measures(answers: Sequence[_Answer]) -> tuple[Measure, ...]:
    single = [a for a in answers if a.table.window is not None]
    there = [a for a in answers if a.table.full]
    right = [a for a in answers if a.table.outcomes and a.found.outcome in a.table.outcomes]
    judged = [a for a in answers if a.table.outcomes]
    # Of tables with several places, or of a damaging one, something else is to be said.
    alone = [a for a in there if a.table.window is not None or not a.table.outcomes]
    can = [a for a in alone if (a.table.here >= THRESHOLD).any()]
    found = sum(a.localized and (a.effect_here or 0.0) >= THRESHOLD for a in can)
    exact = sum(a.localized and a.found.window == a.table.window for a in single)
    denied = sum(a.found.outcome in ("no_effect", "absent") for a in there)
    about = [a for a in answers if a.found.about == "prompts_like_these"]
    too_many = sum(_share_of_best(a) <= MOST for a in about)
    # Where it is hardest: every window is just below.
    hard = [a for a in answers if a.table.kind == "all_at_0.79"]
    held = [a for a in there if _holding(a)]
    return (
        Measure("said to pass, and is below the threshold", sum(map(_false, answers)), len(answers), at_most=0.05),
        Measure("the same, where all windows are at 0.79", sum(map(_false, hard)), len(hard), at_most=0.05),
        Measure("no effect or absent, where there is one", denied, len(there), at_most=0.05),
        Measure("distributed, where a window holds it", sum(map(_missed, held)), len(held), at_most=0.05),
        _rate("these prompts: interval of a declared window covers", [_declared_covered(a) for a in answers], 0.93),
        _rate("these prompts: interval of the best window covers", [_best_covered(a) for a in answers], 0.93),
        _rate("these prompts: all lower bounds hold", [_all_covered(a) for a in answers], 0.93),
        _rate("prompts like these: all bounds of shares hold", [_shares_covered(a) for a in answers], 0.93),
        Measure("said of most prompts like these, and not so", too_many, len(about), at_most=0.05),
        Measure("power: a window holds it and one that does is localized", found, len(can)),
        Measure("exact set, of one window that was put there", exact, len(single)),
        Measure("right outcome", len(right), len(judged)),
    )


def _false(answer: _Answer) -> bool:
    """Tells whether a window is said to pass that does not reach the threshold in these prompts."""
    table, found = answer.table, answer.found
    if found.outcome not in ("localized", "multiple", "damaging"):
        return False
    passing = [e for e in found.effects if (e.simultaneous_low or 0.0) >= THRESHOLD and e.component == "denoiser"]
    effects = [answer.at(table.here, e.window_start, e.window_size) for e in passing]
    return any(e is not None and e < THRESHOLD for e in (*effects, answer.effect_here))


def _holding(answer: _Answer) -> bool:
    sizes = np.array([window.size for window in answer.table.layout.windows])
    in_range = sizes <= LocalizeSettings().largest(answer.table.layout.sites)
    return bool((answer.table.here[in_range] >= THRESHOLD).any())


def _missed(answer: _Answer) -> bool:
    return answer.found.outcome == "distributed"


def _share_of_best(answer: _Answer) -> float:
    return answer.at(answer.table.shares, answer.found.best_start, answer.found.best_size) or 0.0


def _rate(name: str, covered: Sequence[bool | None], at_least: float) -> Measure:
    known = [value for value in covered if value is not None]
    return Measure(name, sum(known), len(known), at_least)


def _declared_covered(answer: _Answer) -> bool | None:
    window = answer.table.layout.windows[answer.table.declared]
    true = float(answer.table.here[answer.table.declared])
    for effect in answer.found.effects:
        if (effect.window_start, effect.window_size) == (window.start, window.size):
            return _covers(effect.ci_low, effect.ci_high, true)
    return None


def _best_covered(answer: _Answer) -> bool | None:
    true = answer.effect_here
    return None if true is None else _covers(answer.found.ci_low, answer.found.ci_high, true)


def _covers(low: float | None, high: float | None, true: float) -> bool | None:
    return None if low is None or high is None else low <= true <= high


def _all_covered(answer: _Answer) -> bool | None:
    return answer.hold(((e, e.simultaneous_low) for e in answer.found.effects), answer.table.here)


def _shares_covered(answer: _Answer) -> bool | None:
    # The truth is counted in 2,000 prompts of the simulation: a bound may exceed it by the error of that.
    return answer.hold(((e, e.prompt_share_low) for e in answer.found.effects), answer.table.shares, COUNTED)


def _flattery(answers: Sequence[_Answer]) -> float | None:
    """By how much the reported effect of a localized window exceeds the true one in these prompts, on average."""
    pairs = [(a.found.effect, a.effect_here) for a in answers if a.localized]
    known = [reported - true for reported, true in pairs if reported is not None and true is not None]
    return float(np.mean(known)) if known else None


def _outcomes(answers: Sequence[_Answer]) -> tuple[OutcomeCount, ...]:
    counts = Counter((a.table.kind, a.found.outcome, a.found.outcome in a.table.outcomes) for a in answers)
    kinds = {kind: place for place, kind in enumerate(KINDS)}
    order = sorted(counts.items(), key=lambda item: (kinds.get(item[0][0], len(kinds)), -item[1], item[0][1]))
    return tuple(OutcomeCount(kind, outcome, tables, right) for (kind, outcome, right), tables in order)
