"""Edits of several attributes at once: as soon as all of a group have a place, one edit is fitted to all of them.

Candidates of the settings that all have are fitted, each attribute at its own sites. They are measured on the
``select`` split of every attribute, one of each editor is chosen, and that one is measured on the ``report`` split of
every attribute. The edits of each attribute alone, which the sweep makes too, are what it is held against.
"""

from __future__ import annotations

import logging

from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import EditSpec
from orchestrator.stages.base import StageContext
from orchestrator.stages.edit.candidates import candidates_together
from orchestrator.stages.edit.chooser import choose
from orchestrator.stages.edit.ledger import Key, Ledger
from orchestrator.stages.edit.places import Place
from orchestrator.stages.edit.plan import PlannedEdit, fit_unit
from orchestrator.stages.edit.several import EditsOfSeveral, PlaceOfSeveral
from orchestrator.store.keyed import TOGETHER

logger = logging.getLogger(__name__)


class TogetherEdits(EditsOfSeveral):
    """Derives the units of edits of several attributes that are fitted at once."""

    words = "together"

    def __init__(self, context: StageContext, ledger: Ledger) -> None:
        """Starts with no place.

        Args:
            context: see `StageContext`.
            ledger: the units of the edit stage.
        """
        # The order in a group changes nothing.
        groups = (tuple(sorted(group)) for group in (context.spec.edit or EditSpec()).together)
        super().__init__(context, ledger, {TOGETHER + " + ".join(group): group for group in groups})
        self._known: dict[tuple[str, str], dict[str, Place]] = {}

    def at(self, place: Place) -> list[Unit]:
        """Takes note of the place of one attribute, and returns the units of groups that it completes.

        A window that a person named is about one attribute.
        """
        if place.scope == "by_hand":
            return []
        known = self._known.setdefault((place.model, place.editor), {})
        known[place.attribute] = place
        more: list[Unit] = []
        for name, group in self.names.items():
            if place.attribute in group and known.keys() >= set(group):
                whole = PlaceOfSeveral(tuple(known[member] for member in group), name)
                if self._candidates(whole):
                    self._places[whole.key] = whole
                    more += self.advance(whole.key)
        return more

    def advance(self, key: Key) -> list[Unit]:
        """Plans step after step, as far as committed units carry."""
        place, ledger = self._places[key], self._ledger
        first = self._candidates(place)
        model, attribute = self._resolved.model(place.model), self._resolved.attribute(place.attributes[0])
        fit = fit_unit(self._spec, model, attribute, first, place.localization, ledger.order)
        if missing := ledger.fit(key, fit):
            return missing
        rows = ledger.fitted(fit).to_pylist()
        if missing := ledger.missing(key, self._unmeasured(place, rows, first, "select")):
            return missing
        limit = self._spec.edit.max_neighbour_loss if self._spec.edit else 0.0
        chosen = choose(first, self._summaries(place, rows, first, "select"), limit)
        kept = [edit for edit in first if edit.edit_id in chosen]
        if missing := ledger.missing(key, self._unmeasured(place, rows, kept, "report")):
            return missing
        if not chosen:
            names = " and ".join(place.attributes)
            logger.warning("%s %s: no edit is chosen, no picture without an edit is one", place.model, names)
        self._finish(place, fit, chosen)
        if self._on_edited is not None:
            self._on_edited(self._summaries(place, rows, kept, "report"))
        return []

    def _candidates(self, place: PlaceOfSeveral) -> list[PlannedEdit]:
        model = self._resolved.model(place.model)
        return candidates_together(self._spec, model, self._parts(place), place.editor)
