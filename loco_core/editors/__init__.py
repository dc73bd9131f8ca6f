"""The editors, one file each: from prompts and their donors to new weights at the sites that hold the attribute.

An editor's file exports a function ``edit`` with the signature of :class:`Editor`. It returns changes and leaves the
model as it is. A published method that is tied to a place of its own exports ``METHOD`` (a :class:`Method`) too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from loco_core import registry
from loco_core.models import LoadedModel
from loco_core.types import PromptRecord

if TYPE_CHECKING:
    from loco_core.deltas import Change, WeightDelta

TokenSet = Literal["last_subject", "subject", "tail", "all"]


class EditSettings(BaseModel):
    """The settings of one edit.

    Attributes:
        editor: key of the editor.
        tokens: which positions of a prompt are made to read as its donor: the last word of what the donor changes
            (as the paper does), all its words, that last word and everything behind it, padding included (``tail``), or
            all positions.
        strength: lambda; larger changes less. LocoEdit's is a share of the mean squared norm of the keys, that of a
            :class:`Method` is absolute, as published.
        preserve: how many of the nearest attributes of the same kind must read as before, in LocoEdit and UCE (the
            preservation term of UCE, Gandikota et al., WACV 2024, eq. 7; LocoEdit's paper has none).
        neurons: share of the output coordinates that the neuron editor changes.
        fill: what the neuron editor puts in their place: zero, or their mean under the donor prompts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    editor: str = "loco_edit"
    tokens: TokenSet = "all"
    strength: Annotated[float, Field(gt=0)] = 0.1
    preserve: Annotated[int, Field(ge=0)] = 0
    neurons: Annotated[float, Field(gt=0, le=1)] = 0.05
    fill: Literal["zero", "donor_mean"] = "zero"


@dataclass(frozen=True)
class Method:
    """What a published method fixes: it needs no localization, and comes with the settings that it was published with.

    Attributes:
        place: what it edits: K and V of the text at all sites that admit an edit, or the CLIP text encoders.
        tokens: which positions of a prompt are made to read as its donor.
        strength: its lambda, absolute.
        preserves: whether prompts may be given that must read as before.
    """

    place: Literal["all_sites", "text_encoder"]
    tokens: TokenSet
    strength: float
    preserves: bool = False


@dataclass(frozen=True)
class Concept:
    """One attribute that an edit removes or replaces: the prompts that say it, each with its donor."""

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
