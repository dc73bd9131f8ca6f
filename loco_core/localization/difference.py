"""How far the effects of one window in two score tables differ, with an interval.

Where both tables are of the same prompts and seeds the difference is taken pair by pair, so that what a prompt and a
noise have in common cancels; elsewhere the two are taken as independent, which makes the interval wider.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loco_core.localization.base import LocalizeSettings
from loco_core.localization.estimates import estimate_windows
from loco_core.localization.score_table import ScoreTable
from loco_core.statistics import Means, Ratios, seed_variance
from loco_core.types import Window


@dataclass(frozen=True)
class EffectDifference:
    """The effect of a window in a second table less that in a first one.

    Attributes:
        window: the window.
        first: its effect in the first table.
        second: its effect in the second.
        difference: the second less the first.
        low: lower end of the 95 % interval of the difference, about these prompts.
        high: its upper end.
        paired: whether prompts and seeds are the same, and the difference is taken pair by pair.
    """

    window: Window
    first: float
    second: float
    difference: float
    low: float
    high: float
    paired: bool


def effect_difference(
    first: ScoreTable, second: ScoreTable, window: Window, settings: LocalizeSettings
) -> EffectDifference | None:
    """Compares the effects of a window in two tables.

    Args:
        first: one table.
        second: the other one.
        window: a window of both.
        settings: the ``localize:`` block.

    Returns:
        None where one of them has no effect of it: it was not swept, or there is nothing to take a share of.
    """
    of_first, of_second = (_ratio(table, window, settings) for table in (first, second))
    if of_first is None or of_second is None:
        return None
    (a, here), (b, there) = of_first, of_second
    paired = (first.prompts, first.seeds) == (second.prompts, second.seeds)
    effects = float(a.value[here]), float(b.value[there])
    if paired:
        influence = b.influence[:, :, [there]] - a.influence[:, :, [here]]
        variance, free = seed_variance(influence, a.present[:, :, [here]] & b.present[:, :, [there]])
    else:
        squares = np.array([a.error[here] ** 2, b.error[there] ** 2])
        freedom = np.array([a.free[here], b.free[there]])
        variance = squares.sum(keepdims=True)
        # Welch and Satterthwaite.
        free = variance**2 / np.maximum((squares**2 / freedom).sum(keepdims=True), np.finfo(float).tiny)
    means = Means(np.array([effects[1] - effects[0]]), np.sqrt(variance), free)
    low, high = float(means.low(0.975)[0]), float(means.high(0.975)[0])
    return EffectDifference(window, *effects, effects[1] - effects[0], low, high, paired)


def _ratio(table: ScoreTable, window: Window, settings: LocalizeSettings) -> tuple[Ratios, int] | None:
    if window not in table.windows:
        return None
    estimates = estimate_windows(table, settings)
    column = table.windows.index(window)
    if estimates.ratios is None or not np.isfinite(estimates.ratios.value[column]):
        return None
    return estimates.ratios, column
