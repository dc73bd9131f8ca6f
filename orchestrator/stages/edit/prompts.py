"""Prompts that edits are measured on beside those of their own split: of other kinds, in turn, and donors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from typing import Literal

from loco_core.attributes import bundled, of_other_kinds
from loco_core.editing.splits import splits
from loco_core.errors import SpecError
from loco_core.types import Attribute, PromptRecord
from orchestrator.spec import SweepSpec


def donor(record: PromptRecord) -> PromptRecord:
    """Turns a donor into a prompt of its own, scored by its content."""
    return PromptRecord(record.donor, record.donor, record.content_text, record.score_text, record.content_text,
                        record.template_id)  # fmt: skip


def of_other_kinds_in(
    spec: SweepSpec, attribute: Attribute, split: Literal["select", "report"], edited: Collection[str]
) -> list[PromptRecord]:
    """Returns prompts of other kinds that name neither the attribute nor what is put in its place, each kind in turn.

    They are those of the sweep, and those that are bundled in the same file.

    Args:
        spec: the sweep.
        attribute: what is edited.
        split: of these attributes' prompts.
        edited: keys of all attributes that are edited.
    """
    swept = (bundled()[item] if isinstance(item, str) else item.attribute for item in spec.attributes)
    listed = [item for item in (*swept, *of_other_kinds(attribute.key)) if item.key not in edited]
    known = {item.key: item for item in listed if item.kind != attribute.kind}
    named = {words for record in attribute.records for words in _differing(record)}
    kinds: dict[str, list[list[PromptRecord]]] = {}
    for number, key in enumerate(sorted(known)):
        try:
            records = splits(known[key], spec.prompts)[split]
        except SpecError:
            continue
        free = [record for record in records if not any(f" {it} " in f" {words_of(record.prompt)} " for it in named)]
        # Not all of one kind begin with the same content.
        first = number % max(1, len(free))
        kinds.setdefault(known[key].kind, []).append([*free[first:], *free[:first]])
    other = attribute.records[0].score_text
    return [
        PromptRecord(item.prompt, item.prompt, item.score_text, other, item.content_text, item.template_id)
        for item in _in_turn([_in_turn(lists) for lists in kinds.values()])
    ]


def _in_turn(lists: Iterable[Sequence[PromptRecord]]) -> list[PromptRecord]:
    return [item for turn in zip_longest(*lists) for item in turn if item is not None]


def _differing(record: PromptRecord) -> set[str]:
    """Returns the words that a prompt and its donor have in the other's place, without articles."""
    here, there = words_of(record.prompt).split(), words_of(record.donor).split()
    while here and there and here[0] == there[0]:
        here, there = here[1:], there[1:]
    while here and there and here[-1] == there[-1]:
        here, there = here[:-1], there[:-1]
    return {" ".join(words[words[0] in ("a", "an", "the") :]) for words in (here, there) if words} - {""}


def words_of(text: str) -> str:
    """Returns what tells prompts apart: their words, in lower case."""
    return " ".join(text.casefold().split())
