from __future__ import annotations

from typing import Any

import pytest

from loco_core.types import Mode, PromptRecord
from orchestrator.resolve.resolved import Resolved, ResolvedJudge, ResolvedScorer
from orchestrator.stages.edit.chooser import by_margin, chooser, chosen_by
from orchestrator.stages.edit.summary import summarize
from orchestrator.stages.edit.work import _flipped_by_margin
from tests.support.edit_specs import spec

EDIT = {"edit_id": "e", "model": "m", "attribute": "style/lumio", "attribute_kind": "style", "editor": "loco_edit",
        "targets": "paired", "scope": "localized", "chosen": False, "site_indices": [1],
        "localization": "window"}  # fmt: skip


def row(role: str = "target", before: float | None = 0.1, after: float | None = -0.1, **changes: Any) -> dict[str, Any]:
    return {
        "model": "m", "attribute": "style/lumio", "edit_id": "e", "scope": "localized", "split": "select",
        "prompt_role": role, "prompt": "p", "clip_text": "lumio", "seed": 1, "judge": "j", "judge_kind": "style",
        "judge_said": "lumio", "judge_before": "lumio", "judge_after": "lumio", "flipped": False,
        "margin_before": before, "margin_after": after, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [(0.1, -0.1, (1, 1)), (0.1, 0.1, (0, 1)), (-0.1, -0.1, (0, 0)), (None, 0.1, (0, 0)), (0.1, None, (0, 1)),
     (0.1, 0.0, (1, 1)), (0.0, -0.1, (0, 0))],
)  # fmt: skip
def test_the_sign_of_the_margin_says_what_flipped(before: float, after: float, counts: tuple[int, int]) -> None:
    found = summarize([EDIT], by_margin("style", [row(before=before, after=after)]), "select")
    assert [(item.flipped.hits, item.flipped.of) for item in found] == ([] if before is None else [counts])


@pytest.mark.parametrize(("stored", "hits"), [(False, 0), (True, 1), (None, 1)])
def test_a_picture_that_looks_like_a_sibling_flips_by_the_margin_as_it_was_measured(
    stored: bool | None, hits: int
) -> None:
    (found,) = summarize([EDIT], by_margin("style", [row(flipped_by_margin=stored)]), "select")
    assert (found.flipped.hits, found.flipped.of) == (hits, 1)


@pytest.mark.parametrize(
    ("mode", "fits", "flipped"),
    [
        ("replace", "Minnie", False),
        ("replace", "Mickey", True),
        ("replace", "Pikachu", False),
        ("remove", "Minnie", True),
    ],
)
def test_without_a_judge_a_sibling_is_a_flip_where_donors_leave_the_attribute_out(
    mode: Mode, fits: str, flipped: bool
) -> None:
    record = PromptRecord("Pikachu runs", "Mickey runs", "Pikachu", "Mickey", "runs", siblings=("Minnie",))
    assert _flipped_by_margin(record, mode, ("Pikachu", fits)) is flipped
    assert _flipped_by_margin(record, mode, ("Minnie", fits)) is None


def test_a_picture_that_a_judge_names_by_several_kinds_counts_once() -> None:
    rows = [row(), row(judge_kind="object"), row(role="neighbour", after=0.2), row(role="neighbour", seed=2)]
    (found,) = summarize([EDIT], by_margin("style", rows), "select")
    assert (found.flipped.hits, found.flipped.of) == (1, 1)
    assert (found.neighbours_kept.hits, found.neighbours_kept.of) == (1, 2)


def test_of_two_judges_the_named_one_counts_and_of_an_edit_that_it_has_not_seen_the_other() -> None:
    rows = [row(judge="a", flipped=True), row(judge="b", flipped=False), row(edit_id="f", judge="a", flipped=True)]
    edits = [EDIT, {**EDIT, "edit_id": "f"}]
    for judge, hits in (("a", [1, 1]), ("b", [0, 1])):
        assert [item.flipped.hits for item in summarize(edits, rows, "select", judge)] == hits


@pytest.mark.parametrize(
    ("choose_by", "judge", "name"),
    [(None, "j", "j"), ("judge", "j", "j"), ("scorer", "j", "toy-clip"), (None, None, "toy-clip")],
)
def test_the_judge_chooses_where_there_is_one_unless_the_scorer_is_asked_for(
    choose_by: str | None, judge: str | None, name: str
) -> None:
    s = spec(edit={"choose_by": choose_by})
    scorer = ResolvedScorer(name="toy-clip", source="toy-clip", revision=None, weights="w")
    resolved = Resolved(
        models=(), attributes=(), scorer=scorer, judge=ResolvedJudge(id=judge, use=judge) if judge else None
    )
    assert chooser(s, resolved) == name
    (seen,) = chosen_by(s, resolved, "style", [row()])
    assert (seen["judge"] is None, seen["flipped"]) == ((True, True) if choose_by == "scorer" else (False, False))
