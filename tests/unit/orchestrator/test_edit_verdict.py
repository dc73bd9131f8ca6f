"""Whether an edit is worth more than its baselines."""

from __future__ import annotations

from orchestrator.edit_summary import EditSummary, share
from orchestrator.edit_verdict import difference, verdicts


def summary(
    edit_id: str, scope: str, flipped: int, kept: int, *, of: int = 200, place: str = "window: sites 8-9"
) -> EditSummary:
    """An edit that flips and keeps some of 200 pictures."""
    counted = [share(index < hits for index in range(of)) for hits in (flipped, kept)]
    return EditSummary(
        edit_id, "toy", "style/lumio", "loco_edit", scope, scope == "localized", (8, 9), place, counted[0], counted[0],
        counted[1], counted[1],
    )  # fmt: skip


def test_an_edit_beats_a_baseline_that_is_as_effective_and_spares_less() -> None:
    mine = summary("a", "localized", 180, 190)
    (found,) = verdicts(mine, [mine, summary("b", "all_sites", 185, 120)])
    assert (found.against, found.standing, found.as_effective) == ("all_sites", "better", 1)
    assert "more specific at equal efficacy (+35 points" in found.sentence


def test_a_baseline_that_spares_as_much_is_not_told_apart_and_one_that_spares_more_is_said() -> None:
    mine = summary("a", "localized", 180, 150)
    same, more = summary("b", "all_sites", 180, 151), summary("c", "window", 180, 190)
    assert [item.standing for item in verdicts(mine, [mine, same, more])] == ["not told apart", "worse"]


def test_a_baseline_without_effect_is_no_rival() -> None:
    mine = summary("a", "localized", 180, 150)
    (found,) = verdicts(mine, [mine, summary("b", "placebo", 2, 200)])
    assert (found.standing, found.difference) == ("unrivalled", None)


def test_baselines_of_another_place_are_no_rivals() -> None:
    mine = summary("a", "localized", 180, 150)
    assert verdicts(mine, [mine, summary("b", "window", 180, 190, place="by hand: sites 3-4")]) == []


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table II, row (a), method 10: 56/70 against 48/80.
    value, low, high = difference(share(i < 56 for i in range(70)), share(i < 48 for i in range(80)))
    assert (round(value, 4), round(low, 4), round(high, 4)) == (0.2, 0.0524, 0.3339)
