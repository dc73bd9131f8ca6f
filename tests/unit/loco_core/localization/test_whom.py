"""Whom an outcome is about, and that none says more than its data carry."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_core.localization.base import Localization, LocalizeSettings, Rule, said
from loco_core.localization.bench import Condition, Noise, conditions, run_bench
from loco_core.localization.bench.populations import drawn_tables, populations
from loco_core.localization.bench.simulate import simulated_table
from loco_core.localization.localizers import window
from loco_core.localization.power import chance_to_pass, least_pairs, prompts_for, reach
from loco_core.statistics import binomial_low

SETTINGS = LocalizeSettings(resamples=200)
WHOLE = Noise(prompt_full=0.005, window_prompt=0.0005, window_seed=0.0005, image=0.002, content=0.001)


def localized(prompts: int, seeds: int, noise: Noise = WHOLE, kind: str = "single", seed: int = 0) -> Localization:
    table = simulated_table(kind, np.random.default_rng(seed), noise, sizes=((prompts, seeds),))
    return window.localize(table.scores, SETTINGS)


def test_eight_prompts_speak_for_themselves_and_say_what_they_show_of_others() -> None:
    found = localized(8, 4)
    assert (found.outcome, found.about, found.holds_in) == ("localized", "these_prompts", 8)
    assert found.prompt_share_low == pytest.approx((0.05 / 58) ** (1 / 8))
    assert said(found.outcome, found.about, found.n_prompts) == "localized in 8 prompts"
    assert "at least 41% of prompts like these" in found.reason


def test_sixteen_prompts_speak_of_most_prompts_like_these() -> None:
    found = localized(16, 4)
    assert (found.outcome, found.about, found.holds_in) == ("localized", "prompts_like_these", 16)
    assert found.prompt_share_low is not None
    assert found.prompt_share_low > 0.5
    assert said(found.outcome, found.about, found.n_prompts) == "localized"
    assert said("localized", "these_pictures", 16) == "picked"
    assert said("distributed", "these_prompts", 16) == "distributed in 16 prompts"


def test_one_prompt_says_nothing_of_others() -> None:
    found = localized(1, 50)
    assert (found.outcome, found.about) == ("localized", "these_prompts")
    assert said(found.outcome, found.about, found.n_prompts) == "localized in 1 prompt"
    assert "shows nothing of others" in found.reason


@pytest.mark.parametrize(("prompts", "seeds"), [(1, 1), (8, 1), (2, 2), (3, 4), (1, 12)])
def test_too_few_pictures_localize_nothing_however_clear_they_look(prompts: int, seeds: int) -> None:
    assert localized(prompts, seeds).outcome == "inconclusive"


def test_a_window_that_fails_in_some_prompts_says_in_how_many_it_holds() -> None:
    table = simulated_table("single", np.random.default_rng(3), WHOLE, sizes=((16, 6),))
    assert table.window is not None
    here = table.layout.windows.index(table.window)
    where = (table.window.start, table.window.size)
    scores = _like_clean(
        table.scores,
        lambda row: (row["window_start"], row["window_size"]) == where and row["prompt_id"] in ("p00", "p01"),
    )
    (effect,) = [window.localize(scores, SETTINGS).effects[here]]
    assert effect.holds_in == 14
    assert effect.prompt_share_low == pytest.approx(float(binomial_low(14, 16, 0.05 / 58)))


@pytest.mark.parametrize(("prompts", "seeds"), [(2, 2), (3, 2), (2, 4)])
def test_not_established_is_not_no_effect(prompts: int, seeds: int) -> None:
    noisy = Noise(image=0.06, prompt_full=0.05)
    said = {localized(prompts, seeds, noisy, seed=seed).outcome for seed in range(25)}
    assert "inconclusive" in said
    assert not said & {"no_effect", "absent"}


def test_what_is_not_established_says_how_many_seeds_would_tell() -> None:
    found = localized(8, 2, Noise(image=0.12))
    assert found.outcome == "inconclusive"
    assert "seeds of 8 prompts would tell" in found.reason


@pytest.mark.parametrize(
    ("kind", "outcome", "image"), [("single", "localized", 0.03), ("distributed", "distributed", 0.04)]
)
def test_as_many_more_seeds_as_are_named_tell_whether_a_window_passes(kind: str, outcome: str, image: float) -> None:
    noise = replace(WHOLE, image=image)
    told = []
    for seed in range(6):
        found = localized(8, 4, noise, kind, seed)
        assert found.outcome == "inconclusive"
        named = re.search(r"about (\d+) more seeds? of 8 prompts \((\d+) in place of 4\)", found.reason)
        assert named, found.reason
        assert int(named[2]) == int(named[1]) + 4
        told.append(localized(8, int(named[2]), noise, kind, seed).outcome == outcome)
    assert sum(told) >= len(told) / 2


def test_too_few_seeds_say_how_many_it_takes() -> None:
    # With 58 windows nothing passes with fewer than 32 pairs of prompt and seed.
    assert "it takes 16 seeds of 2 prompts or more, there are 2" in localized(2, 2).reason
    assert "it takes 4 seeds of 16 prompts or more, there are 2" in localized(16, 2).reason


def test_no_effect_needs_bounds_that_are_small() -> None:
    found = localized(8, 8, kind="no_effect")
    assert found.outcome == "no_effect"
    assert "at most" in found.reason


@pytest.mark.parametrize("share", [0.001, 0.03])
def test_cells_missing_at_random_lose_no_attribute(share: float) -> None:
    table = simulated_table("single", np.random.default_rng(1), WHOLE, sizes=((8, 6),))
    kept = pa.array(np.random.default_rng(2).random(table.scores.num_rows) >= share)
    found = window.localize(table.scores.filter(kept), SETTINGS)
    assert (found.outcome, found.window) == ("localized", table.window)


def test_a_window_without_cells_keeps_no_other_from_passing() -> None:
    table = simulated_table("single", np.random.default_rng(1), WHOLE, sizes=((8, 6),))
    assert table.window is not None
    other = next(w for w in table.layout.windows if not w.overlaps(table.window) and w.size == 4)
    of_other = pc.and_(pc.equal(table.scores["window_start"], other.start), pc.equal(table.scores["window_size"], 4))
    found = window.localize(table.scores.filter(pc.fill_null(pc.invert(of_other), True)), SETTINGS)
    assert found.window == table.window
    assert all((e.window_start, e.window_size) != (other.start, 4) for e in found.effects)


@pytest.mark.parametrize(
    "name",
    [
        "flips-0.2",
        "flips-0.67",
        "flips-by-seed",
        "seeds-differ",
        "unlike-prompts",
        "offset-margins",
        "heavy-tails",
        "unequal",
        "missing",
        "1-prompt",
        "3-prompts",
    ],
)
def test_stated_rates_hold_where_simple_bounds_break(name: str) -> None:
    report = run_bench(Rule(window.localize), "window", SETTINGS, tables=40, condition=conditions()[name], seed=5)
    wrong, hard, denied, missed, *covered = report.measures[:8]
    assert max(wrong.hits, hard.hits, denied.hits, missed.hits) <= 1
    for rate in covered:
        assert (rate.value or 0) > 0.88, rate


@pytest.mark.parametrize("name", populations())
def test_tables_of_real_pictures_have_a_counted_truth(name: str) -> None:
    report = run_bench(
        Rule(window.localize),
        "window",
        SETTINGS,
        tables=30,
        condition=Condition(name, sizes=((8, 4),), population=name),
    )
    wrong, _, _, _, *covered = report.measures[:8]
    assert wrong.hits <= 1
    for rate in covered:
        assert (rate.value or 0) > 0.88, rate


def test_a_population_drawn_whole_is_its_own_truth() -> None:
    name = populations()[0]
    (table,) = drawn_tables(name, 1, 0, 400, 60)
    found = window.localize(table.scores, LocalizeSettings(resamples=100))
    seen = np.array([effect.effect for effect in found.effects])
    assert seen == pytest.approx(table.here, abs=0.05)


def test_least_pairs_is_where_the_exact_bound_reaches_the_threshold() -> None:
    assert least_pairs(0.8, 0.95, 58) == 32
    assert prompts_for(0.8, 0.95) == 14
    assert binomial_low(32, 32, 0.05 / 58) >= 0.8 > binomial_low(31, 31, 0.05 / 58)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 500))
@settings(max_examples=30, deadline=None)
def test_reach_is_a_chance_and_nothing_is_promised_below_the_least(prompts: int, seeds: int, windows: int) -> None:
    found = reach(prompts, seeds, windows, 0.8, 0.95)
    assert 0 <= found.most <= found.whole <= 1
    if found.why_none:
        assert found.whole == 0


def test_more_seeds_raise_the_chance_and_a_window_below_the_threshold_has_next_to_none() -> None:
    few, many = (chance_to_pass(0.95, 8, seeds, 58, 0.8, 0.95) for seeds in (4, 16))
    assert few < many
    assert chance_to_pass(0.7, 8, 4, 58, 0.8, 0.95) < 0.01


def test_a_stride_that_left_windows_out_calls_nothing_distributed() -> None:
    table = simulated_table("distributed", np.random.default_rng(0), WHOLE, sizes=((8, 6),))
    assert window.localize(table.scores, SETTINGS).outcome == "distributed"
    starts = pc.fill_null(pc.is_in(table.scores["window_start"], pa.array([0, 4, 8, 12])), False)
    kept = pc.or_(starts, pc.is_null(table.scores["window_start"]))
    found = window.localize(table.scores.filter(kept), SETTINGS)
    assert found.outcome == "inconclusive"
    assert "9 of the 13 windows of 4 sites" in found.reason


def test_an_intervention_that_does_nothing_anywhere_tells_nothing_of_where() -> None:
    table = simulated_table("distributed", np.random.default_rng(0), WHOLE, sizes=((8, 6),))
    scores = _like_clean(table.scores, lambda row: row["control"] in ("all_sites", "window"))
    found = window.localize(scores, SETTINGS)
    assert found.outcome == "inconclusive"
    assert "swapping all sites" in found.reason


def test_the_window_of_all_sites_is_not_a_place() -> None:
    table = simulated_table("single", np.random.default_rng(1), WHOLE, sizes=((8, 6),))
    rows = [row for row in table.scores.to_pylist() if row["control"] != "window"]
    rows += [
        row | {"control": "window", "window_start": 0, "window_size": 16}
        for row in table.scores.to_pylist()
        if row["control"] == "all_sites"
    ]
    whole = pa.Table.from_pylist(rows, table.scores.schema.remove_metadata())
    assert window.localize(whole, LocalizeSettings(max_share=1)).outcome == "inconclusive"


def test_swapped_texts_are_asked_about() -> None:
    scores = simulated_table("single", np.random.default_rng(1), WHOLE, sizes=((8, 6),)).scores
    names = {"clip_score": "clip_score_donor", "clip_score_donor": "clip_score"}
    swapped = scores.rename_columns([names.get(name, name) for name in scores.column_names])
    found = window.localize(swapped, SETTINGS)
    assert found.outcome == "inconclusive"
    assert "swapped?" in found.reason


def _like_clean(scores: pa.Table, wanted: Callable[[dict[str, Any]], bool]) -> pa.Table:
    """Gives some images the scores of their clean ones."""
    rows = scores.to_pylist()
    clean = {(row["prompt_id"], row["seed"]): row for row in rows if row["control"] == "clean"}
    for row in rows:
        if wanted(row):
            of = clean[row["prompt_id"], row["seed"]]
            row |= {name: of[name] for name in ("clip_score", "clip_score_donor")}
    return pa.Table.from_pylist(rows, scores.schema.remove_metadata())
