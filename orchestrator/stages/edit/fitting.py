"""How a worker fits what is planned: an edit of one attribute, of several at once, or of several in turn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import Concept, EditSettings, Target, editor_code, editor_info, fit_edit
from loco_core.editing.deltas import WeightDelta
from loco_core.editing.sequence import fit_after
from loco_core.editing.splits import splits
from loco_core.editing.together import Member, fit_together
from loco_core.errors import SpecError
from loco_core.types import Attribute, PromptRecord
from orchestrator.stages.context import WorkerContext
from orchestrator.stages.edit.candidates import alike
from orchestrator.stages.edit.plan import Fit, Part, PlannedEdit, Step

NEIGHBOURS_KEPT = 16
"""How many of the nearest attributes a fit writes down; an evaluation takes the first few."""


class Fitter:
    """Fits the edits of a unit; it remembers the last one of a sequence, from which the next one goes on."""

    def __init__(self, context: WorkerContext, planned: Fit) -> None:
        """Fits nothing yet.

        Args:
            context: the worker.
            planned: what the unit is about.
        """
        self._context, self._planned = context, planned
        self._nearest: dict[str, list[str]] = {}
        self._last: tuple[tuple[Step, ...], WeightDelta | None] = ((), None)

    def fit(self, edit: PlannedEdit) -> WeightDelta:
        """Returns the edit; the model stays as it is.

        Raises:
            SpecError: an editor's file is another than when the edit was planned.
            EditError: it cannot be fitted.
        """
        made = [(edit.settings.editor, edit.code), *((step.settings.editor, step.code) for step in edit.steps)]
        for editor, code in made:
            if editor_code(editor) != code:
                raise SpecError(
                    f"the editor {editor} is not the one that this edit was planned with; leave its file alone while "
                    "edits are made, and start the command again"
                )
        if edit.steps:
            return self._in_turn(edit.steps)
        if edit.parts:
            members = [self._member(edit.settings, part) for part in edit.parts]
            context = self._context
            return fit_together(
                context.model, members, edit.settings, context.info.id, context.info.weights, self._planned.localization
            )  # fmt: skip
        delta, target = self._alone(edit.settings, Part(self._planned.attribute, edit.sites))
        baseline = editor_info(edit.settings.editor).baseline(edit.scope)
        if baseline is None or baseline.make is None:
            return delta
        return baseline.make(self._context.model, target, edit.settings, delta, int(edit.edit_id[:8], 16))

    def nearest(self, attribute: Attribute) -> list[str]:
        """Returns the keys of the attributes that are nearest to one; see `nearest`."""
        if attribute.key not in self._nearest:
            self._nearest[attribute.key] = nearest(self._context.model, self._context.attributes, attribute)
        return self._nearest[attribute.key]

    def _in_turn(self, steps: tuple[Step, ...]) -> WeightDelta:
        made, delta = self._last
        if made != steps[: len(made)]:
            made, delta = (), None
        # An edit of a text encoder changes what is near; neighbours are those in the model as it is.
        for step in steps:
            self.nearest(step.attribute)
        for step in steps[len(made) :]:
            delta = fit_after(self._context.model, delta, partial(self._step, step))
        assert delta is not None
        self._last = (steps, delta)
        return delta

    def _step(self, step: Step) -> WeightDelta:
        return self._alone(step.settings, step)[0]

    def _alone(self, settings: EditSettings, part: Part) -> tuple[WeightDelta, Target]:
        """Returns an edit of one attribute on the weights that the model has now, and what it was fitted on."""
        mine, info = self._member(settings, part), self._context.info
        preserve = tuple(record for concept in mine.preserve for record in concept.records)
        target = Target(info.id, info.weights, part.sites, (mine.concept,), preserve, self._planned.localization)
        return fit_edit(self._context.model, target, settings), target

    def _member(self, settings: EditSettings, part: Part) -> Member:
        """Returns an attribute as it is edited: on what it is fitted, and what it must spare."""
        attribute, prompts = part.attribute, self._planned.prompts
        known = alike(self._context.attributes, attribute)
        kept = [known[name] for name in self.nearest(attribute)[: settings.preserve]] if settings.preserve else []
        if settings.targets == "published":
            records = attribute.published_records(settings.editor)
            preserve = [Concept(item.key, item.published_records(settings.editor)) for item in kept]
        else:
            records = splits(attribute, prompts)["fit"]
            preserve = [Concept(item.key, _fit_records(item, prompts)) for item in kept]
        return Member(Concept(attribute.key, records), part.sites, tuple(preserve))


def _fit_records(attribute: Attribute, prompts: int) -> tuple[PromptRecord, ...]:
    """Returns what an attribute may be preserved on: what its own edits would be fitted on."""
    try:
        return splits(attribute, prompts)["fit"]
    except SpecError:
        # It has too few contents to be measured on, so that all of them may be used.
        return attribute.records


def nearest(model: LoadedModel, swept: Sequence[Attribute], attribute: Attribute) -> list[str]:
    """Returns the keys of other attributes of the same kind, nearest first by what the denoiser reads.

    They are those of the sweep, and those that are bundled in the same file. The distance is the cosine between mean
    embeddings of the words of the attributes' score texts, as encoded for the denoiser.
    """
    others = list(alike(swept, attribute).values())
    if not others:
        return []
    encoded = model.family.encode(model.pipeline, [item.records[0].score_text for item in (attribute, *others)])
    means = np.stack(
        [row[words].double().mean(0).cpu().numpy() for row, words in zip(encoded.embeds, encoded.words, strict=True)]
    )
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    order = np.argsort(-(means[1:] @ means[0]), kind="stable")
    return [others[i].key for i in order[:NEIGHBOURS_KEPT]]
