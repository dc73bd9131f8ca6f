"""The editors, one file each: from prompts and their donors to new weights at the sites that hold the attribute.

An editor's file exports a function ``edit`` with the signature of :class:`Editor`. It returns changes and leaves the
model as it is. One that can be fitted as its authors did exports ``PUBLISHED`` (a :class:`Published`), and one that is
tied to a place of its own ``METHOD`` (a :class:`Method`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from loco_core import registry
from loco_core.models import LoadedModel
from loco_core.types import PromptRecord

if TYPE_CHECKING:
    from loco_core.deltas import Change, WeightDelta

TokenSet = Literal["last_subject", "subject", "tail", "last_position", "all"]
Targets = Literal["published", "paired"]
Fill = Literal["donor_mean", "zero"]
HeldHalf = Literal["conditional", "both"]


def _share_or_count(value: float) -> float:
    if value > 1 and not value.is_integer():
        raise PydanticCustomError("rule", f"{value:g} is wrong; expected a share up to 1, or a whole number of neurons")
    return value


Neurons = Annotated[float, Field(gt=0), AfterValidator(_share_or_count)]


class EditSettings(BaseModel):
    """The settings of one edit.

    Attributes:
        editor: key of the editor.
        targets: what is edited: the published texts of the attribute, as the editor's authors do (``published``), or
            prompts with contents, paired word by word with their donors (``paired``). An editor without a
            :class:`Published` knows the latter alone.
        tokens: which positions of a prompt are made to read as its donor: the last word of what the donor changes,
            all its words, that last word and everything behind it, padding included (``tail``), the last position that
            is looked at (with CLIP the end of the padding), or all positions. Of published texts it is what was
            published: the last token, or ``tail``. Neurons are ranked there, and held at all positions.
        strength: lambda; larger changes less. That of LocoEdit's paired edits is a share of the mean squared norm of
            the keys, preserved ones among them; that of published edits and of a :class:`Method` is absolute.
        preserve: how many of the nearest attributes of the same kind must read as before, in LocoEdit and UCE (the
            preservation term of UCE, Gandikota et al., WACV 2024, eq. 7; LocoEdit's paper has none).
        neurons: how many output coordinates of every projection the neuron editor holds: a share up to 1, or a whole
            number.
        fill: what it holds them at: their mean under the donor prompts, or zero.
        guidance_half: where it holds them: in the conditional half of guidance, or in both. Weights are edited in both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    editor: str = "loco_edit"
    targets: Targets = "paired"
    tokens: TokenSet = "all"
    strength: Annotated[float, Field(gt=0)] = 0.1
    preserve: Annotated[int, Field(ge=0)] = 0
    neurons: Neurons = 0.25
    fill: Fill = "donor_mean"
    guidance_half: HeldHalf = "conditional"


@dataclass(frozen=True)
class Published:
    """How an editor was published.

    Attributes:
        tokens: which positions of a key text are made to read as its anchor: the last token, or ``tail``.
        strength: its lambda, absolute.
    """

    tokens: TokenSet
    strength: float


@dataclass(frozen=True)
class Method(Published):
    """A published method that says itself what it edits, so that it needs no localization.

    Attributes:
        place: K and V of the text at all sites that admit an edit, or the CLIP text encoders.
        preserves: whether prompts may be given that must read as before.
    """

    place: Literal["all_sites", "text_encoder"]
    preserves: bool = False


@dataclass(frozen=True)
class Concept:
    """One attribute that an edit removes or replaces: the prompts that say it, each with its donor.

    Of a published edit they are the key texts, with their anchors as donors.
    """

    attribute: str
    records: tuple[PromptRecord, ...]


@dataclass(frozen=True)
class Target:
    """What an edit is fitted on.

    Attributes:
        model_id: the model's id in the sweep.
        weights: hash of its weights.
        sites: the sites to edit; none where a method edits a text encoder.
        concepts: one or several attributes, edited together.
        preserve: records whose prompts must read as before (the preservation term of UCE, Gandikota et al., WACV 2024,
            eq. 7).
        localization: what picked the sites, for provenance.
    """

    model_id: str
    weights: str
    sites: tuple[int, ...]
    concepts: tuple[Concept, ...]
    preserve: tuple[PromptRecord, ...] = ()
    localization: str = "by hand"


class Editor(Protocol):
    """Computes new weights."""

    def __call__(self, model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
        """Returns the changes of K and V at the target's sites, or of the text encoders.

        Raises:
            EditError: a site admits no edit, a prompt equals its donor, or the system has no unique solution.
        """


def method(editor: str) -> Method | None:
    """Returns what a published method fixes; None of an editor that edits wherever it is told to.

    Raises:
        SpecError: there is no such editor.
    """
    found: Method | None = getattr(registry.load("editors", editor), "METHOD", None)
    return found


def published(editor: str) -> Published | None:
    """Returns how an editor was published; None of one that knows no published targets.

    Raises:
        SpecError: there is no such editor.
    """
    found: Published | None = getattr(registry.load("editors", editor), "PUBLISHED", None)
    return found or method(editor)


def editor_code(editor: str) -> str:
    """Returns a hash of what an outside editor is executed from; empty of one of this project.

    Raises:
        SpecError: there is no such editor.
    """
    source = registry.source("editors", editor)
    return hashlib.sha256(source).hexdigest() if source else ""


def named(editor: str, targets: str | None) -> str:
    """Names an editor so that its published edit and ours are never taken for each other.

    Args:
        editor: its key.
        targets: what it edits; None of an editor that was not published with targets of its own.
    """
    said = {"published": "as published", "paired": "paired"}.get(targets or "")
    return f"{editor}, {said}" if said else editor


def fit_edit(model: LoadedModel, target: Target, settings: EditSettings) -> WeightDelta:
    """Fits an edit with the editor that the settings name.

    Raises:
        EditError: see :class:`Editor`.
        SpecError: there is no such editor.
    """
    from loco_core.deltas import Provenance, WeightDelta

    edit: Editor = registry.function("editors", settings.editor, "edit")
    changes = edit(model, target, settings)
    made = Provenance(
        model=target.model_id,
        weights=target.weights,
        dtype=model.dtype,
        sites=target.sites,
        attributes=tuple(concept.attribute for concept in target.concepts),
        editor=settings.editor,
        settings=json.dumps(settings.model_dump(), sort_keys=True),
        localization=target.localization,
        components=tuple(dict.fromkeys(change.component for change in changes)),
    )
    return WeightDelta(made, changes)
