"""How edits of several attributes get in each other's way: a matrix per group, from what edits did on ``report``.

A row is an edit, a column an attribute, a cell what the edit did to this attribute: how many of its pictures show the
donor's class, and how many of those that it was to spare are spared, beside the row above.

The marks of a matrix hold for all of its cells together at 95 % (Bonferroni). Without that, some of many cells would be
marked though nothing happened to them. The interval of a share holds for its own cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from orchestrator.stages.edit.comparison import SPARED, Difference, difference
from orchestrator.stages.edit.plan import CANDIDATES, SEQUENCE, TOGETHER
from orchestrator.stages.edit.summary import EditSummary, Share

Change = Literal["less", "more", "not told apart"]
_Row = tuple[str, str, Sequence[EditSummary | None]]
"""Label, scope, and what an edit did to each attribute."""


@dataclass(frozen=True)
class Cell:
    """What an edit did to an attribute.

    Attributes:
        summary: all of it.
        spared: pictures that were to be spared and are: of neighbours, of unrelated prompts, or the content of its own,
            the first of these that was measured.
        words: what these are.
        difference: share of these less that of the row above, on the pictures of both, with an interval (Newcombe) that
            holds for all cells of the matrix together at 95 %; None where there is none to compare with.
    """

    summary: EditSummary
    spared: Share
    words: str
    difference: Difference | None

    @property
    def change(self) -> Change | None:
        """Whether less or more is spared than in the row above; None where that is not known."""
        if self.difference is None:
            return None
        _, low, high = self.difference
        return "less" if high < 0 else "more" if low > 0 else "not told apart"

    @property
    def change_in_words(self) -> str:
        """The same with figures: "5 points less spared [2, 9]"."""
        if self.difference is None:
            return ""
        value, low, high = (100 * part for part in self.difference)
        told = "" if self.change != "not told apart" else ", not told apart"
        return f"{value:+.0f} points [{low:+.0f}, {high:+.0f}] of {self.words}{told}"


@dataclass(frozen=True)
class Line:
    """A row.

    Attributes:
        label: the edit in words.
        scope: its scope, as of a mark.
        cells: one per attribute, None where it was not measured.
    """

    label: str
    scope: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Matrix:
    """Edits of the attributes of a group, one below the other.

    Attributes:
        model: id of the model.
        editor: the editor in words.
        attributes: keys of the attributes, in the order of the columns.
        lines: the rows.
        in_turn: whether the attributes are edited one after the other, a row per step; else at once.
    """

    model: str
    editor: str
    attributes: tuple[str, ...]
    lines: tuple[Line, ...]
    in_turn: bool = False

    @property
    def title(self) -> str:
        """Names it."""
        between = ", then " if self.in_turn else " + "
        return f"{between.join(self.attributes)} in {self.model}, by {self.editor}"


def matrices(measured: Iterable[EditSummary]) -> list[Matrix]:
    """Returns a matrix per group of attributes, model and editor, of chosen edits.

    Args:
        measured: what edits did on the ``report`` split.
    """
    listed = [item for item in measured if item.chosen or item.scope == SEQUENCE]
    groups: dict[tuple[str, str, str], list[EditSummary]] = {}
    for item in listed:
        if item.scope in (TOGETHER, SEQUENCE):
            groups.setdefault((item.model, item.localization, item.name), []).append(item)
    return [
        _in_turn(items) if items[0].scope == SEQUENCE else _together(items, listed)
        for _, items in sorted(groups.items())
    ]


def _in_turn(items: Sequence[EditSummary]) -> Matrix:
    first, rows = items[0], list[_Row]()
    for step in sorted({item.step for item in items if item.step}):
        by_attribute = {item.attribute: item for item in items if item.step == step}
        row = [by_attribute.get(name) for name in first.attributes]
        rows.append((f"after {step}: {first.attributes[step - 1]}", SEQUENCE, row))
    return Matrix(first.model, first.name, first.attributes, _lines(rows), in_turn=True)


def _together(items: Sequence[EditSummary], listed: Sequence[EditSummary]) -> Matrix:
    first = items[0]
    alone = [item for item in listed if _is_alone(item) and (item.model, item.name) == (first.model, first.name)]
    rows = list[_Row]()
    for label, scope, row in (("each alone", "localized", alone), ("all at once", TOGETHER, items)):
        by_attribute = {item.attribute: item for item in row}
        if by_attribute.keys() & set(first.attributes):
            found = [by_attribute.get(name) for name in first.attributes]
            rows.append((label, scope, found))
    return Matrix(first.model, first.name, first.attributes, _lines(rows))


def _is_alone(item: EditSummary) -> bool:
    return item.scope in CANDIDATES and item.scope != "by_hand"


def _lines(rows: Sequence[_Row]) -> tuple[Line, ...]:
    """Holds every cell against the one above it."""
    lines, cells = list[Line](), [row for _, _, row in rows]
    first: list[Sequence[EditSummary | None]] = [[None] * len(row) for row in cells[:1]]
    pairs = [list(zip(row, before, strict=True)) for before, row in pairwise([*first, *cells])]
    compared = sum(_both(item, before) for row in pairs for item, before in row)
    for (label, scope, _), row in zip(rows, pairs, strict=True):
        found = [None if item is None else _cell(item, before, compared) for item, before in row]
        lines.append(Line(label, scope, tuple(found)))
    return tuple(lines)


def _cell(item: EditSummary, above: EditSummary | None, compared: int) -> Cell:
    words, name = _spared(item)
    mine: Share = getattr(item, name)
    apart = difference(mine, getattr(above, name), compared) if _both(item, above) else None
    return Cell(item, mine, words, apart)


def _spared(item: EditSummary) -> tuple[str, str]:
    """Returns what an edit was to spare, of what was measured, in words and as a field of its summary."""
    measured = [(words, name) for words, name in SPARED.items() if getattr(item, name).of]
    return measured[0] if measured else next(iter(SPARED.items()))


def _both(item: EditSummary | None, above: EditSummary | None) -> bool:
    """Tells whether there are pictures of both to be compared."""
    if item is None or above is None:
        return False
    _, name = _spared(item)
    return bool(getattr(item, name).pictures.keys() & getattr(above, name).pictures.keys())
