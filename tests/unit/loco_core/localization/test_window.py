from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_core.errors import LocalizationError
from loco_core.localization.base import Localization, LocalizeSettings
from loco_core.localization.bench import Noise, SimulatedTable
from loco_core.localization.bench.truths import KINDS, WINDOWS
from loco_core.localization.localizers.window import localize
from loco_core.testing.localizers import SETTINGS, SITE_NAMES, a_table
from loco_core.types import Window
from tests.support.score_tables import QUIET, is_control, rows_of

SILENT = Noise(prompt_full=0, window_prompt=0, window_seed=0, image=0, content=0)
ANSWERS = {
    "single": "localized",
    "all_at_0.70": "distributed",
    "two_disjoint": "multiple",
    "redundant": "redundant",
    "distributed": "distributed",
    "graded": "distributed",
    "damaging": "damaging",
    "absent": "absent",
    "no_effect": "no_effect",
}


def answer(table: SimulatedTable, with_settings: LocalizeSettings = SETTINGS) -> Localization:
    """Asks as a sweep does: complements are added where they are asked for."""
    found = localize(table.scores, with_settings, SITE_NAMES)
    if found.wants:
        found = localize(table.with_complements(windows(found)), with_settings, SITE_NAMES)
    return found


def windows(found: Localization) -> list[Window]:
    """The windows whose complements it wants."""
    assert {request.control for request in found.wants} <= {"complement"}
    return [request.window for request in found.wants if request.window is not None]


def changed(scores: pa.Table, column: str, rows: np.ndarray, value: object) -> pa.Table:
    """A table with one value in some rows of a column."""
    kind = pa.string() if pa.types.is_dictionary(scores[column].type) else scores[column].type
    new = pc.if_else(pa.array(rows), pa.scalar(value, kind), scores[column].cast(kind))
    return scores.set_column(scores.column_names.index(column), column, new)


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("seed", range(4))
def test_enough_images_give_the_true_answer(kind: str, seed: int) -> None:
    table = a_table(kind, seed, QUIET)
    found = answer(table)
    assert found.outcome == ANSWERS[kind]
    assert found.window == table.window


def test_fifteen_windows_at_seven_tenths_are_no_localization() -> None:
    noise = Noise(window_prompt=0.015, window_seed=0.01, image=0.03)
    found = [localize(a_table("all_at_0.70", s, noise).scores, SETTINGS) for s in range(20)]
    lucky = [any((effect.effect or 0) >= 0.8 for effect in f.effects) for f in found]
    assert np.mean(lucky) > 0.7, "the best one reaches the threshold by luck"
    assert "localized" not in {f.outcome for f in found}


def test_effects_are_shares_of_the_full_effect() -> None:
    table = a_table("single", 3, SILENT)
    found = localize(table.scores, SETTINGS)
    assert [e.effect for e in found.effects] == pytest.approx(list(table.effects))
    assert found.all_sites_effect == pytest.approx(1)
    assert found.effect == pytest.approx(0.95)


def test_complement_of_the_picked_window_gives_its_sufficiency() -> None:
    table = a_table("single", 0, QUIET)
    first = localize(table.scores, SETTINGS)
    assert windows(first) == [first.window]
    assert first.sufficiency is None
    second = localize(table.with_complements(windows(first)), SETTINGS)
    assert second.wants == ()
    assert second.sufficiency == pytest.approx(1, abs=0.05)
    assert replace(second, sufficiency=None, cells=first.cells, wants=first.wants) == first


def test_redundant_needs_complements_and_asks_for_disjoint_ones_that_cover_the_model() -> None:
    table = a_table("redundant", 1, QUIET)
    first = localize(table.scores, SETTINGS)
    assert first.outcome == "distributed"
    assert "complements" in first.reason
    assert sorted(site for window in windows(first) for site in window.sites) == list(range(16))
    second = localize(table.with_complements(windows(first)), SETTINGS)
    assert (second.outcome, second.wants) == ("redundant", ())
    assert second.sufficiency is not None
    assert second.sufficiency > 0.5


def test_invalid_images_are_damage_and_never_evidence_of_removal() -> None:
    table = a_table("single", 0, QUIET)
    assert table.window is not None
    scores = changed(table.scores, "status", rows_of(table.scores, table.window), "invalid")
    scores = changed(scores, "clip_score", rows_of(table.scores, table.window), None)
    found = localize(scores, SETTINGS)
    effect = found.effects[WINDOWS.index(table.window)]
    assert (effect.damage, effect.eligible, effect.effect) == (1, False, 0)
    assert found.window != table.window


def test_a_window_of_invalid_images_leaves_it_open_whether_it_holds_the_attribute() -> None:
    table = a_table("distributed", 0, QUIET)
    assert localize(table.scores, SETTINGS).outcome == "distributed"
    scores = changed(table.scores, "status", rows_of(table.scores, Window(3, 4)), "invalid")
    assert localize(scores, SETTINGS).outcome == "inconclusive"


def test_without_unrelated_content_only_invalid_images_are_damage() -> None:
    table = a_table("damaging", 0, QUIET)
    assert localize(table.scores.drop_columns(["clip_score_unrelated"]), SETTINGS).outcome == "localized"


def test_one_lost_cell_is_borne_and_many_are_incomplete() -> None:
    table = a_table("single", 0, QUIET)
    assert table.window is not None
    rows = np.flatnonzero(rows_of(table.scores, table.window))
    one = np.delete(np.arange(table.scores.num_rows), rows[:1])
    many = np.delete(np.arange(table.scores.num_rows), rows[: len(rows) // 4])
    assert localize(table.scores.take(one), SETTINGS).window == table.window
    found = localize(table.scores.take(many), SETTINGS)
    assert (found.outcome, found.window) == ("incomplete", None)
    assert "1 of 58 windows" in found.reason


@pytest.mark.parametrize("kept", [0, 61])
@pytest.mark.parametrize("window", [Window(0, 1), Window(0, 3), Window(14, 2)])
def test_what_a_window_elsewhere_lacks_keeps_no_other_from_passing(window: Window, kept: int) -> None:
    table = a_table("single", 0, QUIET)
    rows = np.flatnonzero(rows_of(table.scores, window))
    left = np.delete(np.arange(table.scores.num_rows), rows[kept:])
    found = localize(table.scores.take(left), SETTINGS)
    assert (found.outcome, found.window) == ("localized", table.window)


@pytest.mark.parametrize("control", ["clean", "donor"])
def test_lost_or_invalid_references_are_incomplete(control: str) -> None:
    scores = a_table("single", 0, QUIET).scores
    chosen = is_control(scores, control) & (scores["seed"].to_numpy() < 2)
    for broken in (scores.filter(pa.array(~chosen)), changed(scores, "status", chosen, "invalid")):
        found = localize(broken, SETTINGS)
        assert found.outcome == "incomplete"
        assert "clean or donor" in found.reason


def test_clean_images_on_the_donors_side_are_not_absent_if_the_donor_moves_them() -> None:
    scores = a_table("single", 0, QUIET).scores
    lowered = pc.add(scores["clip_score_donor"], 0.3)
    scores = scores.set_column(scores.column_names.index("clip_score_donor"), "clip_score_donor", lowered)
    found = localize(scores, SETTINGS)
    assert found.outcome == "localized"
    assert found.effects[0].flip_rate is None, "no clean image is on the attribute's side"


def test_sizes_that_were_not_swept_are_not_called_distributed() -> None:
    scores = a_table("distributed", 0, QUIET).scores
    small = pc.or_kleene(pc.is_null(scores["window_size"]), pc.less(scores["window_size"], 3))
    found = localize(scores.filter(small), SETTINGS, SITE_NAMES)
    assert found.outcome == "inconclusive"
    assert "windows of 4 sites" in found.reason
    narrow = LocalizeSettings(resamples=200, max_share=0.125)
    assert localize(scores.filter(small), narrow, SITE_NAMES).outcome == "distributed"


def test_windows_beyond_the_largest_share_are_never_picked() -> None:
    table = next(t for t in (a_table("single", s, QUIET) for s in range(50)) if t.window and t.window.size == 4)
    found = localize(table.scores, LocalizeSettings(resamples=200, max_share=0.2))
    assert found.outcome != "localized"
    assert found.best_size == 3


def test_too_few_seeds_are_inconclusive_not_distributed() -> None:
    noise = Noise(window_seed=0.02, window_prompt=0.02, image=0.03)
    outcomes = {localize(a_table("single", s, noise).scores, SETTINGS).outcome for s in range(12)}
    assert "inconclusive" in outcomes
    assert "distributed" not in outcomes


@pytest.mark.parametrize(("prompts", "seeds"), [(1, 1), (1, 4), (8, 1), (2, 2), (8, 4)])
def test_small_tables_are_answered_and_marked_exploratory(prompts: int, seeds: int) -> None:
    scores = a_table("single", 0, QUIET).scores
    ids = pa.array([f"p{i:02}" for i in range(prompts)])
    kept = pc.and_(pc.is_in(scores["prompt_id"].cast(pa.string()), ids), pc.less(scores["seed"], seeds))
    found = localize(scores.filter(kept), SETTINGS)
    assert (found.n_prompts, found.n_seeds) == (prompts, seeds)
    assert found.exploratory == (prompts < 8 or seeds < 4)
    if prompts * seeds == 1:
        assert found.outcome != "localized", "one image is no evidence"


def test_flip_rate_counts_images_that_change_sides() -> None:
    table = a_table("single", 0, SILENT)
    assert table.window is not None
    found = localize(table.scores, SETTINGS)
    scores = table.scores
    margin = scores["clip_score"].to_numpy() - scores["clip_score_donor"].to_numpy()
    sided = margin[is_control(scores, "clean")] > 0
    swapped = margin[rows_of(scores, table.window)]
    assert found.effects[WINDOWS.index(table.window)].flip_rate == pytest.approx((swapped[sided] < 0).mean())


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10_000))
def test_order_of_rows_does_not_matter(kind: str, seed: int) -> None:
    table = a_table(kind, seed)
    order = np.random.default_rng(seed).permutation(table.scores.num_rows)
    assert localize(table.scores.take(order), SETTINGS) == localize(table.scores, SETTINGS)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), offset=st.floats(-0.2, 0.2))
def test_what_is_added_to_all_images_of_a_prompt_cancels(seed: int, offset: float) -> None:
    table = a_table("single", seed)
    first = np.asarray(pc.equal(table.scores["prompt_id"].cast(pa.string()), "p00"))
    moved = pc.add(table.scores["clip_score"], pa.array(np.where(first, offset, 0.0)))
    scores = table.scores.set_column(table.scores.column_names.index("clip_score"), "clip_score", moved)
    one, two = localize(table.scores, SETTINGS), localize(scores, SETTINGS)
    assert one.window == two.window
    assert [e.effect for e in one.effects] == pytest.approx([e.effect for e in two.effects], abs=1e-9)


def test_two_interventions_in_one_table_are_refused() -> None:
    scores = a_table().scores
    with pytest.raises(LocalizationError, match="several rows for one prompt"):
        localize(pa.concat_tables([scores, scores]), SETTINGS)


@pytest.mark.parametrize("control", ["clean", "donor", "window"])
def test_missing_controls_are_named(control: str) -> None:
    scores = a_table().scores
    with pytest.raises(LocalizationError, match=f'no "{control}" rows'):
        localize(scores.filter(pa.array(~is_control(scores, control))), SETTINGS)


def test_the_number_of_sites_must_be_known_and_windows_must_fit() -> None:
    scores = a_table().scores
    without = scores.filter(pa.array(~is_control(scores, "all_sites")))
    with pytest.raises(LocalizationError, match="site names"):
        localize(without, SETTINGS)
    assert localize(without, SETTINGS, SITE_NAMES).all_sites_effect is None
    with pytest.raises(LocalizationError, match="beyond the model's 10 sites"):
        localize(scores, SETTINGS, SITE_NAMES[:10])


def test_an_effect_is_taken_from_the_clean_image_made_beside_it() -> None:
    """Another device draws all its images a little differently, the clean one included: that is no effect."""
    table = a_table("single", 0, QUIET)
    scores = table.scores
    moved = np.array(scores["seed"].to_pylist()) % 2 == 1
    windows = np.array(scores["control"].to_pylist()) == "window"
    shift = np.where(moved & windows, 0.05, 0.0)
    clean = {
        (row["prompt_id"], row["seed"]): row["clip_score"] - row["clip_score_donor"]
        for row in scores.to_pylist()
        if row["control"] == "clean"
    }
    own = np.array([clean[row["prompt_id"], row["seed"]] for row in scores.to_pylist()]) + shift
    elsewhere = scores.set_column(
        scores.column_names.index("clip_score"), "clip_score", pa.array(scores["clip_score"].to_numpy() + shift)
    ).append_column("margin_clean", pa.array(own))
    before, after = localize(scores, SETTINGS), localize(elsewhere, SETTINGS)
    assert [e.effect for e in after.effects] == pytest.approx([e.effect for e in before.effects])
    assert [e.effect for e in localize(elsewhere.drop_columns(["margin_clean"]), SETTINGS).effects] != pytest.approx(
        [e.effect for e in before.effects]
    )
