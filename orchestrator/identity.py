"""Names that follow from content: what is hashed, what is not, and how.

An identity is the SHA-256 of a canonical JSON text (RFC 8785), so that the same thing has the same name on every
machine, in every run, and in every order of work. Hashed is what changes the thing itself. **Not** hashed is what
changes only how it is made: batch size, number and kind of workers, device, where weights wait, library versions,
attempt, time, and the labels under which a cell is counted (attribute, control).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import rfc8785

from loco_core.types import Generation, Intervention

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

IDENTITY_VERSION = 2
"""Raised when the rules of this file change; part of every identity, so that old and new results never mix."""


@dataclass(frozen=True)
class ImageKey:
    """Everything that changes the pixels of an image.

    Attributes:
        weights: hash of the model's weights and configuration, as resolved; with those of a second stage and of a donor
            behind it.
        dtype: of weights and activations.
        prompt: what all sites read where no intervention says otherwise.
        donor: what the sites of the intervention read; their own prompt where the donor is a model.
        seed: of the initial noise.
        intervention: the order of its sites does not matter.
        generation: settings; None stands for the model's own, which ``weights`` covers.
        engine: what was set of how the model computes and changes bits, by name; the defaults are not hashed, so that
            an image made with them has the name that it had before there was a choice.
    """

    weights: str
    dtype: str
    prompt: str
    donor: str
    seed: int
    intervention: Intervention
    generation: Generation
    engine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CellKey:
    """An image scored.

    Attributes:
        image_id: of the image.
        scorer: name of the scorer.
        scorer_revision: hash of its weights, as resolved.
        score_text: says the attribute.
        donor_text: says what the donor says in its place.
        content_text: says what must stay.
        siblings: say others of the kind, where the margin is taken against these too; none are not hashed, so that a
            cell without has the name that it had before there was a choice.
    """

    image_id: str
    scorer: str
    scorer_revision: str
    score_text: str
    donor_text: str
    content_text: str
    siblings: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnitKey:
    """A unit of work: what it computes, in its order. The shape of its batches is frozen in the plan, not in its name.

    Attributes:
        sweep_id: the sweep that it belongs to.
        kind: kind of work; of edits ``fit`` or ``evaluate``, else the name of the stage.
        model: id of the model.
        attribute: label of the attribute; empty where the unit has none.
        items: what it computes, in order, and what that depends on: texts, weights, cell variants.
        round: 0, or the number of the plan file in which ``retry`` asked for it again: a committed unit is never
            computed again under its old name.
    """

    sweep_id: str
    kind: str
    model: str
    attribute: str
    items: tuple[str, ...]
    round: int = 0


@dataclass(frozen=True)
class EditKey:
    """Everything that changes the weights of an edit.

    Attributes:
        weights: hash of the model's weights, as resolved.
        dtype: of the model.
        texts: prompts and donors that it is fitted on, in order.
        sites: the sites it changes.
        settings: of the editor.
        control: ``placebo`` or ``random`` where noise takes the place of the edit, else empty.
        engine: as of an image.
        code: hash of the file of an editor that is not one of this project; empty, and not hashed, of one that is.
    """

    weights: str
    dtype: str
    texts: tuple[str, ...]
    sites: tuple[int, ...]
    settings: Mapping[str, Any]
    control: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""


@dataclass(frozen=True)
class SweepKey:
    """What a sweep can never change: not its axes, which grow.

    Attributes:
        name: of the sweep.
        generation: settings.
        scorer: name of the scorer.
    """

    name: str
    generation: Generation
    scorer: str


def image_id(key: ImageKey) -> str:
    """Returns the identity of an image, 64 hex digits.

    An intervention that takes hold nowhere (no sites, or no steps) is the clean image, which does not depend on the
    donor. A donor equal to the prompt is *not* the clean image: it is the control that shows that a swap changes
    nothing by itself.
    """
    return _hash("image", _fields(_effective(key)))


def image_ids(key: ImageKey, interventions: Iterable[Intervention]) -> list[str]:
    """Returns the identities of images that differ in their interventions alone, each that of `image_id`.

    Args:
        key: what they share; its own intervention is not looked at.
        interventions: one per image.
    """
    around = _around("image", _fields(key), "intervention")
    held = [held_intervention(each, key.generation.steps) for each in interventions]
    clean = image_id(replace(key, intervention=Intervention())) if None in held else ""
    return [clean if each is None else _filled(around, _settings(each)) for each in held]


def cell_id(key: CellKey) -> str:
    """Returns the identity of a cell, 64 hex digits."""
    return _hash("cell", _fields(key))


def cell_ids(key: CellKey, images: Iterable[str]) -> list[str]:
    """Returns the identities of cells that differ in their images alone, each that of `cell_id`.

    Args:
        key: what they share; its own image is not looked at.
        images: identity of the image of each cell.
    """
    around = _around("cell", _fields(key), "image_id")
    return [_filled(around, _part(image)) for image in images]


def unit_id(key: UnitKey) -> str:
    """Returns the identity of a unit, 64 hex digits."""
    return _hash("unit", _fields(key))


def unit_digests(key: UnitKey, seeds: Sequence[int]) -> bytes:
    """Returns the identities of units that do the same with other seeds: 32 bytes per seed, whose hex digits name it.

    Args:
        key: what they share.
        seeds: seed of each unit.
    """
    text = _document("unit", _fields(key))
    shared = hashlib.sha256(text.encode())
    found = []
    for seed in seeds:
        own = shared.copy()
        own.update(b" %d" % seed)
        found.append(own.digest())
    return b"".join(found)


def edit_id(key: EditKey) -> str:
    """Returns the identity of an edit, 64 hex digits."""
    return _hash("edit", _fields(key))


def sweep_id(key: SweepKey) -> str:
    """Returns the identity of a sweep, 64 hex digits; the same before and after its axes grew."""
    return _hash("sweep", _fields(key))


def safe_name(text: str) -> str:
    """Returns a name for a file or folder: lower-case ASCII, never a path, different for different texts.

    A text that is such a name already is returned as it is; others get the start of their hash.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:48].strip("-")
    if slug and slug == text:
        return slug
    return f"{slug or 'x'}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


@lru_cache(maxsize=2**14)
def held_intervention(intervention: Intervention, steps: int) -> Intervention | None:
    """Writes interventions that make the same pixels in one way; returns None for one that takes hold nowhere.

    Args:
        intervention: any.
        steps: of the generation.
    """
    end = steps if intervention.step_end is None else intervention.step_end
    start, end = max(intervention.step_start, 0), min(end, steps)
    if not intervention.sites or start >= end:
        return None
    sites = tuple(sorted(set(intervention.sites)))
    return replace(intervention, sites=sites, step_start=start, step_end=end)


def _effective(key: ImageKey) -> ImageKey:
    """Writes settings that make the same pixels in one way."""
    held = held_intervention(key.intervention, key.generation.steps)
    if held is None:
        return replace(key, donor="", intervention=Intervention(step_end=key.generation.steps))
    return replace(key, intervention=held)


def _hash(what: str, content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_document(what, content).encode()).hexdigest()


def _document(what: str, content: Mapping[str, Any]) -> str:
    return _joined({"what": _part(what), "version": _part(IDENTITY_VERSION), "content": _object(content)})


# JSON never holds this character as it is.
_GAP = "\0"


def _around(what: str, content: Mapping[str, Any], gap: str) -> tuple[bytes, bytes]:
    """Returns what stands before and behind one value of a canonical text."""
    parts = {name: _GAP if name == gap else _part(value) for name, value in content.items()}
    document = {"what": _part(what), "version": _part(IDENTITY_VERSION), "content": _joined(parts)}
    before, _, behind = _joined(document).partition(_GAP)
    return before.encode(), behind.encode()


def _filled(around: tuple[bytes, bytes], value: str) -> str:
    return hashlib.sha256(around[0] + value.encode() + around[1]).hexdigest()


def _object(content: Mapping[str, Any]) -> str:
    return _joined({name: _part(value) for name, value in content.items()})


def _joined(parts: Mapping[str, str]) -> str:
    """Writes an object of parts that are canonical already; its names are ASCII, which sorts as RFC 8785 wants."""
    return "{" + ",".join(f'"{name}":{parts[name]}' for name in sorted(parts)) + "}"


def _part(value: Any) -> str:
    """Writes a value canonically. A plan has millions of texts and few settings: both are written fast."""
    # Of ASCII the two write DEL alone in two ways.
    if isinstance(value, str) and value.isascii() and "\x7f" not in value:
        return json.dumps(value)
    if isinstance(value, Generation | Intervention):
        return _settings(value)
    return rfc8785.dumps(value).decode()


@lru_cache(maxsize=2**14)
def _settings(value: Generation | Intervention) -> str:
    found = asdict(value)
    # Not hashed where it is what all cells had before there was a choice.
    if found.get("source") == "run":
        del found["source"]
    return rfc8785.dumps(found).decode()


def _fields(key: DataclassInstance) -> dict[str, Any]:
    found = {item.name: getattr(key, item.name) for item in fields(key)}
    # Not hashed where nothing is set: see ImageKey, CellKey and EditKey.
    return {name: value for name, value in found.items() if name not in ("engine", "code", "siblings") or value}
