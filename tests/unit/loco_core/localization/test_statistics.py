from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loco_core.statistics import (
    binomial_high,
    binomial_low,
    crossed_means,
    holm,
    moderated,
    quarter_weights,
    seed_means,
    seed_ratios,
    seed_variance,
    trials_without_failure,
    two_way_variance,
    wilson,
)


def crossed_noise(rng: np.random.Generator, prompts: int, seeds: int, width: int) -> np.ndarray:
    """Variance 1 between prompts, 0.5 between seeds, 0.25 in each image."""
    by_prompt = rng.standard_normal((prompts, 1, width))
    by_seed = np.sqrt(0.5) * rng.standard_normal((1, seeds, width))
    return np.asarray(by_prompt + by_seed + 0.5 * rng.standard_normal((prompts, seeds, width)))


def test_two_way_variance_is_that_of_the_mean() -> None:
    values = crossed_noise(np.random.default_rng(0), 8, 4, 20_000)
    variance, free = two_way_variance(values, np.ones(values.shape, dtype=bool))
    true = 1 / 8 + 0.5 / 4 + 0.25 / 32
    assert values.mean(axis=(0, 1)).var() == pytest.approx(true, rel=0.03)
    assert variance.mean() == pytest.approx(true, rel=0.05)
    assert (free >= 3).all()
    assert (free <= 21).all()


@pytest.mark.parametrize(("prompts", "seeds"), [(8, 4), (12, 8), (8, 1), (1, 8)])
def test_intervals_cover_where_rows_as_units_would_not(prompts: int, seeds: int) -> None:
    rng = np.random.default_rng(1)
    crossed = min(prompts, seeds) > 1
    values = crossed_noise(rng, prompts, seeds, 4000) if crossed else rng.standard_normal((prompts, seeds, 4000))
    means = crossed_means(values, np.ones(values.shape, dtype=bool))
    covered = ((means.low(0.975) <= 0) & (means.high(0.975) >= 0)).mean()
    assert 0.93 <= covered <= 0.975
    if crossed:
        naive = 1.96 * values.std(axis=(0, 1)) / np.sqrt(prompts * seeds)
        assert (np.abs(means.value) <= naive).mean() < 0.8


def test_missing_values_change_the_variance_little() -> None:
    values = crossed_noise(np.random.default_rng(2), 10, 6, 500)
    present = np.random.default_rng(3).random(values.shape) > 0.05
    whole, _ = two_way_variance(values, np.ones(values.shape, dtype=bool))
    holed, _ = two_way_variance(np.where(present, values, np.nan), present)
    assert np.median(holed / whole) == pytest.approx(1, abs=0.03)


def test_a_single_pair_tells_nothing() -> None:
    variance, _ = two_way_variance(np.ones((1, 1, 2)), np.ones((1, 1, 2), dtype=bool))
    assert np.isinf(variance).all()


def test_like_variances_are_pooled_and_unlike_ones_left_alone() -> None:
    rng = np.random.default_rng(4)
    like, more = moderated(rng.chisquare(4, 60) / 4, 4.0, 60)
    assert like.std() / like.mean() < 0.25
    assert (more > 20).all()
    spread = np.exp(rng.normal(0, 2, 60)) * rng.chisquare(4, 60) / 4
    unlike, few = moderated(spread, 4.0, 60)
    assert (few < 6).all()
    assert unlike.max() > 0.7 * spread.max()


def test_seed_variance_is_that_of_the_mean_over_these_prompts() -> None:
    rng = np.random.default_rng(6)
    by_prompt = rng.standard_normal((8, 1, 1))
    by_seed = 0.5 * rng.standard_normal((1, 4, 20_000))
    values = by_prompt + by_seed + rng.standard_normal((8, 4, 20_000))
    variance, free = seed_variance(values, np.ones(values.shape, dtype=bool))
    true = 0.25 / 4 + 1 / 32
    assert (values.mean(axis=(0, 1)) - by_prompt.mean()).var() == pytest.approx(true, rel=0.03)
    assert true <= variance.mean() <= 1.15 * true, "never less than the rest, so a little too much"
    assert set(free) == {3.0}, "of the seeds, whatever the rest says"


@pytest.mark.parametrize(("prompts", "seeds"), [(1, 4), (2, 2), (8, 4), (16, 2)])
@pytest.mark.parametrize("by_seed", [0.0, 0.4, 1.0])
def test_bounds_about_these_prompts_hold_however_unlike_they_are(prompts: int, seeds: int, by_seed: float) -> None:
    rng = np.random.default_rng(7)
    own = 5 * rng.standard_normal((prompts, 1, 4000))
    values = own + by_seed * rng.standard_normal((1, seeds, 4000)) + rng.standard_normal((prompts, seeds, 4000))
    means = seed_means(values, np.ones(values.shape, dtype=bool))
    assert (means.low(0.95) <= own.mean(axis=(0, 1))).mean() > 0.935


def test_one_seed_bounds_nothing() -> None:
    variance, _ = seed_variance(np.ones((8, 1, 2)), np.ones((8, 1, 2), dtype=bool))
    assert np.isinf(variance).all()


def test_ratio_takes_numerator_and_denominator_of_the_same_pairs() -> None:
    rng = np.random.default_rng(5)
    full = rng.uniform(0.5, 2, (8, 4))
    ratios = seed_ratios(0.6 * full[:, :, None], full, np.ones((8, 4, 1), dtype=bool), pool=1)
    assert ratios.value == pytest.approx(0.6)
    assert ratios.error == pytest.approx(0, abs=1e-12)


def test_simultaneous_bounds_hold_together() -> None:
    held = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        own, columns = 5 * rng.standard_normal((10, 1, 40)), np.arange(40)
        values = own + rng.standard_normal((1, 6, 40)) + rng.standard_normal((10, 6, 40))
        present = np.ones(values.shape, dtype=bool)
        ratios = seed_ratios(values, np.ones((10, 6)), present, pool=40)
        low = ratios.simultaneous_low(0.95, columns)
        assert (low < ratios.low(0.95)).all()
        held.append((low <= own.mean(axis=(0, 1))).all())
    assert np.mean(held) > 0.9


def test_quarters_share_neither_prompts_nor_seeds() -> None:
    pick, estimate = (part.reshape(-1, 9, 4) for part in quarter_weights(9, 4, 5, np.random.default_rng(0)))
    assert len(pick) == 20
    for here, there in zip(pick, estimate, strict=True):
        assert not (here.any(axis=1) & there.any(axis=1)).any()
        assert not (here.any(axis=0) & there.any(axis=0)).any()
        assert here.sum() in (4 * 2, 5 * 2)


def test_a_single_prompt_is_split_by_seeds_alone() -> None:
    pick, estimate = quarter_weights(1, 6, 3, np.random.default_rng(0))
    assert ((pick + estimate) == 1).all()


@pytest.mark.parametrize(("hits", "trials"), [(0, 8), (5, 8), (8, 8), (31, 32)])
def test_exact_bounds_are_those_of_the_binomial(hits: int, trials: int) -> None:
    low, high = binomial_low(hits, trials, 0.05), binomial_high(hits, trials, 0.05)
    if hits:
        assert stats.binom.sf(hits - 1, trials, low) == pytest.approx(0.05)
    else:
        assert low == 0
    if hits < trials:
        assert stats.binom.cdf(hits, trials, high) == pytest.approx(0.05)
    else:
        assert high == 1


def test_trials_without_failure_by_hand() -> None:
    assert trials_without_failure(0.8, 0.05) == 14
    assert trials_without_failure(0.8, 0.05 / 58) == 32
    assert binomial_low(14, 14, 0.05) >= 0.8 > binomial_low(13, 13, 0.05)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_wilson_by_hand() -> None:
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0)
