"""The bundled attributes, as YAML files of templates and contents; a new file needs no entry anywhere.

A package adds a file of its own by an entry point of the group ``attributes``: a module with its path, ``ATTRIBUTES``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from loco_core import plugins
from loco_core.errors import SpecError, did_you_mean
from loco_core.types import Attribute, Margin, PromptRecord, PublishedTexts

_PARTS = ("keys", "anchors")


def attribute(key: str) -> Attribute:
    """Returns a bundled attribute by its key, e.g. ``style/van-gogh``.

    Raises:
        SpecError: there is none of that name.
    """
    known = bundled()
    if key not in known:
        raise SpecError(f'no attribute "{key}"{did_you_mean(key, known)}')
    return known[key]


def made_for(key: str) -> int:
    """Returns the side in pixels of the only pictures that an attribute means something in; 0 where it does in all.

    A package says it of its attributes by ``SIDE`` in the module with their path.
    """
    for module in plugins.modules("attributes"):
        if key in _files().get(str(Path(module.ATTRIBUTES)), {}):
            return int(getattr(module, "SIDE", 0))
    return 0


def siblings(key: str) -> tuple[Attribute, ...]:
    """Returns the other bundled attributes of the same file and kind; none of a key that is not bundled."""
    return tuple(item for item in _beside(key) if item.kind == bundled()[key].kind and item.key != key)


def as_scored(item: Attribute, margin: Margin | None) -> Attribute:
    """Returns an attribute whose records say what a sweep takes their margins against.

    Args:
        item: with all siblings that are known of its records.
        margin: ``donor`` for the donor's text alone, ``siblings`` for the siblings' too; None for these where there
            are any.

    Raises:
        SpecError: siblings are asked for, and there are none.
    """
    if margin == "siblings" and not all(record.siblings for record in item.records):
        raise SpecError(
            f"margin: siblings is asked for, and {item.key} has none; expected siblings: of an attribute that is "
            "written out (texts that say others of its kind), or margin: donor"
        )
    if margin != "donor":
        return item
    return replace(item, records=tuple(replace(record, siblings=()) for record in item.records))


def of_other_kinds(key: str) -> tuple[Attribute, ...]:
    """Returns the bundled attributes of the same file and of other kinds; none of a key that is not bundled."""
    return tuple(item for item in _beside(key) if item.kind != bundled()[key].kind)


def _beside(key: str) -> tuple[Attribute, ...]:
    return next((tuple(group.values()) for group in _files().values() if key in group), ())


@cache
def bundled() -> dict[str, Attribute]:
    """Returns every bundled attribute by its key."""
    return {key: item for group in _files().values() for key, item in group.items()}


@cache
def _files() -> dict[str, dict[str, Attribute]]:
    """Returns the attributes of every file by their keys."""
    found: dict[str, dict[str, Attribute]] = {}
    others = (Path(module.ATTRIBUTES) for module in plugins.modules("attributes"))
    for path in (*sorted(Path(__file__).parent.glob("*.yaml")), *others):
        for group in yaml.safe_load(path.read_text(encoding="utf-8")):
            for name in group["names"]:
                item = Attribute(
                    group["kind"], str(name), group["mode"], _records(group, name), _published(group, name)
                )
                found.setdefault(str(path), {})[item.key] = item
    return found


def _records(group: dict[str, Any], key: str) -> tuple[PromptRecord, ...]:
    """Expands templates x contents; each pair once, neighbours differ in both."""
    contents, templates, donors = group["contents"], group["templates"], group["donors"]
    words, records = _words(group, key), []
    for round_ in range(len(templates)):
        for c, content in enumerate(contents):
            t = (c + round_) % len(templates)

            def fill(text: str, content: str = content, words: dict[str, str] = words) -> str:
                return text.format(content=content, **words)

            says, instead = fill(group["score_text"]), fill(group["donor_text"])
            others = dict.fromkeys(fill(group["score_text"], words=_words(group, other)) for other in group["names"])
            records.append(
                PromptRecord(
                    prompt=fill(templates[t]),
                    donor=fill(donors[t]),
                    score_text=says,
                    donor_text=instead,
                    content_text=fill(group["content_text"]),
                    template_id=f"t{t}",
                    siblings=tuple(other for other in others if other not in (says, instead)),
                )
            )
    return tuple(records)


def _published(group: dict[str, Any], key: str) -> tuple[PublishedTexts, ...]:
    words = _words(group, key)
    return tuple(
        PublishedTexts(editor, text_pairs(*([text.format(**words) for text in said[part]] for part in _PARTS)))
        for editor, said in group.get("published", {}).items()
    )


def text_pairs(keys: Sequence[str], anchors: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs key texts with their anchors: one for each, or one for all."""
    return tuple(zip(keys, list(anchors) * len(keys) if len(anchors) == 1 else anchors, strict=True))


def _words(group: dict[str, Any], key: str) -> dict[str, str]:
    donor = group.get("replacements", {}).get(key, "")
    name = str(group["names"][key])
    anchor = group.get("anchors", {}).get(key, donor)
    return {"name": name, "donor": donor, "anchor": anchor, "a": _article(name), "donor_a": _article(donor)}


def _article(word: str) -> str:
    return "an" if word[:1] in tuple("aeiou") else "a"
