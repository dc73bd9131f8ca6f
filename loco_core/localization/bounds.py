"""Bounds of window effects: the lower of Student's and of a binomial one.

Bounds of effects are about *these prompts*: the seeds are random. Student's is right where images differ by degrees;
but an attribute that goes altogether or not at all leaves no spread to measure until an image keeps it, so there is a
binomial one too, of the share of images that the window moves more than half way. Measured on simulated tables of
images that flip as a whole (windows at 0.79 of the full effect, 8 x 4): Student's alone localizes wrongly in 6 of 100
tables, in 17 of 100 with 3 prompts; the lower of both in none.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from loco_core.localization.base import LocalizeSettings
from loco_core.localization.score_table import ScoreTable
from loco_core.statistics import Bools, Floats, Ratios, binomial_high, binomial_low

PREVAILS = 0.5
"""Half the full effect: an image that lost less is still nearer the prompt than the donor."""
LEAST_SEEDS = 4
"""Seeds without which no window passes: one that keeps an attribute in all prompts at once shows only among several."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of window effects in these prompts, arrays ``(W,)``; NaN where there are none.

    Attributes:
        low: lower bounds that hold for all windows together.
        high: upper bounds that do; an invalid image counts as if it had had the full effect.
        own_low: two-sided interval of each window by itself.
        own_high: its upper end.
        joint_low: two-sided intervals that hold for all windows together, and so for the one that was picked.
        joint_high: their upper ends.
        prompt_share_low: exact lower bounds, for all windows together, of the share of prompts like these in which the
            mean over the seeds reaches the threshold.
    """

    low: Floats
    high: Floats
    own_low: Floats
    own_high: Floats
    joint_low: Floats
    joint_high: Floats
    prompt_share_low: Floats


@dataclass(frozen=True)
class Moved:
    """Images that are moved more than half way to their donor's image, or to where donors' images are on average.

    Attributes:
        hits: number of such images of each window ``(W,)``. Where scores are noisy even donors' images do not all reach
            half of their prompt's mean: as many more are counted, up to all.
        trials: number of images of each window ``(W,)``.
        seeds: number of seeds that these are of.
    """

    hits: NDArray[np.intp]
    trials: NDArray[np.intp]
    seeds: int

    def low(self, alpha: float) -> Floats:
        """Binomial lower bounds of the shares; 0 of fewer than `LEAST_SEEDS`."""
        return binomial_low(self.hits, self.trials, alpha) * float(self.seeds >= LEAST_SEEDS)

    def high(self, alpha: float) -> Floats:
        """Binomial upper bounds of the shares."""
        return binomial_high(self.hits, self.trials, alpha)


def moved_images(table: ScoreTable, top: Floats, bottom: Floats, run: Bools, paired: Bools) -> Moved:
    """Counts the images that each window moves more than half way.

    Args:
        table: scores.
        top: clean minus swapped margins ``(P, S, W or more)``.
        bottom: clean minus donor margins ``(P, S)``.
        run: ``(P, S, W)`` cells that count.
        paired: ``(P, S)`` pairs that count.
    """
    trials = run.sum(axis=(0, 1))
    full = float(bottom[paired].mean()) if paired.any() else 0.0
    if not full > 0:
        return Moved(np.zeros(run.shape[2], dtype=np.intp), trials, paired.shape[1])
    # An image whose donor's image is half way back itself can lose no more than that.
    whole = np.where((bottom > 0) & (bottom < full), bottom, full)
    moved = run & table.swept.valid & (top[:, :, : run.shape[2]] >= PREVAILS * whole[:, :, None])
    count = np.maximum(paired.sum(axis=1, keepdims=True), 1)
    own = np.where(paired, bottom, 0.0).sum(axis=1, keepdims=True) / count
    reached = float((bottom >= PREVAILS * own)[paired].mean())
    return Moved(
        np.minimum(moved.sum(axis=(0, 1)) / max(reached, PREVAILS), trials).astype(np.intp), trials, paired.shape[1]
    )


def bounds_of(
    ratios: Ratios | None,
    moved: Moved,
    complete: Bools,
    settings: LocalizeSettings,
    family: int,
    high_confidence: float | None,
) -> Bounds:
    """Returns the bounds of effects; that of the share of prompts is not among them.

    Args:
        ratios: effects of windows; None without an established full effect.
        moved: images that windows move.
        complete: ``(W,)`` windows that get bounds.
        settings: the ``localize:`` block.
        family: number of windows that the bounds hold for together.
        high_confidence: confidence of the upper bounds, where a part of the error is spent elsewhere.
    """
    at, nothing = np.flatnonzero(complete), np.full(len(complete), np.nan)
    if ratios is None or not len(at):
        return Bounds(*[nothing] * len(fields(Bounds)))
    confidence, alpha = settings.confidence, 1 - settings.confidence
    two_sided, value, above = 1 - alpha / 2, ratios.value[at], high_confidence or confidence

    def lowest(student: Floats, chance: float) -> Floats:
        return spread(np.where(value > PREVAILS, np.minimum(student, moved.low(chance)[at]), student))

    def highest(student: Floats, chance: float) -> Floats:
        return spread(np.where(value < PREVAILS, np.maximum(student, moved.high(chance)[at]), student))

    def spread(values: Floats) -> Floats:
        found = nothing.copy()
        found[at] = values
        return found

    return Bounds(
        low=lowest(ratios.simultaneous_low(confidence, at, family), alpha / family),
        high=highest(ratios.simultaneous_high(above, at, family), (1 - above) / family),
        own_low=lowest(ratios.low(two_sided)[at], alpha / 2),
        own_high=highest(ratios.high(two_sided)[at], alpha / 2),
        joint_low=lowest(ratios.simultaneous_low(two_sided, at, family), alpha / 2 / family),
        joint_high=highest(ratios.simultaneous_high(two_sided, at, family), alpha / 2 / family),
        prompt_share_low=nothing,
    )
