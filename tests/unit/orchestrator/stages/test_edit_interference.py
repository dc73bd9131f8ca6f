"""Matrices of edits of several attributes, of pictures whose fate is written down."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from orchestrator.stages.edit.interference import Matrix, matrices
from orchestrator.stages.edit.summary import EditSummary, Share, share

NOTHING = Share(0, 0, 0.0, 0.0)
ALL = range(40)


def summary(
    attribute: str, flipped: int, kept: Collection[int] = ALL, *, scope: str = "sequence", step: int | None = None,
    chosen: bool = True, editor: str = "loco_edit", attributes: tuple[str, ...] = ("style/a", "fact/b"),
) -> EditSummary:  # fmt: skip
    """An edit that flips the first so many of ten pictures and keeps some of forty neighbours'."""
    return EditSummary(
        edit_id=f"{scope}{step}", model="toy", attribute=attribute, editor=editor, targets="paired", scope=scope,
        chosen=chosen, sites=(8,), localization=f"{scope}: a, b", content_kept=NOTHING, ceiling=NOTHING,
        flipped=share({(f"p{n}", 0): n < flipped for n in range(10)}), paraphrased=NOTHING, unrelated_kept=NOTHING,
        neighbours_kept=share({(f"n{n}", 0): n in kept for n in ALL}), attributes=attributes, step=step,
    )  # fmt: skip


def flipped(matrix: Matrix) -> list[list[int | None]]:
    return [[cell and cell.summary.flipped.hits for cell in line.cells] for line in matrix.lines]


def test_a_row_is_a_step_and_a_column_an_attribute() -> None:
    found = matrices(
        [
            summary("fact/b", 7, step=2), summary("style/a", 9, step=1, chosen=False), summary("style/a", 4, step=2),
            summary("fact/b", 1, step=1, chosen=False),
        ]
    )  # fmt: skip
    (matrix,) = found
    assert matrix.attributes == ("style/a", "fact/b")
    assert [line.label for line in matrix.lines] == ["after 1: style/a", "after 2: fact/b"]
    assert flipped(matrix) == [[9, 1], [4, 7]]
    assert "style/a, then fact/b in toy, by loco_edit, paired" in matrix.title


@pytest.mark.parametrize(
    ("kept", "change"), [(range(10), "less"), (range(38), "not told apart"), (ALL, "not told apart")]
)
def test_what_is_spared_is_held_against_the_row_above(kept: range, change: str) -> None:
    (matrix,) = matrices([summary("style/a", 9, step=1), summary("style/a", 9, kept, step=2)])
    (first, _), (second, beyond) = (line.cells for line in matrix.lines)
    assert first is not None
    assert second is not None
    assert beyond is None, "it was not measured"
    assert (first.difference, first.change) == (None, None)
    assert second.change == change
    assert second.difference is not None
    assert second.difference[0] == pytest.approx(len(kept) / 40 - 1)
    back = matrices([summary("style/a", 9, kept, step=1), summary("style/a", 9, step=2)])[0].lines[1].cells[0]
    assert back is not None
    assert back.change == {"less": "more"}.get(change, change)


def test_marks_hold_for_all_cells_of_a_matrix_together() -> None:
    def marks(cells: int) -> list[str | None]:
        names = tuple(f"style/{number}" for number in range(cells))
        steps = [
            summary(name, 9, range(33) if step == 2 and name == names[0] else ALL, step=step, attributes=names)
            for step in (1, 2) for name in names
        ]  # fmt: skip
        return [cell and cell.change for cell in matrices(steps)[0].lines[1].cells]

    assert marks(2) == ["less", "not told apart"]
    assert marks(12) == ["not told apart"] * 12


def test_an_edit_of_all_at_once_stands_below_those_of_each_alone() -> None:
    alone = {"scope": "localized", "attributes": ()}
    found = matrices(
        [
            summary("style/a", 9, **alone), summary("fact/b", 8, **alone), summary("style/a", 6, scope="together"),
            summary("fact/b", 5, scope="together"), summary("style/a", 2, scope="together", chosen=False),
            summary("style/a", 3, **alone, editor="neurons"), summary("style/a", 1, scope="by_hand", attributes=()),
        ]
    )  # fmt: skip
    (matrix,) = found
    assert [line.label for line in matrix.lines] == ["each alone", "all at once"]
    assert flipped(matrix) == [[9, 8], [6, 5]]


def test_edits_of_one_attribute_make_no_matrix() -> None:
    assert matrices([summary("style/a", 9, scope="localized", attributes=())]) == []
