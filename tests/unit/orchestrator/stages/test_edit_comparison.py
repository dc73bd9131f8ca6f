"""Whether an edit is worth more than its baselines."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.stages.edit.comparison import comparisons, difference
from orchestrator.stages.edit.summary import EditSummary, share


def pictures(hits: int, of: int) -> dict[tuple[str, int], bool]:
    """Pictures of as many prompts, one seed each: independent ones."""
    return {(f"prompt {index}", 0): index < hits for index in range(of)}


def summary(
    edit_id: str, scope: str, flipped: int, kept: int, *, of: int = 200, place: str = "window: sites 8-9"
) -> EditSummary:
    """An edit that flips and keeps some of 200 pictures."""
    counted = [share(pictures(hits, of)) for hits in (flipped, kept)]
    return EditSummary(
        edit_id, "toy", "style/lumio", "loco_edit", "paired", scope, scope == "localized", (8, 9), place, counted[0],
        counted[0], counted[1], counted[1], counted[1], share({}),
    )  # fmt: skip


def test_an_edit_beats_a_baseline_that_is_as_effective_and_spares_less() -> None:
    mine = summary("a", "localized", 180, 190)
    (found,) = comparisons(mine, [mine, summary("b", "all_sites", 185, 120)])
    assert (found.against, found.standing, found.as_effective) == ("all_sites", "better", 1)
    assert "more specific at equal efficacy (+35 points" in found.sentence


def test_a_baseline_that_spares_as_much_is_not_told_apart_and_one_that_spares_more_is_said() -> None:
    mine = summary("a", "localized", 180, 150)
    same, more = summary("b", "all_sites", 180, 151), summary("c", "window", 180, 190)
    assert [item.standing for item in comparisons(mine, [mine, same, more])] == ["not told apart", "worse"]


def test_a_baseline_without_effect_is_no_rival() -> None:
    mine = summary("a", "localized", 180, 150)
    (found,) = comparisons(mine, [mine, summary("b", "placebo", 2, 200)])
    assert (found.standing, found.difference) == ("unrivalled", None)


def test_baselines_of_another_place_are_no_rivals() -> None:
    mine = summary("a", "localized", 180, 150)
    assert comparisons(mine, [mine, summary("b", "window", 180, 190, place="by hand: sites 3-4")]) == []


def test_baselines_of_a_published_edit_are_no_rivals_of_ours() -> None:
    mine = summary("a", "localized", 180, 150)
    assert comparisons(mine, [mine, replace(summary("b", "all_sites", 180, 190), targets="published")]) == []


def test_only_pictures_that_both_have_are_compared() -> None:
    few = summary("a", "localized", 18, 20, of=20)
    # The rival keeps none of the first 20 pictures that the edit was measured on too, and all others.
    rival = summary("b", "all_sites", 190, 0)
    kept = {picture: index >= 20 for index, picture in enumerate(rival.neighbours_kept.pictures)}
    (found,) = comparisons(few, [few, replace(rival, neighbours_kept=share(kept))])
    assert found.difference is not None
    assert found.difference[0] == 1.0
    elsewhere = share({("another prompt", seed): True for seed in range(20)})
    (found,) = comparisons(few, [few, replace(rival, flipped=elsewhere)])
    assert found.standing == "not measured"


def test_an_edit_at_a_window_is_held_against_the_methods_that_were_chosen() -> None:
    mine, placebo = summary("a", "localized", 180, 190), summary("p", "placebo", 0, 200)
    uce = replace(
        summary("u", "method", 190, 120, place="method: uce, all sites"),
        editor="uce",
        chosen=True,
        sites=tuple(range(16)),
    )
    weaker = replace(uce, edit_id="v", chosen=False)
    elsewhere = replace(uce, edit_id="w", attribute="style/velor")
    everyone = [mine, placebo, uce, weaker, elsewhere]
    found = comparisons(mine, everyone)
    assert [(item.against, item.standing) for item in found] == [("placebo", "unrivalled"), ("uce, paired", "better")]
    said = "Against uce, paired, which edits a place of its own: more specific at equal efficacy (+35"
    assert said in found[1].sentence
    assert comparisons(uce, everyone) == []


def test_what_was_not_measured_gets_no_verdict() -> None:
    nothing = share({})
    mine, rival = (
        replace(item, neighbours_kept=nothing, unrelated_kept=nothing, content_kept=nothing)
        for item in (summary("a", "localized", 180, 1), summary("b", "all_sites", 180, 1))
    )
    (found,) = comparisons(mine, [mine, rival])
    assert (found.standing, found.difference) == ("not measured", None)
    assert "not measured" in found.sentence


def test_an_edit_without_effect_is_held_against_nothing() -> None:
    mine = summary("a", "localized", 0, 200)
    (found,) = comparisons(mine, [mine, summary("b", "random", 0, 200)])
    assert (found.standing, "flips nothing" in found.sentence) == ("without effect", True)


def test_many_rivals_are_held_to_intervals_that_hold_together() -> None:
    mine = summary("a", "localized", 180, 150)
    one, many = ([summary(f"w{n}", "window", 180, 170) for n in range(count)] for count in (1, 14))
    assert comparisons(mine, [mine, *one])[0].standing == "worse"
    assert comparisons(mine, [mine, *many])[0].standing == "not told apart"


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # Method 10 by hand, from Wilson's bounds of 56/70 (0.6918, 0.8770) and 48/70 (0.5697, 0.7824).
    value, low, high = difference(share(pictures(56, 70)), share(pictures(48, 70)))
    assert (round(value, 4), round(low, 4), round(high, 4)) == (0.1143, -0.0308, 0.2535)
