"""Statistics of crossed designs: the same prompts meet the same seeds, so neither rows nor images are independent.

Two populations are kept apart. A statement about *these prompts* takes the seeds alone as random: `seed_variance`. One
about *prompts like these* needs exact bounds on a share of prompts (`binomial_low`): most prompts lose an attribute
with every seed and a few with none, and no bound that takes them to spread like a bell holds then.

Formula sources: variance of a mean under crossed factors, Searle, "Linear Models", chapter 11; degrees of freedom,
Satterthwaite 1946; moderated variances, Smyth 2004; joint bounds, Sidak 1967; Clopper and Pearson 1934; Holm 1979;
Wilson 1927.

scipy is imported where it is used: who only reads results has no need of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.intp] | NDArray[np.float64] | int

MOST_SHARED = 20.0
"""Degrees of freedom that a variance may borrow from other columns."""


def quarter_weights(n_prompts: int, n_seeds: int, splits: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draws random quarters of a grid, half the prompts by half the seeds, each with the quarter that shares neither.

    A single prompt, or a single seed, is not split.

    Returns:
        two arrays ``(4 * splits, n_prompts * n_seeds)`` of zeros and ones: the part to pick on, and the part to
        estimate on.
    """
    prompts, seeds = (rng.permuted(np.tile(np.arange(n), (splits, 1)), axis=1) < n // 2 for n in (n_prompts, n_seeds))
    parts: list[tuple[Floats, Floats]] = []
    for p, s in ((prompts, seeds), (~prompts, ~seeds), (prompts, ~seeds), (~prompts, seeds)):
        here, there = (
            np.einsum("bp,bs->bps", np.ones_like(p) if n_prompts < 2 else p, np.ones_like(s) if n_seeds < 2 else s)
            for p, s in ((p, s), (~p, ~s))
        )
        parts.append((here.reshape(splits, -1).astype(np.float64), there.reshape(splits, -1).astype(np.float64)))
    pick, estimate = zip(*parts, strict=True)
    return np.concatenate(pick), np.concatenate(estimate)


def two_way_variance(values: Floats, present: Bools) -> tuple[Floats, Floats]:
    """Estimates the sampling variance of the mean over prompts and seeds, both taken as random.

    A bootstrap alone is not enough here: with four seeds its variance of a seed effect is a quarter too small, and it
    counts the residual three times. The mean squares are unbiased for both.

    Args:
        values: ``(P, S, W)``.
        present: ``(P, S, W)``; absent values are filled by row mean + column mean - mean.

    Returns:
        variance ``(W,)`` and Satterthwaite degrees of freedom ``(W,)``; infinite and 1 for a single pair.
    """
    n_prompts, n_seeds, width = values.shape
    total = n_prompts * n_seeds
    if total < 2:
        return np.full(width, np.inf), np.ones(width)
    parts = _mean_squares(_filled(values, present))
    if len(parts) == 1:
        square, free = parts[0]
        return square / total, np.full(width, free)
    (prompt, f_prompt), (seed, f_seed), (rest, f_rest) = parts
    # Never below the residual alone: a negative variance component is noise.
    square = np.maximum(prompt + seed - rest, rest)
    spread = prompt**2 / f_prompt + seed**2 / f_seed + rest**2 / f_rest
    free = np.divide(square**2, spread, out=np.full(width, f_rest), where=spread > 0)
    return square / total, np.clip(free, min(f_prompt, f_seed), f_rest)


def seed_variance(values: Floats, present: Bools, pool: int = 0, alike: float | None = None) -> tuple[Floats, Floats]:
    """Estimates the sampling variance of the mean over these prompts, where the seeds alone are random.

    It is the mean square between seeds over the number of cells. That of few seeds is moderated towards what all
    columns have in common, upwards only, so that a column that varies more than the others keeps its own. It is never
    less than the mean square of the rest; but the degrees of freedom stay those of the seeds, as four that happen to
    agree in one column do not show that seeds agree.

    Args:
        values: ``(P, S, W)``.
        present: ``(P, S, W)``; absent values are filled by row mean + column mean - mean.
        pool: the first so many columns are taken together, see `moderated`.
        alike: likeness of the columns, as `likeness` says of more columns than are here.

    Returns:
        variance ``(W,)`` and degrees of freedom ``(W,)``; infinite and 1 where there is a single seed.
    """
    _, n_seeds, width = values.shape
    if n_seeds < 2:
        return np.full(width, np.inf), np.ones(width)
    cells = np.maximum(present.sum(axis=(0, 1)), 1)
    parts = _mean_squares(_filled(values, present))
    own, own_free = parts[1] if len(parts) == 3 else parts[0]
    seed, free = moderated(own, own_free, pool, alike)
    seed = np.maximum(seed, own)
    if len(parts) == 3:
        seed = np.maximum(seed, parts[2][0])
    return seed / cells, free


def likeness(values: Floats, present: Bools) -> float:
    """Estimates how alike columns ``(P, S, W)`` vary between seeds, for a smaller table with a few of them.

    A handful of columns cannot tell whether they are alike. These are taken to be, unless they differ by more than the
    error of that estimate (one standard error).

    Returns:
        degrees of freedom that a mean square may borrow, see `moderated`.
    """
    from scipy import special

    if values.shape[1] < 2:
        return 0.0
    parts = _mean_squares(_filled(values, present))
    squares, free = parts[1] if len(parts) == 3 else parts[0]
    usable = squares[np.isfinite(squares) & (squares > 0)]
    if len(usable) < 3:
        return 0.0
    spread, expected = float(np.log(usable).var(ddof=1)), float(special.polygamma(1, free / 2))
    error = max(spread, expected) * (2 / (len(usable) - 1)) ** 0.5
    return _borrowed(spread - expected - error)


def _mean_squares(values: Floats) -> list[tuple[Floats, float]]:
    """Mean squares ``(W,)`` and degrees of freedom of prompts, seeds and the rest; of all pairs if there is one row."""
    n_prompts, n_seeds, width = values.shape
    mean = values.mean(axis=(0, 1))
    if n_prompts == 1 or n_seeds == 1:
        total = n_prompts * n_seeds
        return [(values.reshape(total, width).var(axis=0, ddof=1), total - 1.0)]
    by_prompt, by_seed = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    residual = values - mean - by_prompt[:, None] - by_seed[None]
    free_prompt, free_seed = n_prompts - 1.0, n_seeds - 1.0
    free_rest = free_prompt * free_seed
    return [
        (n_seeds * (by_prompt**2).sum(axis=0) / free_prompt, free_prompt),
        (n_prompts * (by_seed**2).sum(axis=0) / free_seed, free_seed),
        ((residual**2).sum(axis=(0, 1)) / free_rest, free_rest),
    ]


def moderated(squares: Floats, free: float, pool: int, shared: float | None = None) -> tuple[Floats, Floats]:
    """Draws mean squares towards the mean of the first ``pool`` columns, as far as these are alike.

    With four seeds a mean square has three degrees of freedom, and the extremes of sixty such say little. How far they
    really differ is estimated from the same columns, so unlike columns are left alone. Columns share images, so they
    are worth fewer degrees of freedom than if they were independent: at most `MOST_SHARED` are borrowed, and the mean
    is the arithmetic one, which is on the safe side of the geometric one of the source.

    Args:
        squares: ``(W,)``.
        free: their degrees of freedom.
        pool: number of columns that are taken together; fewer than three are not.
        shared: degrees of freedom to borrow, where that is known from more columns.

    Returns:
        moderated mean squares and degrees of freedom ``(W,)``.
    """
    from scipy import special

    usable = np.flatnonzero(np.isfinite(squares[:pool]) & (squares[:pool] > 0))
    if len(usable) < 3:
        return squares, np.full(len(squares), free)
    if shared is None:
        shared = _borrowed(float(np.log(squares[usable]).var(ddof=1) - special.polygamma(1, free / 2)))
    mean = squares[usable].mean()
    return (shared * mean + free * squares) / (shared + free), np.full(len(squares), free + shared)


def _borrowed(excess: float) -> float:
    """Degrees of freedom of a prior whose logarithm varies by so much, at most `MOST_SHARED`."""
    from scipy import special

    return 2 * _inverse_trigamma(excess) if excess > special.polygamma(1, MOST_SHARED / 2) else MOST_SHARED


def _inverse_trigamma(value: float) -> float:
    """Newton's method on 1 / trigamma, which is nearly straight."""
    from scipy import special

    guess = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, guess))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, guess))
        guess += step
        if abs(step) < 1e-10 * guess:
            break
    return guess


def _filled(values: Floats, present: Bools) -> Floats:
    if present.all():
        return values
    kept = np.where(present, values, 0.0)
    mean = kept.sum(axis=(0, 1)) / np.maximum(present.sum(axis=(0, 1)), 1)
    rows = np.divide(kept.sum(axis=1), present.sum(axis=1), out=np.zeros(kept.shape[::2]) + mean, where=present.any(1))
    columns = np.divide(
        kept.sum(axis=0), present.sum(axis=0), out=np.zeros(kept.shape[1:]) + mean, where=present.any(0)
    )
    return np.where(present, values, rows[:, None] + columns[None] - mean)


@dataclass(frozen=True)
class Means:
    """Means over prompts and seeds with standard errors and degrees of freedom, each ``(W,)``."""

    value: Floats
    error: Floats
    free: Floats

    def low(self, confidence: float) -> Floats:
        """One-sided lower bound, each by itself."""
        from scipy import special

        return self.value - special.stdtrit(self.free, confidence) * self.error

    def high(self, confidence: float) -> Floats:
        """One-sided upper bound, each by itself."""
        from scipy import special

        return self.value + special.stdtrit(self.free, confidence) * self.error


@dataclass(frozen=True)
class Ratios(Means):
    """Ratios of means with what joint statements about several of them need.

    Attributes:
        influence: ``(P, S, W)`` what each pair adds to the ratio (its linear part).
        present: ``(P, S, W)``.
    """

    influence: Floats
    present: Bools

    def simultaneous_low(self, confidence: float, columns: NDArray[np.intp], family: int = 0) -> Floats:
        """One-sided lower bounds ``(len(columns),)`` that hold for all these columns together (Sidak 1967).

        Args:
            confidence: confidence of all together.
            columns: numbers of the columns.
            family: number of columns that they were chosen from, by whatever rule: the bounds hold for these all.
        """
        return self.low(confidence ** (1 / max(family, len(columns), 1)))[columns]

    def simultaneous_high(self, confidence: float, columns: NDArray[np.intp], family: int = 0) -> Floats:
        """One-sided upper bounds ``(len(columns),)``, arguments as of `simultaneous_low`."""
        return self.high(confidence ** (1 / max(family, len(columns), 1)))[columns]

    def difference(self, column: int, others: NDArray[np.intp]) -> Means:
        """Paired differences of one column to others."""
        influence = self.influence[:, :, [column]] - self.influence[:, :, others]
        present = self.present[:, :, [column]] & self.present[:, :, others]
        variance, free = seed_variance(influence, present)
        return Means(self.value[column] - self.value[others], np.sqrt(variance), free)


def crossed_means(values: Floats, present: Bools) -> Means:
    """Estimates means ``(W,)`` over prompts and seeds of ``(P, S, W)`` values, both taken as random."""
    return _means(values, present, *two_way_variance(values, present))


def seed_means(values: Floats, present: Bools) -> Means:
    """Estimates means ``(W,)`` over these prompts of ``(P, S, W)`` values, where the seeds alone are random."""
    return _means(values, present, *seed_variance(values, present))


def _means(values: Floats, present: Bools, variance: Floats, free: Floats) -> Means:
    count = present.sum(axis=(0, 1))
    mean = np.divide(
        np.where(present, values, 0).sum(axis=(0, 1)), count, out=np.full(len(count), np.nan), where=count > 0
    )
    return Means(mean, np.sqrt(variance), free)


def seed_ratios(
    numerator: Floats,
    denominator: Floats,
    present: Bools,
    pool: int,
    alike: float | None = None,
) -> Ratios:
    """Estimates ``sum(numerator) / sum(denominator)`` for every column, over the pairs that the column has.

    Errors and joint bounds are about these prompts, where the seeds alone are random. A column without pairs is NaN
    throughout.

    Args:
        numerator: ``(P, S, W)``.
        denominator: ``(P, S)``.
        present: ``(P, S, W)``.
        pool: variances are moderated towards what the first so many columns have in common.
        alike: likeness of the columns, see `likeness`; None estimates it from themselves.
    """
    n_prompts, n_seeds, width = numerator.shape
    top = np.where(present, numerator, 0.0).reshape(-1, width)
    bottom = np.where(present, denominator[:, :, None], 0.0).reshape(-1, width)
    count = np.maximum(present.sum(axis=(0, 1)), 1)
    full = bottom.sum(axis=0)
    value = np.divide(top.sum(axis=0), full, out=np.full(width, np.nan), where=full > 0)
    influence = ((top - value * bottom) / np.where(full > 0, full / count, np.nan)).reshape(n_prompts, n_seeds, width)
    variance, free = seed_variance(influence, present, pool, alike)
    return Ratios(value, np.sqrt(variance), free, influence, present)


def weighted_ratios(top: Floats, bottom: Floats, weights: Floats) -> Floats:
    """Ratios ``(B, W)`` of ``(P * S, W)`` sums under ``(B, P * S)`` weights."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nan_to_num((weights @ top) / (weights @ bottom), posinf=0.0, neginf=0.0))


def binomial_low(hits: Counts, trials: Counts, alpha: float) -> Floats:
    """Exact one-sided lower bounds of shares (Clopper and Pearson 1934), each ``(W,)``.

    Exact for independent trials; where these differ in their shares the bound is about the mean share (Hoeffding 1956).
    Pictures of several prompts with one seed are not quite independent: docs/explanation/statistics.md says what that
    costs.

    Args:
        hits: number of hits.
        trials: number of trials; 0 of which bound nothing.
        alpha: chance that one bound is wrong.
    """
    from scipy import special

    some = np.asarray(hits) > 0
    first, second = np.where(some, hits, 1.0), np.where(some, np.asarray(trials) - hits + 1.0, 1.0)
    return np.asarray(np.where(some, special.betaincinv(first, second, alpha), 0.0))


def binomial_high(hits: Counts, trials: Counts, alpha: float) -> Floats:
    """Exact one-sided upper bounds of shares, see `binomial_low`."""
    return 1 - binomial_low(np.asarray(trials) - hits, trials, alpha)


def trials_without_failure(share: float, alpha: float) -> int:
    """How many trials without a failure show a share, by `binomial_low`."""
    return math.ceil(math.log(alpha) / math.log(share) - 1e-9)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusts p-values so that rejecting those below alpha errs at all with at most alpha (Holm)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(order))
    steps = np.asarray(p_values)[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return tuple(float(p) for p in adjusted)


def wilson_interval(rate: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a rate seen in a number of trials that need not be whole, such as an effective one.

    Args:
        rate: the rate.
        trials: above 0.
        confidence: confidence of the two-sided interval.
    """
    from scipy import special

    z = float(special.ndtri((1 + confidence) / 2))
    centre = rate + z**2 / (2 * trials)
    half = z * (rate * (1 - rate) / trials + z**2 / (4 * trials**2)) ** 0.5
    # The ends meet 0 and 1 exactly in theory, not in floating point.
    low, high = ((centre + side * half) / (1 + z**2 / trials) for side in (-1, 1))
    return (0.0 if rate == 0 else max(0.0, low)), (1.0 if rate == 1 else min(1.0, high))


def wilson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson bounds of a rate; ``(0, 1)`` without trials."""
    if not trials:
        return 0.0, 1.0
    return wilson_interval(hits / trials, trials, confidence)
