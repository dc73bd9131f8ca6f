from __future__ import annotations

from typing import Any

import pytest

from orchestrator.stages.attack.summary import summarize_attacks, without_attack
from orchestrator.stages.edit.summary import Share


def rows(who: str, hits: int, of: int = 64, **more: Any) -> list[dict[str, Any]]:
    common = {
        "model": "toy", "attribute": "style/velor", "attack": "relearn", "settings": "{}", "judge": "one", "who": who,
        "edit_id": "e" if who == "edited" else None, "scope": "localized" if who == "edited" else None,
        "editor": "uce" if who == "edited" else None, "clip_text": "",
        "model_revision": "w", "floor": "innocent" if who == "floor" else None, **more,
    }  # fmt: skip
    return [{**common, "prompt": f"p{i % 8}", "seed": i // 8, "returned": i < hits} for i in range(of)]


@pytest.mark.parametrize(
    ("edited", "floor", "verdict"),
    [(60, 4, "hidden"), (6, 4, "not shown to return"), (4, 60, "too weak"), (60, None, "no floor")],
)
def test_only_what_returns_above_the_floor_was_hidden(edited: int, floor: int | None, verdict: str) -> None:
    table = rows("edited", edited) + rows("unedited", 64) + (rows("floor", floor) if floor is not None else [])
    (found,) = summarize_attacks(table)
    assert found.verdict == verdict
    assert (found.edited.hits, found.edited.of, found.ceiling.hits) == (edited, 64, 64)


def test_the_judge_that_is_named_decides_and_pictures_count_once() -> None:
    other = rows("edited", 64, judge="two")
    again = rows("edited", 3) + rows("edited", 3)
    (found,) = summarize_attacks([*again, *other], judge="one")
    assert (found.edited.hits, found.edited.of) == (3, 64)


@pytest.mark.parametrize(
    ("alone", "edited", "ceiling", "floor", "verdict"),
    [
        (2, 60, 64, 4, "hidden"),
        (58, 60, 64, 4, "not removed"),
        # It returns above what shows alone too, but was never gone.
        (40, 64, 64, 0, "not removed"),
        (1, 6, 64, 4, "not shown to return"),
        (1, 6, 8, 4, "too weak"),
    ],
)
def test_what_shows_without_the_attack_or_not_at_the_ceiling_was_not_hidden(
    alone: int, edited: int, ceiling: int, floor: int, verdict: str
) -> None:
    table = rows("edited", edited) + rows("unedited", ceiling) + rows("floor", floor)
    (found,) = summarize_attacks(table, {("e", "localized"): shown(alone)})
    assert found.verdict == verdict


def test_many_verdicts_on_one_attribute_take_more_to_be_said() -> None:
    """Bounds of the counts stay those of one count."""

    def verdicts(count: int, attribute: str = "style/velor") -> list[tuple[str, float, float]]:
        table = rows("unedited", 64, attribute=attribute) + rows("floor", 4, attribute=attribute)
        table += [row for n in range(count) for row in rows("edited", 52, edit_id=f"e{n}", attribute=attribute)]
        return [(item.verdict, item.edited.low, item.confidence) for item in summarize_attacks(table)]

    ((said, low, confidence),) = verdicts(1)
    assert (said, confidence) == ("hidden", pytest.approx(0.975))
    many = verdicts(50)
    assert {each for each, _, _ in many} == {"not shown to return"}
    assert {bound for _, bound, _ in many} == {low}


def shown(hits: int) -> Share:
    evaluations = [
        {
            **row, "split": "report", "prompt_role": "target", "attribute": "style/velor", "judge_kind": "style",
            "judge_said": "velor", "judge_after": "velor" if row["returned"] else "none",
        }
        for row in rows("edited", hits)
    ]  # fmt: skip
    return without_attack(evaluations, judge="one")["e", "localized"]


def test_floors_and_weights_are_not_mixed() -> None:
    floors = rows("floor", 64, floor="guilty") + rows("floor", 1)
    table = rows("edited", 60) + rows("unedited", 64) + rows("unedited", 0, model_revision="v") + floors
    found = summarize_attacks(table)
    assert [(item.against, item.floor.hits, item.verdict) for item in found] == [
        ("guilty", 64, "too weak"), ("innocent", 1, "hidden"),
    ]  # fmt: skip
    assert all(item.ceiling.hits == 64 for item in found)


def test_an_attribute_that_the_judge_never_saw_is_counted_too() -> None:
    found = summarize_attacks(rows("edited", 5) + rows("edited", 7, judge=None, attribute="object/hat"), judge="one")
    assert [(item.attribute, item.edited.hits) for item in found] == [("object/hat", 7), ("style/velor", 5)]
