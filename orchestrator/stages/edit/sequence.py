"""Edits one after the other: as soon as each attribute of a sequence has its chosen edit, these are fitted in turn.

Every step has the settings of the edit that was chosen for its attribute alone, and is fitted on the weights that the
steps before it left. What is there after each step is measured on the ``report`` split of every attribute, of those
that are still to come too: an edit may take out, or bring back, what it is not about.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import EditSpec
from orchestrator.stages.base import StageContext
from orchestrator.stages.edit.candidates import edits_in_turn
from orchestrator.stages.edit.ledger import Key, Ledger
from orchestrator.stages.edit.places import Place
from orchestrator.stages.edit.plan import PlannedEdit, fit_unit
from orchestrator.stages.edit.several import EditsOfSeveral, PlaceOfSeveral
from orchestrator.store.keyed import SEQUENCE

logger = logging.getLogger(__name__)


class SequenceEdits(EditsOfSeveral):
    """Derives the units of edits that are fitted one after the other."""

    words = "one after the other"

    def __init__(self, context: StageContext, ledger: Ledger) -> None:
        """Starts with no place.

        Args:
            context: see `StageContext`.
            ledger: the units of the edit stage.
        """
        listed = (context.spec.edit or EditSpec()).sequence
        super().__init__(context, ledger, {SEQUENCE + " > ".join(names): names for names in listed})
        self._known: dict[tuple[str, str], dict[str, tuple[Place, Sequence[PlannedEdit]]]] = {}
        self._edits: dict[Key, list[PlannedEdit]] = {}

    def chosen(self, place: Place, edits: Sequence[PlannedEdit]) -> list[Unit]:
        """Takes note of what was chosen for one attribute, and returns the units of sequences that it completes.

        Args:
            place: where; a window that a person named is about one attribute, and passed over.
            edits: what was chosen there.
        """
        if place.scope == "by_hand":
            return []
        known = self._known.setdefault((place.model, place.editor), {})
        known[place.attribute] = (place, edits)
        more: list[Unit] = []
        for name, names in self.names.items():
            if place.attribute in names and known.keys() >= set(names):
                whole = PlaceOfSeveral(tuple(known[member][0] for member in names), name)
                listed = [known[member][1] for member in names]
                self._edits[whole.key] = edits_in_turn(
                    self._resolved.model(place.model), self._parts(whole), listed
                )  # fmt: skip
                self._places[whole.key] = whole
                more += self.advance(whole.key)
        return more

    def advance(self, key: Key) -> list[Unit]:
        """Plans step after step, as far as committed units carry."""
        place, edits, ledger = self._places[key], self._edits[key], self._ledger
        if not edits:
            names = " and ".join(place.attributes)
            logger.warning(
                "%s %s are not edited %s: no editor has a chosen edit of each", place.model, names, self.words
            )
            return []
        model, attribute = self._resolved.model(place.model), self._resolved.attribute(place.attributes[0])
        fit = fit_unit(self._spec, model, attribute, edits, place.localization, ledger.order)
        if missing := ledger.fit(key, fit):
            return missing
        rows = ledger.fitted(fit).to_pylist()
        if missing := ledger.missing(key, self._unmeasured(place, rows, edits, "report")):
            return missing
        last = {edit.edit_id for edit in edits if len(edit.steps) == len(edit.parts)}
        self._finish(place, fit, last)
        if self._on_edited is not None:
            self._on_edited([item for item in self._summaries(place, rows, edits, "report") if item.edit_id in last])
        return []
