"""What surgery on weights and swaps say of plants, held beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import agreement as module
from benchmarks.agreement import (
    ENCODER,
    NEAR,
    OUTSIDE,
    PUSHED_IN,
    QUESTIONS,
    REVERT,
    SWAP,
    UNEXPLAINED,
    UNKNOWN_SWAP,
    Reading,
    agreement,
    print_agreement,
    read_plant,
)
from loco_core.localization.base import Effect, Localization, Outcome
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


def read(
    report: dict[str, Any],
    swap: Effect,
    unknown: Effect | None = None,
    outcomes: tuple[Outcome, Outcome] = ("inconclusive", "inconclusive"),
) -> Reading:
    swaps = {SWAP: said_of(outcomes[0], effect(0, 1, 0.1), swap)}
    return read_plant(report, swaps | ({UNKNOWN_SWAP: said_of(outcomes[1], unknown)} if unknown else {}))


def said_of(outcome: Outcome, *effects: Effect) -> Localization:
    return Localization("toy", "fact/aria", "fact", "replace", outcome, "made up", effects=effects)


def test_all_say_the_same_of_a_run_that_holds_the_look() -> None:
    reading = read(WINDOW, effect(3, 2, 0.95), effect(3, 2, 0.9))
    assert reading.asked == (3, 4)
    assert {name: answer.says for name, answer in reading.answers.items()} == dict.fromkeys(QUESTIONS, True)
    assert reading.complete
    assert not reading.differing
    assert (reading.donor, reading.named) == ("mio, 2/48", "inconclusive")


def test_where_no_run_holds_it_swaps_answer_by_the_bounds_of_all_windows() -> None:
    # The strongest window reaches the line, as the strongest of many may by luck.
    open_still = read(APART, effect(8, 2, 0.95))
    assert open_still.asked == (8, 9)
    assert set(open_still.answers) == {REVERT, "transplant"}
    none = read(APART, effect(8, 2, 0.95), outcomes=("distributed", "distributed"))
    assert str(none.answers[SWAP]) == "no, distributed"
    assert not none.differing
    # The other sweep need not pass at the window that the first one picked.
    some = read(APART, effect(8, 2, 0.95), effect(1, 1, 0.95), ("localized", "multiple"))
    assert {name: answer.says for name, answer in some.answers.items()} == {
        REVERT: False, "transplant": False, SWAP: True, UNKNOWN_SWAP: True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("report", "swap", "unknown", "question", "reason"),
    [
        (WINDOW, effect(3, 2, 0.78, 0.05), None, SWAP, NEAR),
        (WINDOW, effect(3, 2, 0.5), None, SWAP, UNEXPLAINED),
        (PART, effect(5, 1, 0.95), None, "transplant", OUTSIDE),
        (PART, effect(5, 1, 0.5), None, SWAP, UNEXPLAINED),
        ({**WINDOW, "restore": restore(GONE, HALF)}, effect(3, 2, 0.95), None, "restore", UNEXPLAINED),
        ({**PART, "restore": restore(GONE, HALF)}, effect(5, 1, 0.95), None, "restore", UNEXPLAINED),
        ({**WINDOW, "restore": restore(GONE, 36)}, effect(3, 2, 0.95), None, "restore", NEAR),
    ],
)
def test_an_answer_that_differs_has_a_reason(
    report: dict[str, Any], swap: Effect, unknown: Effect | None, question: str, reason: str
) -> None:
    assert read(report, swap, unknown).differing[question] == reason


@pytest.mark.parametrize(
    ("report", "outcomes", "reasons"),
    [
        (APART, ("localized", "distributed"), {SWAP: PUSHED_IN}),
        (APART, ("damaging", "localized"), {SWAP: UNEXPLAINED, UNKNOWN_SWAP: UNEXPLAINED}),
        (APART, ("localized", "inconclusive"), {SWAP: UNEXPLAINED}),
        (TEXT, ("multiple", "localized"), {SWAP: ENCODER, UNKNOWN_SWAP: ENCODER}),
        (TEXT, ("localized", "no_effect"), {SWAP: PUSHED_IN}),
    ],
)
def test_a_swap_that_contradicts_surgery_has_a_reason(
    report: dict[str, Any], outcomes: tuple[Outcome, Outcome], reasons: dict[str, str]
) -> None:
    assert read(report, effect(8, 2, 0.95), effect(8, 2, 0.95), outcomes).differing == reasons


def test_a_donor_that_draws_the_look_itself_is_not_asked() -> None:
    leaking = {**WINDOW, "other_names": [{"hits": hits, "of": 48} for hits in (20, 10, 30)]}
    reading = read(leaking, effect(3, 2, 0.95), effect(3, 2, 0.3))
    assert reading.leaks
    assert UNKNOWN_SWAP not in reading.answers
    assert not reading.complete
    # A fifth of what is drawn at the name is the line.
    assert not read({**leaking, "other_names": [{"hits": 9, "of": 48}]}, effect(3, 2, 0.95)).leaks


def test_answers_that_nothing_was_asked_for_are_no_agreement() -> None:
    none_there, all_there = read(TEXT, effect(8, 2, 0.1)), read(WINDOW, effect(3, 2, 0.95))
    assert [str(reading.answers["transplant"]) for reading in (none_there, all_there)] == [
        "no, 0/48 (given)", "yes, 48/48 (given)"
    ]  # fmt: skip
    lines = {question: counts for question, counts, _ in agreement([none_there, all_there])}
    assert lines["transplant"] == "-"
    assert lines["restore"].startswith("1 of 1 ")
    assert agreement([read(PART, effect(5, 1, 0.95))])[0] == ("transplant", "0 of 1 (0-79)", f"1: {OUTSIDE}")


def test_behind_an_edit_that_leaves_the_look_nothing_can_return() -> None:
    reading = read({**WINDOW, "restore": restore(HALF, KEPT)}, effect(3, 2, 0.95))
    assert "restore" not in reading.answers
    assert not reading.differing


def test_plants_with_a_run_and_without_are_counted_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    all_five, four = read(WINDOW, effect(3, 2, 0.95), effect(3, 2, 0.9)), read(WINDOW, effect(3, 2, 0.5))
    without = read(APART, effect(8, 2, 0.95), outcomes=("localized", "inconclusive"))
    monkeypatch.setattr(module, "readings", lambda _: [all_five, four, without])
    print_agreement(tmp_path)
    said = capsys.readouterr().out
    assert "the same in 1 of 1 (21-100) plants that have all five" in said
    assert f"| a run holds it | swap | 1 of 2 (9-91) | 1: {UNEXPLAINED} |" in said
    assert f"| no run holds it | swap | 0 of 1 (0-79) | 1: {UNEXPLAINED} |" in said
    assert "| no run holds it | restore | - | - |" in said


@given(*(st.integers(0, 48) for _ in range(2)), st.floats(0, 1))
def test_what_differs_is_what_reverting_rows_contradicts(four: int, restored: int, known: float) -> None:
    left = {(): GONE, (3,): GONE, (4,): four, (3, 4): KEPT}
    reading = read(said((3, 4), left, [[4]], restore=restore(GONE, restored)), effect(4, 1, known))
    # 0.8 of the look is 38.4 of 48 pictures.
    wrong = {"transplant": four < 39, "restore": restored < 39, SWAP: known < 0.8}
    assert set(reading.differing) == {question for question, differs in wrong.items() if differs}
