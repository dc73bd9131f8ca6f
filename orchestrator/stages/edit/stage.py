"""Edits: fitted where something was localized, chosen on one split, measured beside their baselines on another.

A pure derivation from what is committed, place by place and without a barrier: fit candidates -> evaluate them on
``select`` -> choose one of each editor -> fit baselines -> evaluate all on ``report``. A place is where a localizer
found an attribute, a window that a person named, or wherever a published method puts its edits, found or not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import pyarrow as pa

from loco_core.errors import SpecError
from loco_core.localization.base import Localization
from loco_core.types import Attribute, Window
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.stages.base import Stage, StageContext
from orchestrator.stages.edit.candidates import baselines, candidates
from orchestrator.stages.edit.chooser import choose, chooser, chosen_by
from orchestrator.stages.edit.ledger import Key, Ledger, with_choice
from orchestrator.stages.edit.places import Owner, Place, known_attributes, localized_place, method_places
from orchestrator.stages.edit.plan import (
    CANDIDATES,
    PlannedEdit,
    check_editable,
    evaluate_units,
    fit_unit,
    probes,
    watched,
)
from orchestrator.stages.edit.sequence import SequenceEdits
from orchestrator.stages.edit.summary import summarize
from orchestrator.stages.edit.together import TogetherEdits
from orchestrator.store import drop_derived, layout, write_derived
from orchestrator.store.derived import read_derived

logger = logging.getLogger(__name__)


class EditStage(Stage):
    """Derives the units of edits, and writes a place's rows of ``edits`` when it is through."""

    name = "edit"

    def __init__(self, context: StageContext, places: Sequence[Place] = ()) -> None:
        """Starts from what the store holds.

        Args:
            context: see `StageContext`.
            places: where edits are made from the beginning; localizations add others.
        """
        self._store, self._spec, self._resolved = context.store, context.spec, context.resolved
        self._first, self._side = list(places), context.side
        self._on_edited, self._on_chosen = context.on_edited, context.on_chosen
        self._ledger = Ledger(context.store, context.first_order)
        self._together = TogetherEdits(context, self._ledger)
        self._sequences = SequenceEdits(context, self._ledger)
        self._places: dict[Key, Place] = {}

    @cached_property
    def _held(self) -> set[tuple[str, str, Window]]:
        """Where there were localized edits when this stage began."""
        names = ["model", "attribute", "scope", "window_start", "window_size"]
        return {
            (row["model"], row["attribute"], Window(row["window_start"], row["window_size"]))
            for row in self._store.read("edits").select(names).to_pylist()
            if row["scope"] == "localized"
        }

    def begin(self) -> list[Unit]:
        """Plans the units of the places that are named from the beginning, beside the loop."""
        for several in (self._together, self._sequences):
            several.begun(self._first)
        return self._beside(lambda: [unit for place in self._first for unit in self._at(place)])

    def localized(self, found: Localization) -> list[Unit]:
        """Plans what follows from a localization, beside the loop."""
        return self._beside(lambda: self._following(found))

    def settled(self, done: Sequence[Settled]) -> list[Unit]:
        """Takes note of units that are done, and plans what follows, beside the loop."""
        return self._beside(lambda: self._noted(done))

    def _beside(self, job: Callable[[], list[Unit]]) -> list[Unit]:
        """Does all that reads or writes tables, or touches this stage's state, in the thread of the side work."""
        self._side.submit(job, lambda units: units)
        return []

    def _following(self, found: Localization) -> list[Unit]:
        """Returns the units that follow from a localization: at its window, if it has one, and where methods edit."""
        if found.outcome != "incomplete":
            self._withdraw_others(found.model, found.attribute, found.window)
        if self._spec.edit is None:
            return []
        places = method_places(self._spec, self._resolved, found.model, found.attribute)
        if found.window is None:
            self._together.missed(found)
            self._sequences.missed(found)
        # One that is incomplete names no window.
        if found.window is not None:
            places.insert(0, localized_place(found.model, found.attribute, found.window, found.localizer))
        return [unit for place in places for unit in self._at(place)]

    def _withdraw_others(self, model: str, attribute: str, window: Window | None) -> None:
        """Takes edits out of ``edits`` that stand as localized where the localizer finds nothing any more."""
        if any(held[:2] == (model, attribute) and held[2] != window for held in self._held):
            drop_derived(self._store, [layout.derived("edits", model, attribute, "")])
            self._together.withdraw(model, attribute)
            self._sequences.withdraw(model, attribute)

    def _at(self, place: Place) -> list[Unit]:
        """Returns the units that edits at a place begin with."""
        try:
            attribute, model = self._resolved.attribute(place.attribute), self._resolved.model(place.model)
            check_editable(attribute, self._spec.prompts, model, place.sites)
        except SpecError as error:
            logger.warning("%s %s is not edited: %s", place.model, place.attribute, error)
            return []
        if not self._candidates(place):
            return []
        self._places[place.key] = place
        return [*self._advance(place), *self._together.at(place)]

    def _noted(self, done: Sequence[Settled]) -> list[Unit]:
        """Takes note of units that are done, and returns those that follow."""
        more: list[Unit] = []
        for item in done:
            key = self._ledger.note(item)
            if key in self._places:
                more += self._advance(self._places[key])
            elif key is not None:
                more += (self._together if self._together.has(key) else self._sequences).advance(key)
        return more

    def _candidates(self, place: Place) -> list[PlannedEdit]:
        model, attribute = self._resolved.model(place.model), self._resolved.attribute(place.attribute)
        return candidates(self._spec, model, attribute, place.sites, place.scope, place.editor)

    def _advance(self, place: Place) -> list[Unit]:
        """Plans step after step, as far as committed units carry."""
        spec, resolved = self._spec, self._resolved
        model, attribute = resolved.model(place.model), resolved.attribute(place.attribute)
        first = self._candidates(place)
        ledger = self._ledger
        fit = fit_unit(spec, model, attribute, first, place.localization, ledger.order)
        if missing := ledger.fit(place.key, fit):
            return missing
        fits = ledger.fitted(fit)
        beside = watched(spec, known_attributes(self._resolved), fits["neighbours"][0].as_py() or [])
        if missing := ledger.missing(place.key, self._unmeasured(place, first, beside, "select")):
            return missing
        drawn = probes(spec, attribute, beside, "select", resolved.judge_id)
        rows = ledger.measured.rows(model.id, attribute.key, first, drawn)
        measured = summarize(fits.to_pylist(), chosen_by(spec, resolved, attribute.kind, rows), "select")
        chosen = choose(first, measured, spec.edit.max_neighbour_loss if spec.edit else 0.0)
        edits = [edit for edit in first if edit.edit_id in chosen]
        if not edits:
            logger.warning("%s %s: no edit is chosen, no picture without an edit is one", model.id, attribute.key)
            self._finish(place, [fit], chosen)
            return self._sequences.chosen(place, [])
        # An editor may have nothing that it is held against.
        others, units = baselines(spec, model, attribute, edits), [fit]
        if others:
            units.append(fit_unit(spec, model, attribute, others, place.localization, ledger.order))
            if missing := ledger.missing(place.key, units[1:]):
                return missing
        # All strengths at the place's sites too: the curve beside that of all sites.
        if missing := ledger.missing(place.key, self._unmeasured(place, [*first, *others], beside, "report")):
            return missing
        self._finish(place, units, chosen)
        if self._on_edited is not None:
            drawn = probes(spec, attribute, beside, "report", resolved.judge_id, resolved.metric_ids)
            rows = ledger.measured.rows(model.id, attribute.key, edits, drawn)
            fitted = [{**row, "chosen": True} for row in fits.to_pylist() if row["edit_id"] in chosen]
            self._on_edited(summarize(fitted, rows))
        return [
            *self._on_chosen(place.model, place.attribute, edits, place.localization),
            *self._sequences.chosen(place, edits),
        ]

    def _unmeasured(
        self,
        place: Place,
        edits: Sequence[PlannedEdit],
        beside: Sequence[Attribute],
        split: Literal["select", "report"],
    ) -> list[Unit]:
        attribute = self._resolved.attribute(place.attribute)
        resolved = self._resolved
        drawn = probes(self._spec, attribute, beside, split, resolved.judge_id, resolved.metric_ids)
        return evaluate_units(
            self._spec, self._resolved.model(place.model), attribute, edits, place.localization, drawn, split,
            self._ledger.order, self._ledger.measured.pairs(place.model, place.attribute, edits, drawn),
        )  # fmt: skip

    def _finish(self, place: Place, units: Sequence[Unit], chosen: set[str]) -> None:
        table = pa.concat_tables(self._ledger.fitted(unit) for unit in units)
        flags = [
            scope in CANDIDATES and edit in chosen
            for scope, edit in zip(table["scope"].to_pylist(), table["edit_id"].to_pylist(), strict=True)
        ]
        # A unit is named by what it fits: another place may have had it fitted, under its own localization.
        table = with_choice(table, flags, place.localization, chooser(self._spec, self._resolved))
        _warn_of_another_choice(place.owner, read_derived(self._store, "edits", place.owner), table)
        write_derived(self._store, {"edits": table}, [place.owner])


def _warn_of_another_choice(owner: Owner, before: pa.Table, now: pa.Table) -> None:
    """Says so where other edits are chosen than were, of the same candidates: they were measured on more, say."""

    def listed(table: pa.Table) -> tuple[set[str], set[str]]:
        rows = [row for row in table.select(["edit_id", "scope", "chosen"]).to_pylist() if row["scope"] in CANDIDATES]
        return {row["edit_id"] for row in rows}, {row["edit_id"] for row in rows if row["chosen"]}

    (old, was), (new, is_) = listed(before), listed(now)
    if old == new and was != is_:
        changes = ", ".join(sorted(edit[:12] for edit in was - is_)), ", ".join(sorted(edit[:12] for edit in is_ - was))
        logger.warning("%s %s: chosen edits change from %s to %s", owner[0], owner[1], *changes)
