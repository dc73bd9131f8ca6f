"""The editors, one file each: from prompts and their donors to new weights at the sites that hold the attribute.

An editor's file exports a function ``edit`` with the signature of :class:`Editor`. It returns changes and leaves the
model as it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from loco_core import registry
from loco_core.errors import EditError
from loco_core.models import LoadedModel, PromptEmbeds
from loco_core.types import PromptRecord

if TYPE_CHECKING:
    import torch

    from loco_core.deltas import Change, WeightDelta

TokenSet = Literal["last_subject", "subject", "all"]


class EditSettings(BaseModel):
    """The settings of one edit.

    Attributes:
        editor: key of the editor.
        tokens: which positions of a prompt are made to read as its donor: the last word of what the donor changes
            (as the paper does), all its words, or all positions, padding included.
        strength: LocoEdit's lambda, as a share of the mean squared norm of the keys; larger changes less.
        preserve: how many of the nearest attributes of the same kind must read as before, in LocoEdit (the preservation
            term of UCE, Gandikota et al., WACV 2024, eq. 7; the paper has none).
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
        sites: the sites to edit.
        concepts: one or several attributes, edited together.
        preserve: prompts that must read as before (the preservation term of UCE, Gandikota et al., WACV 2024, eq. 7).
        localization: what picked the sites, for provenance.
    """

    model_id: str
    weights: str
    sites: tuple[int, ...]
    concepts: tuple[Concept, ...]
    preserve: tuple[str, ...] = ()
    localization: str = "by hand"


class Editor(Protocol):
    """Computes new weights."""

    def __call__(self, model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
        """Returns the changes of K and V at the target's sites.

        Raises:
            EditError: a site admits no edit, a prompt equals its donor, or the system has no unique solution.
        """


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
    )
    return WeightDelta(made, changes)


@dataclass(frozen=True)
class TokenPairs:
    """Positions of prompts, and those of their donors that they are to read as.

    Attributes:
        keys: ``(n, text width)`` float64 embeddings at the prompts' positions.
        donors: ``(n, text width)`` float64 embeddings at the donors' positions.
    """

    keys: torch.Tensor
    donors: torch.Tensor


def token_pairs(model: LoadedModel, concept: Concept, tokens: TokenSet) -> TokenPairs:
    """Encodes a concept's prompts and donors and pairs their positions.

    Words that both sentences share are paired with each other; a word that the donor replaces with the last word of the
    replacement; one that it leaves out with the word before it; end and padding by their distance from the last word.
    Where a donor only adds words, the word after them is what changes, as it has read them in the donor ("a doctor",
    "a female doctor").

    Raises:
        EditError: a prompt equals its donor.
    """
    import torch

    records = concept.records
    prompts = model.family.encode(model.pipeline, [record.prompt for record in records])
    donors = model.family.encode(model.pipeline, [record.donor for record in records])
    keys, values = [], []
    for row, record in enumerate(records):
        places = paired_positions(prompts, donors, row)
        changed = [at for at, (_, same) in enumerate(places) if not same]
        if not changed:
            raise EditError(f'{concept.attribute}: the prompt "{record.prompt}" equals its donor; nothing to edit')
        wanted = {"last_subject": changed[-1:], "subject": changed, "all": list(range(prompts.embeds.shape[1]))}[tokens]
        end, last = int(donors.words_end[row]), prompts.embeds.shape[1] - 1
        for at in wanted:
            to = places[at][0] if at < len(places) else min(end + at - len(places), last)
            keys.append(prompts.embeds[row, at])
            values.append(donors.embeds[row, to])
    return TokenPairs(torch.stack(keys).double().cpu(), torch.stack(values).double().cpu())


def key_scale(model: LoadedModel, concept: Concept, tokens: TokenSet) -> float:
    """Returns the mean squared norm of a concept's keys: what LocoEdit's lambda is relative to.

    The paper's lambda is absolute. Text encoders end in a layer norm, so that this is near the text's width, and the
    paper's 0.01 is about 1e-5 of it in Stable Diffusion.

    Raises:
        EditError: a prompt equals its donor.
    """
    return float(token_pairs(model, concept, tokens).keys.square().sum(1).mean())


def paired_positions(prompts: PromptEmbeds, donors: PromptEmbeds, row: int) -> list[tuple[int, bool]]:
    """Returns for every position of a prompt's words the donor's position, and whether the words are equal."""
    source = prompts.ids[row, : int(prompts.words_end[row])].tolist()
    donor = donors.ids[row, : int(donors.words_end[row])].tolist()
    places: list[tuple[int, bool]] = []
    added = None
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, source, donor, autojunk=False).get_opcodes():
        if kind == "equal":
            places += [(j1 + i - i1, True) for i in range(i1, i2)]
        elif kind == "insert":
            added = (i1, j2)
        else:
            places += [(max(j2 - 1 if kind == "replace" else j1 - 1, 0), False)] * (i2 - i1)
    if added is not None and all(same for _, same in places):
        at, to = added
        places[min(at, len(places) - 1)] = (to if at < len(places) else to - 1, False)
    return places


def text_embeddings(model: LoadedModel, prompts: Sequence[str]) -> torch.Tensor:
    """Returns the embeddings ``(prompts * tokens, text width)`` of all positions of prompts in float64."""
    embeds = model.family.encode(model.pipeline, list(prompts)).embeds
    return embeds.reshape(-1, embeds.shape[-1]).double().cpu()
