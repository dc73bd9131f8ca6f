"""Edits: fitted where something was localized, chosen on one split, measured beside their baselines on another.

A pure derivation from what is committed, place by place and without a barrier: fit candidates -> evaluate them on
``select`` -> choose one of each editor -> fit baselines -> evaluate all on ``report``. A place is where a localizer
found an attribute, a window that a person named, or wherever a published method puts its edits, found or not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa

from loco_core.attributes import bundled
from loco_core.errors import SpecError
from loco_core.localization.base import Localization
from loco_core.types import Attribute, Window
from orchestrator.resolve.resolved import Resolved
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import Stage, StageContext
from orchestrator.stages.edit.candidates import baselines, candidates, methods
from orchestrator.stages.edit.chooser import chooser, chosen_by
from orchestrator.stages.edit.evaluation_index import EvaluationIndex
from orchestrator.stages.edit.plan import (
    CANDIDATES,
    Evaluation,
    PlannedEdit,
    check_editable,
    evaluate_units,
    fit_unit,
    probes,
    watched,
)
from orchestrator.stages.edit.summary import EditSummary, neighbour_loss, summarize
from orchestrator.store import drop_derived, layout, write_derived
from orchestrator.store.derived import read_derived
from orchestrator.store.keyed import BY_HAND, METHOD

logger = logging.getLogger(__name__)
Key = tuple[str, str, str]  # model, attribute, localization
Owner = tuple[str, str, str]  # model, attribute, and the localization where no localizer found it


@dataclass(frozen=True)
class Place:
    """Where an attribute's edits are made, and what says so.

    Attributes:
        model: id of the model.
        attribute: key of the attribute.
        sites: the sites; none where a method edits a text encoder.
        localization: what picked them: a localizer, a hand, or a method.
        scope: of the candidates.
        editor: the method; empty where all editors edit that edit where they are asked to.
    """

    model: str
    attribute: str
    sites: tuple[int, ...]
    localization: str
    scope: str
    editor: str = ""

    @property
    def key(self) -> Key:
        """What tells its units from those of other places."""
        return self.model, self.attribute, self.localization

    @property
    def owner(self) -> Owner:
        """What tells its rows of ``edits`` from those of other places; see `orchestrator.store.derived.key_of`."""
        return self.model, self.attribute, "" if self.scope == "localized" else self.localization


def localized_place(model: str, attribute: str, window: Window, localizer: str) -> Place:
    """Returns the place that a localizer found."""
    return Place(model, attribute, window.sites, f"{localizer}: {_sites(window)}", "localized")


def place_by_hand(model: str, attribute: str, window: Window) -> Place:
    """Returns a place that a person named."""
    return Place(model, attribute, window.sites, f"{BY_HAND}{_sites(window)}", "by_hand")


def method_places(spec: SweepSpec, resolved: Resolved, model: str, attribute: str) -> list[Place]:
    """Returns the places of the published methods among a sweep's editors, which need no localization.

    Methods that the model admits no edit of are passed over, with a warning.
    """
    found = []
    for editor in methods(spec):
        try:
            sites = resolved.model(model).method_sites(editor)
        except SpecError as error:
            logger.warning("%s %s is not edited by %s: %s", model, attribute, editor, error)
            continue
        where = "all sites" if sites else "text encoder"
        found.append(Place(model, attribute, sites, f"{METHOD}{editor}, {where}", "method", editor))
    return found


def known_attributes(resolved: Resolved) -> Mapping[str, Attribute]:
    """Returns the attributes that may be neighbours, by key."""
    return {**bundled(), **{item.key: item for item in resolved.attributes}}


def _sites(window: Window) -> str:
    return f"sites {window.start}-{window.start + window.size - 1}"


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
        self._order, self._first, self._side = context.first_order, list(places), context.side
        self._on_edited, self._on_chosen = context.on_edited, context.on_chosen
        self._committed = set(self._store.committed())
        self._places: dict[Key, Place] = {}
        self._waiting: dict[Key, set[str]] = {}
        self._fits: dict[str, pa.Table] = {}

    @cached_property
    def _measured(self) -> EvaluationIndex:
        return EvaluationIndex(self._store)

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
        # One that is incomplete names no window.
        if found.window is not None:
            places.insert(0, localized_place(found.model, found.attribute, found.window, found.localizer))
        return [unit for place in places for unit in self._at(place)]

    def _withdraw_others(self, model: str, attribute: str, window: Window | None) -> None:
        """Takes edits out of ``edits`` that stand as localized where the localizer finds nothing any more."""
        if any(held[:2] == (model, attribute) and held[2] != window for held in self._held):
            drop_derived(self._store, [layout.derived("edits", model, attribute, "")])

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
        return self._advance(place)

    def _noted(self, done: Sequence[Settled]) -> list[Unit]:
        """Takes note of units that are done, and returns those that follow."""
        more: list[Unit] = []
        for item in done:
            unit, planned = item.unit, item.unit.payload
            key = (unit.model, planned.attribute.key, planned.localization)
            self._waiting[key].discard(unit.unit_id)
            if item.report.outcome != "failed":
                self._committed.add(unit.unit_id)
                if isinstance(planned, Evaluation):
                    self._measured.add(unit.unit_id, item.report.reported)
                elif item.report.reported is not None:
                    self._fits[unit.unit_id] = item.report.reported
            if not self._waiting[key]:
                more += self._advance(self._places[key])
        return more

    def _candidates(self, place: Place) -> list[PlannedEdit]:
        model, attribute = self._resolved.model(place.model), self._resolved.attribute(place.attribute)
        return candidates(self._spec, model, attribute, place.sites, place.scope, place.editor)

    def _advance(self, place: Place) -> list[Unit]:
        """Plans step after step, as far as committed units carry."""
        spec, resolved = self._spec, self._resolved
        model, attribute = resolved.model(place.model), resolved.attribute(place.attribute)
        first = self._candidates(place)
        fit = fit_unit(spec, model, attribute, first, place.localization, self._order)
        self._committed -= self._without_deltas(fit)
        if missing := self._missing(place, [fit]):
            return missing
        fits = self._fitted(fit)
        beside = watched(spec, known_attributes(self._resolved), fits["neighbours"][0].as_py() or [])
        if missing := self._missing(place, self._unmeasured(place, first, beside, "select")):
            return missing
        drawn = probes(spec, attribute, beside, "select", resolved.judge_id)
        rows = self._measured.rows(model.id, attribute.key, first, drawn)
        measured = summarize(fits.to_pylist(), chosen_by(spec, resolved, attribute.kind, rows), "select")
        chosen = choose(first, measured, spec.edit.max_neighbour_loss if spec.edit else 0.0)
        others = baselines(spec, model, attribute, [edit for edit in first if edit.edit_id in chosen])
        if not others:
            logger.warning("%s %s: no edit is chosen, no picture without an edit is one", model.id, attribute.key)
            self._finish(place, [fit], chosen)
            return []
        more = fit_unit(spec, model, attribute, others, place.localization, self._order)
        if missing := self._missing(place, [more]):
            return missing
        # All strengths at the place's sites too: the curve beside that of all sites.
        if missing := self._missing(place, self._unmeasured(place, [*first, *others], beside, "report")):
            return missing
        self._finish(place, [fit, more], chosen)
        edits = [edit for edit in first if edit.edit_id in chosen]
        if self._on_edited is not None:
            drawn = probes(spec, attribute, beside, "report", resolved.judge_id, resolved.metric_ids)
            rows = self._measured.rows(model.id, attribute.key, edits, drawn)
            fitted = [{**row, "chosen": True} for row in fits.to_pylist() if row["edit_id"] in chosen]
            self._on_edited(summarize(fitted, rows))
        return self._on_chosen(place.model, place.attribute, edits, place.localization)

    def _without_deltas(self, fit: Unit) -> set[str]:
        """Returns the unit's id if a file that it wrote is gone: it is fitted again, which writes it anew."""
        if fit.unit_id not in self._committed:
            return set()
        paths = (path for path in self._fitted(fit)["delta_path"].to_pylist() if path)
        return set() if all(self._store.blobs.exists(path) for path in paths) else {fit.unit_id}

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
            self._order, self._measured.pairs(place.model, place.attribute, edits, drawn),
        )  # fmt: skip

    def _missing(self, place: Place, units: Sequence[Unit]) -> list[Unit]:
        missing = [unit for unit in units if unit.unit_id not in self._committed]
        self._waiting[place.key] = {unit.unit_id for unit in missing}
        self._order += len(missing)
        return missing

    def _fitted(self, fit: Unit) -> pa.Table:
        """Returns the rows of ``fits`` of a committed unit."""
        if fit.unit_id not in self._fits:
            self._fits[fit.unit_id] = self._store.read_units([fit.unit_id], "fits")
        return self._fits[fit.unit_id]

    def _finish(self, place: Place, units: Sequence[Unit], chosen: set[str]) -> None:
        table = pa.concat_tables(self._fitted(unit) for unit in units)
        flags = [
            scope in CANDIDATES and edit in chosen
            for scope, edit in zip(table["scope"].to_pylist(), table["edit_id"].to_pylist(), strict=True)
        ]
        # A unit is named by what it fits: another place may have had it fitted, under its own localization.
        where = [place.localization] * len(flags)
        columns: dict[str, pa.Array[Any]] = {
            "chosen": pa.array(flags, pa.bool_()),
            "localization": pa.array(where, pa.string()),
            "chosen_by": pa.array([chooser(self._spec, self._resolved)] * len(flags), pa.string()),
        }
        for name, values in columns.items():
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(at), values)
        table = table.combine_chunks()
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


def choose(edits: Sequence[PlannedEdit], measured: Sequence[EditSummary], max_neighbour_loss: float) -> set[str]:
    """Chooses one edit of each editor and kind of targets.

    It is the most effective of those that spare the neighbours, else the most sparing.

    Args:
        edits: candidates, in the order of the spec.
        measured: what they did on ``select``.
        max_neighbour_loss: share of neighbours' pictures that the edit may spoil.

    Returns:
        ids of the chosen edits.
    """
    by_id, chosen = {item.edit_id: item for item in measured}, set()
    groups: dict[tuple[str, str], list[EditSummary]] = {}
    for edit in edits:
        if edit.edit_id in by_id:
            groups.setdefault((edit.settings.editor, edit.settings.targets), []).append(by_id[edit.edit_id])
    for mine in groups.values():
        sparing = [item for item in mine if neighbour_loss(item) <= max_neighbour_loss]
        if sparing:
            chosen.add(max(sparing, key=lambda item: (item.flipped.value, -neighbour_loss(item))).edit_id)
        else:
            chosen.add(min(mine, key=neighbour_loss).edit_id)
    return chosen
