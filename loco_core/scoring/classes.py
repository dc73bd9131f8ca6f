"""What a judge chooses among: the attributes of a kind, and what their donors show in their place.

They come from the attributes of a sweep and from those that are bundled in the same file, so that of nine artists a
judge may name the wrong one. Text alone, no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loco_core.attributes import of_other_kinds, siblings
from loco_core.types import Attribute


@dataclass(frozen=True)
class NamedClass:
    """One class.

    Attributes:
        name: name in tables: that of the attribute, or the donor text itself.
        text: text that fits a picture of it.
    """

    name: str
    text: str


@dataclass(frozen=True)
class KindClasses:
    """The classes of one kind, and which prompts say them.

    Attributes:
        classes: the attributes first, then what donors show.
        prompts: class of every prompt and donor that is known, by its words; None of donors that name no class.
        mentions: words that name a class wherever they stand in a prompt, each with the name of the class.
        attributes: how many of the classes are attributes.
    """

    classes: tuple[NamedClass, ...]
    prompts: Mapping[str, str | None] = field(default_factory=dict)
    mentions: tuple[tuple[str, str], ...] = ()
    attributes: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(item.name for item in self.classes)

    def said(self, text: str) -> str | None:
        """Returns the class that a prompt says; None where it says nothing of the kind."""
        words = _words(text)
        if words in self.prompts:
            return self.prompts[words]
        found = [(phrase, name) for phrase, name in self.mentions if f" {phrase} " in f" {words} "]
        return max(found, key=lambda item: len(item[0]))[1] if found else None


def classes_of(attributes: Iterable[Attribute]) -> dict[str, KindClasses]:
    """Returns the classes of every kind: of some attributes, and of those that are bundled in the same files.

    A donor's class is the attribute that has the donor text for its own ("a cross"), or else the donor text itself ("a
    painting"). Where donors replace, and all attributes of a kind have one and the same ("a shape"), theirs names
    nothing.

    Args:
        attributes: attributes of a sweep.
    """
    swept = list(attributes)
    known: dict[str, Attribute] = {item.key: item for item in swept}
    for item in swept:
        for other in (*siblings(item.key), *of_other_kinds(item.key)):
            known.setdefault(other.key, other)
    kinds: dict[str, list[Attribute]] = {}
    for item in sorted(known.values(), key=lambda item: item.key):
        kinds.setdefault(item.kind, []).append(item)
    return {kind: _of_kind(items) for kind, items in kinds.items()}


def _of_kind(items: Sequence[Attribute]) -> KindClasses:
    by_text: dict[str, NamedClass] = {}
    for item in items:
        by_text.setdefault(_words(item.records[0].score_text), NamedClass(item.name, item.records[0].score_text))
    attributes = len(by_text)
    donors = {_words(item.records[0].donor_text) for item in items}
    empty = len(items) > 1 and len(donors) == 1 and all(item.mode == "replace" for item in items)
    for item in items:
        text = item.records[0].donor_text
        by_text.setdefault(_words(text), NamedClass(text, text))
    prompts: dict[str, str | None] = {}
    for item in items:
        donor = None if empty else by_text[_words(item.records[0].donor_text)].name
        for record in item.records:
            prompts.setdefault(_words(record.donor), donor)
    # A prompt says its attribute, whatever it is a donor of.
    for item in items:
        own = by_text[_words(item.records[0].score_text)].name
        prompts.update({_words(record.prompt): own for record in item.records})
    return KindClasses(tuple(by_text.values()), prompts, _mentions(items), attributes)


def _mentions(items: Sequence[Attribute]) -> tuple[tuple[str, str], ...]:
    """Returns of each attribute the words that tell its score text from those of the others, if all prompts have them.

    They tell what a prompt that belongs to an attribute of another kind says of this kind.
    """
    texts = {item.key: _words(item.records[0].score_text).split() for item in items}
    counts = Counter(word for words in texts.values() for word in set(words))
    shared = {word for word, count in counts.items() if count > 1}
    if len(items) == 1:
        shared = set(_words(items[0].records[0].donor_text).split())
    shared |= {"a", "an", "the"}
    found = []
    for item in items:
        own = [n for n, word in enumerate(texts[item.key]) if word not in shared]
        phrase = " ".join(texts[item.key][own[0] : own[-1] + 1]) if own else ""
        if phrase and all(f" {phrase} " in f" {_words(record.prompt)} " for record in item.records):
            found.append((phrase, item.name))
    return tuple(found)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
