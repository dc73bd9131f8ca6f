"""What a judge chooses among: the attributes of a kind, and what their donors show in their place.

They come from the attributes of a sweep and from those that are bundled in the same file, so that of nine artists a
judge may name the wrong one. Text alone, no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from loco_core.attributes import of_other_kinds, siblings
from loco_core.types import Attribute

ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True)
class NamedClass:
    """One class.

    Attributes:
        name: name in tables: that of the attribute, or the donor text itself.
        text: text that fits a picture of it.
        words: the words of the text that tell it from others of the kind, "Van Gogh"; empty where all of them do.
    """

    name: str
    text: str
    words: str = ""

    @property
    def label(self) -> str:
        """What people call it in a list of its kind."""
        return self.words or self.text


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
    return KindClasses(_labelled(by_text.values(), attributes), prompts, _mentions(items, by_text), attributes)


def _labelled(classes: Iterable[NamedClass], attributes: int) -> tuple[NamedClass, ...]:
    """Returns classes with the words that tell them apart: "Van Gogh" of "a painting in the style of Van Gogh".

    Args:
        classes: the attributes first.
        attributes: how many of them are attributes; what their texts share tells nothing.
    """
    found = list(classes)
    counts = Counter(word for item in found[:attributes] for word in set(_words(item.text).split()))
    shared = {word for word, count in counts.items() if count > 1} | ARTICLES
    cut = [_between(item.text.split(), shared) for item in found]
    if len(set(map(_words, cut))) < len(found):
        return tuple(found)
    return tuple(replace(item, words=words) for item, words in zip(found, cut, strict=True))


def _between(words: Sequence[str], shared: set[str]) -> str:
    """Returns what stands from the first to the last word that is not shared; all where there is none."""
    own = [n for n, word in enumerate(words) if _words(word) not in shared]
    return " ".join(words[own[0] : own[-1] + 1] if own else words)


def _mentions(items: Sequence[Attribute], by_text: Mapping[str, NamedClass]) -> tuple[tuple[str, str], ...]:
    """Returns of each attribute the words that tell its score text from those of the others, if all prompts have them.

    They tell what a prompt that belongs to an attribute of another kind says of this kind.

    Args:
        items: the attributes of a kind.
        by_text: its classes by their texts: two attributes of one text are one class.
    """
    texts = {item.key: _words(item.records[0].score_text).split() for item in items}
    counts = Counter(word for words in texts.values() for word in set(words))
    shared = {word for word, count in counts.items() if count > 1}
    if len(items) == 1:
        shared = set(_words(items[0].records[0].donor_text).split())
    shared |= ARTICLES
    found = []
    for item in items:
        words = texts[item.key]
        phrase = _between(words, shared) if not shared.issuperset(words) else ""
        if phrase and all(f" {phrase} " in f" {_words(record.prompt)} " for record in item.records):
            found.append((phrase, by_text[" ".join(words)].name))
    return tuple(found)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
