"""What metrics say of edits, from their tables alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from loco_core.scoring.metrics import cmmd
from loco_core.scoring.set_distance import SetDistance, set_distance
from orchestrator.stages.edit import metrics
from orchestrator.stages.edit.metrics import in_words, metric_rows
from orchestrator.store import make_table

EDIT = {"edit_id": "e", "scope": "localized", "model": "m", "attribute": "style/velor", "editor": "loco_edit"}


def picture(prompt: str, seed: int, value: float, **changes: Any) -> dict[str, Any]:
    row = {
        "sweep_id": "s", "unit_id": "u", "edit_id": "e", "scope": "localized", "metric": "ssim", "prompt": prompt,
        "attribute": "style/velor", "prompt_role": "target", "seed": seed, "value": value,
    }  # fmt: skip
    return {**row, **changes}


def feature(prompt: str, *features: float, **changes: Any) -> dict[str, Any]:
    row = {
        "sweep_id": "s", "unit_id": "u", "edit_id": "e", "scope": "localized", "metric": "cmmd@1", "prompt": prompt,
        "attribute": "style/velor", "prompt_role": "unrelated", "seed": 0, "features": features,
    }  # fmt: skip
    return {**row, **changes}


def rows_of(pictures: list[dict[str, Any]], features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tables = make_table("picture_metrics", pictures), make_table("features", features)
    return metric_rows([EDIT], *tables, {"cmmd@1": "cmmd"})


def test_a_mean_has_an_interval_over_prompts_and_seeds() -> None:
    values = {(prompt, seed): 0.1 * seed + 0.2 * len(prompt) for prompt in ("a", "bb", "ccc") for seed in (0, 1)}
    (row,) = rows_of([picture(*key, value) for key, value in values.items()], [])
    assert row["value"] == pytest.approx(sum(values.values()) / 6)
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert (row["pictures"], row["prompts"], row["note"]) == (6, 3, "")
    (alone,) = rows_of([picture("a", 0, 0.5)], [])
    assert (alone["value"], alone["ci_low"], alone["note"]) == (0.5, None, "no interval: one picture")
    assert in_words(alone) == "0.5 *"


def test_what_was_measured_twice_counts_once_and_other_edits_do_not() -> None:
    (row,) = rows_of(
        [picture("a", 0, 0.1), picture("a", 0, 0.9, unit_id="v"), picture("a", 0, 0.3, edit_id="withdrawn")], []
    )
    assert (row["value"], row["pictures"]) == (0.9, 1)


def test_pictures_of_a_set_go_together_within_their_unit() -> None:
    """The picture without the edit that the same unit drew; one that was destroyed is in neither set."""
    unedited = {"edit_id": None, "scope": None}
    one, other = ({"unit_id": unit} for unit in "uv")
    features = [
        feature("a", 0.0, **one, **unedited), feature("a", 1.0, **one),
        feature("b", 4.0, **other, **unedited), feature("b", 3.0, **other),
        # Another unit saw another picture of this prompt.
        feature("b", 9.0, **one, **unedited),
        feature("c", 1.0, **one, **unedited),
    ]  # fmt: skip
    (row,) = rows_of([], features)
    far, near, between = (math.exp(-(distance**2) / 200) for distance in (4, 2, 3))
    assert row["value"] == pytest.approx(1000 * (far + near - 2 * between))
    assert (row["pictures"], row["prompts"]) == (2, 2)
    assert row["note"] == "no interval: 2 prompts, expected 4 or more"


def test_a_distance_is_computed_again_only_where_something_of_it_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def counted(name: str, *rest: Any) -> SetDistance:
        asked.append(name)
        return set_distance(name, *rest)

    monkeypatch.setattr(metrics, "set_distance", counted)
    unedited = {"edit_id": None, "scope": None}
    edits = [EDIT, {**EDIT, "edit_id": "f"}]

    def pair(edit: str, number: float, **changes: Any) -> list[dict[str, Any]]:
        return [feature(prompt, number + at, edit_id=edit, **changes) for at, prompt in enumerate("abcde")]

    plain = [feature(prompt, float(at), **unedited) for at, prompt in enumerate("abcde")]

    def rows(features: list[dict[str, Any]], before: list[dict[str, Any]], code: str = "cmmd") -> list[dict[str, Any]]:
        asked.clear()
        tables = make_table("picture_metrics", []), make_table("features", features)
        return metric_rows(edits, *tables, {"cmmd@1": code}, before)

    first = rows([*plain, *pair("e", 1.0), *pair("f", 2.0)], [])
    assert len(asked) == 2
    assert rows([*plain, *pair("e", 1.0), *pair("f", 2.0)], first) == first
    assert not asked
    # One of two edits was drawn anew; of a later version nobody knows what it was computed from.
    assert rows([*plain, *pair("e", 1.0), *pair("f", 3.0)], first)[0] == first[0]
    assert len(asked) == 1
    rows([*plain, *pair("e", 1.0), *pair("f", 2.0)], [{**row, "inputs": None} for row in first])
    assert len(asked) == 2
    # Other pictures without the edit, other prompts, other code.
    rows([feature("a", 9.0, **unedited), *plain[1:], *pair("e", 1.0), *pair("f", 2.0)], first)
    assert len(asked) == 2
    named = [{**row, "prompt": f"{row['prompt']}!"} for row in [*plain, *pair("e", 1.0)]]
    rows(named, first)
    assert len(asked) == 1
    own = tmp_path / "own.py"
    own.write_text(Path(cmmd.__file__).read_text() + "# changed\n")
    again = rows([*plain, *pair("e", 1.0), *pair("f", 2.0)], first, str(own))
    assert len(asked) == 2
    assert [row["value"] for row in again] == [row["value"] for row in first]


def test_a_set_of_one_prompt_has_no_value() -> None:
    (row,) = rows_of([], [feature("a", 0.0, edit_id=None, scope=None), feature("a", 1.0)])
    assert row["value"] is None
    assert row["note"].startswith("too few pictures")
    assert in_words(row) == "–"


def test_a_value_that_is_no_number_is_a_note() -> None:
    (row,) = rows_of([picture("a", 0, 0.5), picture("b", 0, math.nan)], [])
    assert (row["value"], row["note"]) == (None, "no value: that of 1 of 2 pictures is not finite")
