"""What surgery on weights and swaps say of plants, held beside each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.agreement import (
    ENCODER,
    NEAR,
    NO_RUN,
    OUTSIDE,
    PUSHED_IN,
    QUESTIONS,
    REVERT,
    SWAP,
    UNEXPLAINED,
    UNKNOWN_SWAP,
    Reading,
    read_plant,
)
from loco_core.localization.base import Effect, Localization
from loco_core.toyworld.plants.draw import Plant

GONE, KEPT, HALF = 0, 48, 24


def said(
    sites: tuple[int, ...], left: dict[tuple[int, ...], int], runs: list[list[int]], **more: Any
) -> dict[str, Any]:
    """A report; ``left`` has the pictures with the look, by the sites that are planted."""
    plant = Plant(
        "toy", 1, 0, "window" if sites else "text_encoder", sites, (), -1 if sites else 1, "aria", "fact", "zandia"
    )
    subsets = [
        {"transplanted": list(kept), "reverted": [s for s in sites if s not in kept], "hits": hits, "of": 48}
        for kept, hits in left.items()
    ]
    return {
        "plant": plant.to_json(), "unknown": {"hits": 0, "of": 48}, "taught": {"hits": KEPT, "of": 48},
        "other_names": [{"hits": 7, "of": 48}, {"hits": 2, "of": 48}, {"hits": 9, "of": 48}],
        "surgery": {"subsets": subsets, "runs": runs}, **more,
    }  # fmt: skip


def restore(edited: int, restored: int) -> dict[str, Any]:
    return {"edited": {"hits": edited, "of": 48}, "restored": {"hits": restored, "of": 48}}


def effect(start: int, size: int, value: float, spread: float = 0.01) -> Effect:
    return Effect(start, size, value, value - spread, value + spread)


WINDOW = said((3, 4), {(): GONE, (3,): 2, (4,): 2, (3, 4): KEPT}, [[3, 4]], restore=restore(GONE, KEPT))
APART = said((1, 9), {(): GONE, (1,): HALF, (9,): HALF, (1, 9): KEPT}, [])
PART = said((3, 5), {(): GONE, (3,): GONE, (5,): HALF, (3, 5): KEPT}, [[5]])
TEXT = said((), {(): GONE}, [])


def read(report: dict[str, Any], swap: Effect, unknown: Effect | None = None) -> Reading:
    swaps = {SWAP: said_of(effect(0, 1, 0.1), swap), **({UNKNOWN_SWAP: said_of(unknown)} if unknown else {})}
    return read_plant(report, swaps)


def said_of(*effects: Effect) -> Localization:
    return Localization("toy", "fact/aria", "fact", "replace", "inconclusive", "made up", effects=effects)


def test_all_say_the_same_of_a_run_that_holds_the_look() -> None:
    reading = read(WINDOW, effect(3, 2, 0.95), effect(3, 2, 0.9))
    assert reading.asked == (3, 4)
    assert {name: answer.says for name, answer in reading.answers.items()} == dict.fromkeys(QUESTIONS, True)
    assert not reading.differing
    assert (str(reading.answers[REVERT]), reading.donor, reading.named) == ("yes, 0/48", "mio, 2/48", "inconclusive")


def test_where_no_run_holds_it_the_strongest_window_is_asked_about() -> None:
    reading = read(APART, effect(8, 2, 0.5))
    assert reading.asked == (8, 9)
    assert {name: answer.says for name, answer in reading.answers.items()} == {
        REVERT: False, "transplant": False, SWAP: False
    }  # fmt: skip


@pytest.mark.parametrize(
    ("report", "swap", "unknown", "question", "reason"),
    [
        (WINDOW, effect(3, 2, 0.78, 0.05), None, SWAP, NEAR),
        (WINDOW, effect(3, 2, 0.5), None, SWAP, UNEXPLAINED),
        (APART, effect(8, 2, 0.95), effect(8, 2, 0.4), SWAP, PUSHED_IN),
        (APART, effect(8, 2, 0.95), effect(8, 2, 0.95), SWAP, NO_RUN),
        (APART, effect(8, 2, 0.95), effect(8, 2, 0.95), UNKNOWN_SWAP, NO_RUN),
        (APART, effect(8, 2, 0.95), None, SWAP, NO_RUN),
        (TEXT, effect(8, 2, 0.95), effect(8, 2, 0.95), SWAP, ENCODER),
        (TEXT, effect(8, 2, 0.95), effect(8, 2, 0.2), SWAP, PUSHED_IN),
        (PART, effect(5, 1, 0.95), None, "transplant", OUTSIDE),
        (PART, effect(5, 1, 0.5), None, SWAP, OUTSIDE),
        ({**WINDOW, "restore": restore(GONE, HALF)}, effect(3, 2, 0.95), None, "restore", UNEXPLAINED),
        ({**WINDOW, "restore": restore(GONE, 36)}, effect(3, 2, 0.95), None, "restore", NEAR),
    ],
)
def test_an_answer_that_differs_has_a_reason(
    report: dict[str, Any], swap: Effect, unknown: Effect | None, question: str, reason: str
) -> None:
    assert read(report, swap, unknown).differing[question] == reason


def test_behind_an_edit_that_leaves_the_look_nothing_can_return() -> None:
    reading = read({**WINDOW, "restore": restore(HALF, KEPT)}, effect(3, 2, 0.95))
    assert "restore" not in reading.answers
    assert not reading.differing


@given(*(st.integers(0, 48) for _ in range(4)), st.floats(0, 1), st.floats(0, 1))
def test_what_differs_is_what_reverting_rows_contradicts(
    three: int, four: int, edited: int, restored: int, known: float, unknown: float
) -> None:
    left = {(): GONE, (3,): three, (4,): four, (3, 4): KEPT}
    reading = read(
        said((3, 4), left, [[4]] if three < 10 else [], restore=restore(edited, restored)),
        effect(4, 1, known), effect(4, 1, unknown),
    )  # fmt: skip
    right = reading.answers[REVERT].says
    assert REVERT not in reading.differing
    assert set(reading.differing) == {name for name, answer in reading.answers.items() if answer.says != right}
    assert set(reading.answers) <= set(QUESTIONS)
