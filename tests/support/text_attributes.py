"""Attributes whose pictures are to show a word."""

from __future__ import annotations

from loco_core.scoring.classes import KindClasses, classes_of
from loco_core.types import Attribute, PromptRecord


def words() -> dict[str, KindClasses]:
    """Returns the classes of two words, one of them quoted in its text, and of a blank sign."""
    return classes_of([_word("open", 'the word "OPEN now"'), _word("red-circle", "two words")])


def _word(name: str, text: str) -> Attribute:
    records = tuple(
        PromptRecord(f'{where} that says "{name}"', f"{where} without words", text, "a blank sign", where)
        for where in ("a door", "a wall")
    )
    return Attribute("text", name, "remove", records)
