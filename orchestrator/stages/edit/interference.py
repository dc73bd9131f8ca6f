"""How edits of several attributes get in each other's way: a matrix per group, from what edits did on ``report``.

A row is an edit, a column an attribute, a cell what the edit did to this attribute: how many of its pictures show the
donor's class, and how many of those that it was to spare are spared, beside the row above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.stages.edit.comparison import SPARED, Difference, difference
from orchestrator.stages.edit.plan import CANDIDATES, SEQUENCE, TOGETHER
from orchestrator.stages.edit.summary import EditSummary, Share

Change = Literal["less", "more", "not told apart"]


@dataclass(frozen=True)
class Cell:
    """What an edit did to an attribute.

    Attributes:
        summary: all of it.
        spared: pictures that were to be spared and are: of neighbours, of unrelated prompts, or the content of its own,
            the first of these that was measured.
        words: what these are.
        difference: share of these less that of the row above, on the pictures of both, with a 95 % interval (Newcombe);
            None where there is none to compare with.
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
    first, lines = items[0], list[Line]()
    for step in sorted({item.step for item in items if item.step}):
        by_attribute = {item.attribute: item for item in items if item.step == step}
        row = [by_attribute.get(name) for name in first.attributes]
        label = f"after {step}: {first.attributes[step - 1]}"
        lines.append(_line(label, SEQUENCE, row, lines[-1].cells if lines else ()))
    return Matrix(first.model, first.name, first.attributes, tuple(lines), in_turn=True)


def _together(items: Sequence[EditSummary], listed: Sequence[EditSummary]) -> Matrix:
    first = items[0]
    alone = [item for item in listed if _is_alone(item) and (item.model, item.name) == (first.model, first.name)]
    lines = list[Line]()
    for label, scope, row in (("each alone", "localized", alone), ("all at once", TOGETHER, items)):
        by_attribute = {item.attribute: item for item in row}
        if by_attribute.keys() & set(first.attributes):
            found = [by_attribute.get(name) for name in first.attributes]
            lines.append(_line(label, scope, found, lines[-1].cells if lines else ()))
    return Matrix(first.model, first.name, first.attributes, tuple(lines))


def _is_alone(item: EditSummary) -> bool:
    return item.scope in CANDIDATES and item.scope != "by_hand"


def _line(label: str, scope: str, row: Sequence[EditSummary | None], above: Sequence[Cell | None]) -> Line:
    cells = list[Cell | None]()
    for number, item in enumerate(row):
        before = above[number] if number < len(above) else None
        cells.append(None if item is None else _cell(item, None if before is None else before.summary))
    return Line(label, scope, tuple(cells))


def _cell(item: EditSummary, above: EditSummary | None) -> Cell:
    measured = [(words, name) for words, name in SPARED.items() if getattr(item, name).of]
    words, name = measured[0] if measured else next(iter(SPARED.items()))
    mine: Share = getattr(item, name)
    theirs: Share | None = getattr(above, name) if above else None
    both = theirs is not None and mine.pictures.keys() & theirs.pictures.keys()
    return Cell(item, mine, words, difference(mine, theirs) if theirs is not None and both else None)
