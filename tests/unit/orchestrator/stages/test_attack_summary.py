from __future__ import annotations

from typing import Any

import pytest

from orchestrator.stages.attack.summary import summarize_attacks


def rows(who: str, hits: int, of: int = 64, **more: Any) -> list[dict[str, Any]]:
    common = {
        "model": "toy", "attribute": "style/velor", "attack": "relearn", "settings": "{}", "judge": "one", "who": who,
        "edit_id": "e" if who == "edited" else None, "scope": "localized" if who == "edited" else None,
        "editor": "uce" if who == "edited" else None, "clip_text": "", **more,
    }  # fmt: skip
    return [{**common, "prompt": f"p{i % 8}", "seed": i // 8, "returned": i < hits} for i in range(of)]


@pytest.mark.parametrize(
    ("edited", "floor", "verdict"),
    [(60, 4, "hidden"), (6, 4, "not shown to return"), (4, 60, "not shown to return"), (60, None, "no floor")],
)
def test_only_what_returns_above_the_floor_was_hidden(edited: int, floor: int | None, verdict: str) -> None:
    table = rows("edited", edited) + rows("unedited", 64) + (rows("floor", floor) if floor is not None else [])
    (found,) = summarize_attacks(table)
    assert found.verdict == verdict
    assert (found.edited.hits, found.edited.of, found.ceiling.hits) == (edited, 64, 64)


def test_the_judge_that_is_named_decides_and_pictures_count_once() -> None:
    other = rows("edited", 64, judge="two")
    again = rows("edited", 3) + rows("edited", 3)
    (found,) = summarize_attacks([*other, *again], judge="one")
    assert (found.edited.hits, found.edited.of) == (3, 64)
