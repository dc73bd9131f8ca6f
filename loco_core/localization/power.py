"""What a sweep of a given size can show: the chance that a window passes, and how much more would show one.

The model of a picture, measured on the bundled models at windows that hold an attribute: it loses its attribute
altogether or not at all; most prompts lose it with every seed and a few with almost none, a correlation of
`CORRELATION` within prompts; what is left varies by `SPREAD` of the full effect from image to image, and by `BY_SEED`
from seed to seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from loco_core.localization.base import LocalizeSettings
from loco_core.localization.bounds import LEAST_SEEDS, PREVAILS
from loco_core.localization.estimates import WindowEstimates
from loco_core.statistics import MOST_SHARED, binomial_low, trials_without_failure

CORRELATION = 0.55
SPREAD = 0.15
BY_SEED = 0.04
DRAWS, CELLS = 4000, 2**23
"""Simulated sweeps, and pictures that they may have together: of millions of seeds few sweeps tell as much."""
MOST_PAIRS = 100_000
POWER = 0.8
"""Chance with which the number of seeds that is named tells what it is named for, if all is as it looks."""


def least_pairs(threshold: float, confidence: float, windows: int) -> int | None:
    """How many pairs of prompt and seed show that any window passes, if all of their images lose the attribute.

    Args:
        threshold: threshold to be reached.
        confidence: confidence of the bound, which holds for all windows together.
        windows: number of windows.
    """
    return _trials(threshold, (1 - confidence) / windows)


def prompts_for(share: float, confidence: float, windows: int = 1) -> int | None:
    """How many prompts without a failure show that a window holds in a share of prompts like these.

    Args:
        share: share to be shown.
        confidence: confidence of the bound.
        windows: among how many it was picked; 1 where it was named beforehand.
    """
    return _trials(share, (1 - confidence) / windows)


def _trials(share: float, alpha: float) -> int | None:
    """How many without a failure show a share; None of the whole, which no number shows."""
    return None if share >= 1 else trials_without_failure(share, alpha)


def chance_to_pass(effect: float, prompts: int, seeds: int, windows: int, threshold: float, confidence: float) -> float:
    """Chance that a window of a given effect is shown to reach the threshold.

    Args:
        effect: its mean over prompts like these, 0 to 1.
        prompts: number of prompts of the sweep.
        seeds: number of seeds of the sweep.
        windows: number of windows for which the bounds hold together.
        threshold: threshold to be reached.
        confidence: confidence of the bounds.
    """
    if seeds < LEAST_SEEDS:
        return 0.0
    rng = np.random.default_rng(0)
    # More pictures than one sweep of the simulation may have show no less than these.
    seeds = min(seeds, max(LEAST_SEEDS, CELLS // prompts))
    alpha, pairs = (1 - confidence) / windows, prompts * seeds
    draws = max(1, min(DRAWS, CELLS // pairs))
    if effect >= 1:
        rates = np.ones((draws, prompts, 1))
    else:
        spread = 1 / CORRELATION - 1
        rates = rng.beta(effect * spread, (1 - effect) * spread, (draws, prompts, 1))
    lost = (rng.random((draws, prompts, seeds)) < rates).astype(np.float64)
    by_seed = BY_SEED * rng.standard_normal((draws, 1, seeds))
    seen = lost + by_seed + SPREAD * rng.standard_normal(lost.shape)
    # Seeds differ from each other by what all windows say together: hence the freedom.
    error = np.sqrt((_rest(seen) + prompts * BY_SEED**2) / pairs)
    student = seen.mean(axis=(1, 2)) - special.stdtrit(seeds - 1 + MOST_SHARED / 2, 1 - alpha) * error
    moved = binomial_low((seen >= PREVAILS).sum(axis=(1, 2)), pairs, alpha)
    return float((np.minimum(student, moved) >= threshold).mean())


def _rest(seen: np.ndarray) -> np.ndarray:
    """Mean square ``(n,)`` of ``(n, P, S)`` beside prompts and seeds; of one prompt beside its mean."""
    _, prompts, seeds = seen.shape
    left = seen - seen.mean(axis=2, keepdims=True)
    if prompts > 1:
        left = left - left.mean(axis=1, keepdims=True)
    return np.asarray(np.square(left).sum(axis=(1, 2)) / (max(prompts - 1, 1) * (seeds - 1)))


@dataclass(frozen=True)
class Reach:
    """What a sweep can show of one attribute.

    Attributes:
        prompts: number of prompts of the sweep.
        seeds: number of seeds of the sweep.
        windows: number of windows for which bounds hold together.
        threshold: threshold that effects are to reach.
        confidence: confidence of the bounds.
        least_pairs: pairs of prompt and seed without which no window can pass.
        whole: chance that a window is localized that takes all of the attribute from every picture.
        most: chance that a window is localized that takes it from nine in ten, over prompts like these.
        prompt_share: the share of prompts like these that is shown if the window holds in every prompt.
        prompts_for_most: prompts without a failure that show more than half of prompts like these.
        prompts_for_threshold: prompts that show as large a share as the threshold of the effect; None where none do.
    """

    prompts: int
    seeds: int
    windows: int
    threshold: float
    confidence: float
    least_pairs: int | None
    whole: float
    most: float
    prompt_share: float
    prompts_for_most: int | None
    prompts_for_threshold: int | None

    @property
    def why_none(self) -> str:
        """Why no window can be localized, whatever the pictures show; empty where one can."""
        if self.least_pairs is None:
            return "no number of pictures shows a threshold of 1; 0.8 is the default"
        if self.seeds < LEAST_SEEDS:
            return f"fewer than {LEAST_SEEDS} seeds do not show that others do the same"
        if self.prompts * self.seeds < self.least_pairs:
            pictures = f"{self.prompts} x {self.seeds} pictures of a window are too few"
            enough = math.ceil(self.least_pairs / self.prompts)
            of = f"{self.prompts} prompt{'' if self.prompts == 1 else 's'}"
            return f"{pictures}; if all of them lose the attribute it takes {self.least_pairs}, {enough} seeds of {of}"
        return ""


def reach(prompts: int, seeds: int, windows: int, threshold: float, confidence: float) -> Reach:
    """Says what a sweep of some size can show, see `Reach`; arguments as of `chance_to_pass`."""
    whole, most = (chance_to_pass(effect, prompts, seeds, windows, threshold, confidence) for effect in (1.0, 0.9))
    return Reach(
        prompts=prompts,
        seeds=seeds,
        windows=windows,
        threshold=threshold,
        confidence=confidence,
        least_pairs=least_pairs(threshold, confidence, windows),
        whole=whole,
        most=most,
        prompt_share=((1 - confidence) / windows) ** (1 / prompts),
        prompts_for_most=prompts_for(0.5, confidence, windows),
        prompts_for_threshold=prompts_for(threshold, confidence, windows),
    )


def seeds_to_tell(estimates: WindowEstimates, column: int, settings: LocalizeSettings) -> int | None:
    """How many seeds of the same prompts would tell whether a window passes, if it and its images are as they look.

    Args:
        estimates: estimates of all windows.
        column: column of the window; if its effect is below the threshold, the seeds would show that it is.
        settings: the ``localize:`` block.

    Returns:
        None where no number of seeds that can be drawn would.
    """
    apart = float(estimates.effect[column]) - settings.threshold
    n_prompts, n_seeds = (int(estimates.paired.any(axis=axis).sum()) for axis in (1, 0))
    if estimates.ratios is None or not abs(apart) > 0 or settings.threshold >= 1:
        return None
    alpha = (1 - settings.confidence) / max(estimates.family, 1)
    # A seed more is a picture more of every prompt.
    seeds = np.arange(max(n_seeds + 1, LEAST_SEEDS), MOST_PAIRS // n_prompts)
    if not len(seeds):
        return None
    error = float(estimates.ratios.error[column]) * np.sqrt(n_seeds / seeds)
    enough = (_quantiles(seeds[0], len(seeds), alpha) + special.ndtri(POWER)) * error <= abs(apart)
    if apart > 0:
        share = float(estimates.moved.hits[column] / max(int(estimates.moved.trials[column]), 1))
        pairs = n_prompts * seeds
        # So many pictures move with a chance of `POWER`: fewer than expected.
        moved = pairs if share >= 1 else np.maximum(np.floor(special.bdtrik(1 - POWER, pairs, share)), 0)
        enough &= binomial_low(moved.astype(np.intp), pairs, alpha) >= settings.threshold
    # Counts are whole, so that a number may be enough and the next not: from this one on all are.
    first = int(np.flatnonzero(~enough)[-1]) + 1 if not enough.all() else 0
    return int(seeds[first]) if first < len(seeds) else None


@lru_cache(maxsize=16)
def _quantiles(first: int, count: int, alpha: float) -> np.ndarray:
    """Student's quantiles for so many numbers of seeds, with the freedom that effects have, see `chance_to_pass`."""
    return np.asarray(special.stdtrit(np.arange(first, first + count) - 1 + MOST_SHARED / 2, 1 - alpha))
