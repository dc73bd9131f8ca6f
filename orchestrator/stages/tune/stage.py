"""A search for the strength of an edit: what its trials ask for, measured by the sweep's own workers.

Trials are measured on the ``select`` split, seed by seed. The best of those that went the whole way is then an edit
like any other at a window that was named by hand: fitted, held against baselines and measured on ``report``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from loco_core import plugins
from loco_core.editing.base import EditSettings, Setting, editor_info, shown
from loco_core.errors import SpecError
from loco_core.types import Attribute, Window
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.spec import EditSpec
from orchestrator.stages.base import Stage, StageContext
from orchestrator.stages.edit.candidates import paired, planned_edit
from orchestrator.stages.edit.chooser import chosen_by
from orchestrator.stages.edit.evaluation_index import EvaluationIndex
from orchestrator.stages.edit.places import known_attributes, place_by_hand
from orchestrator.stages.edit.plan import (
    FIRST_SEED,
    Evaluation,
    PlannedEdit,
    Probe,
    evaluate_units,
    fit_unit,
    probes,
    watched,
)
from orchestrator.stages.edit.stage import EditStage
from orchestrator.stages.edit.summary import neighbour_loss, summarize
from orchestrator.store import SCHEMA_VERSION, make_table, write_derived

LOCALIZATION = "tune"
FAILED = -2.0
"""Objective of an edit that could not be measured: worse than any that could."""


@dataclass(frozen=True)
class Request:
    """What a trial asks for next.

    Attributes:
        trial: its name.
        settings: of the edit.
        window: where it is made.
        seeds: on how many seeds of ``select`` it is to be measured, those it was measured on already included.
    """

    trial: str
    settings: EditSettings
    window: Window
    seeds: int


@dataclass(frozen=True)
class Space:
    """What is searched: paired edits, as those that are published have nothing to search.

    Attributes:
        editors: keys of editors.
        window: the sites, or None: any window of at most ``largest`` sites.
        n_sites: of the model.
        largest: sites of the largest window.
        wanted: the ``edit:`` block, for what is not searched.
    """

    editors: tuple[str, ...]
    window: Window | None
    n_sites: int
    largest: int
    wanted: EditSpec

    def propose(self, trial: Any) -> None:
        """Names the parameters of an Optuna trial; those of other editors are not asked for."""
        editor = trial.suggest_categorical("editor", list(self.editors))
        for setting in editor_info(editor).settings:
            name = self.parameter(editor, setting)
            if setting.span is not None:
                trial.suggest_float(name, *setting.span, log=True)
            else:
                trial.suggest_categorical(name, list(setting.choices))
        if self.window is None:
            trial.suggest_int("size", 1, self.largest)
            trial.suggest_int("start", 0, self.n_sites - 1)

    def parameter(self, editor: str, setting: Setting) -> str:
        """Returns what a setting is called in a trial: editors share a parameter that they search alike."""
        name = setting.column or setting.option
        others = (other for item in self.editors for other in editor_info(item).settings)
        alike = {(item.span, item.choices) for item in others if (item.column or item.option) == name}
        return name if len(alike) == 1 else f"{editor} {name}"

    def request(self, trial: str, config: dict[str, Any], seeds: int) -> Request:
        """Turns a trial's parameters into what it asks for."""
        editor = config["editor"]
        values = {item.name: config[self.parameter(editor, item)] for item in editor_info(editor).settings}
        window = self.window
        if window is None:
            size = config["size"]
            window = Window(min(config["start"], self.n_sites - size), size)
        return Request(trial, paired(self.wanted, editor, values), window, seeds)


def check_searchable(editors: Sequence[str]) -> None:
    """Refuses editors whose settings cannot be searched.

    Raises:
        SpecError: there is one.
    """
    for editor in editors:
        if not editor_info(editor).is_searchable:
            able = [key for key in plugins.keys("editors") if editor_info(key).is_searchable]
            raise SpecError(
                f"{editor} has no settings to search; expected {' or '.join(able)}, or an editor of your own"
            )


@dataclass(frozen=True)
class Trial:
    """How far a trial came.

    Attributes:
        request: the last that was answered.
        edit_id: of its edit.
        pictures: that were drawn with the edit.
        flipped: share of the target pictures that show the donor's class now.
        neighbour_loss: share of the neighbours' pictures that it spoiled.
        objective: see `objective`.
    """

    request: Request
    edit_id: str
    pictures: int
    flipped: float
    neighbour_loss: float
    objective: float


class Search(Protocol):
    """Proposes settings, and stops those that fall behind."""

    def start(self) -> None:
        """Begins to propose."""

    def take(self) -> list[Request]:
        """Returns what trials ask for since the last call."""

    def answer(self, trial: str, objective: float) -> None:
        """Tells a trial how it did."""

    def over(self) -> bool:
        """Tells whether no trial will ask any more; raises what ended the search early."""

    def stop(self) -> None:
        """Ends the search, however far it is."""


def objective(flipped: float, neighbour_loss: float, most_loss: float) -> float:
    """Returns what a search maximizes: efficacy under a bound on the neighbours' loss.

    An edit that spoils more is worse than any that does not, the worse the more it spoils: as edits are chosen.

    Args:
        flipped: share of the target pictures that show the donor's class now.
        neighbour_loss: share of the neighbours' pictures that were spoiled.
        most_loss: how much of that is allowed.
    """
    return flipped if neighbour_loss <= most_loss else -neighbour_loss


class TuneStage(Stage):
    """Derives the units that trials ask for, and at the end those of the best edit."""

    name = EditStage.name

    def __init__(self, context: StageContext, attribute: str, search: Search, search_seed: int) -> None:
        """Starts from what the store holds.

        Args:
            context: see `StageContext`, of one model; the spec's ``edit`` block bounds the neighbours' loss.
            attribute: key of the attribute that is edited.
            search: proposes settings.
            search_seed: seed of the search, for the table.
        """
        self._context, store = context, context.store
        (self._model,) = context.resolved.models
        self._store, self._spec, self._resolved, self._search = store, context.spec, context.resolved, search
        self._attribute: Attribute = self._resolved.attribute(attribute)
        self._search_seed, self._committed = search_seed, store.committed()
        # Any fit says which attributes are nearest; this one is quick.
        first = self._edit(EditSettings(tokens="last_subject", strength=0.01), Window(0, 1))
        self._first = fit_unit(self._spec, self._model, self._attribute, [first], LOCALIZATION, 0)
        self._order = 1
        self._beside: list[Attribute] | None = None
        self._asked: dict[str, Request] = {}
        self._waits: dict[str, set[str]] = {}
        self._failed: set[str] = set()
        self._trials: dict[str, Trial] = {}
        self._edits: EditStage | None = None
        self._measured = EvaluationIndex(store)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """How far every trial came."""
        return tuple(self._trials.values())

    @property
    def best(self) -> Trial | None:
        """The best of the trials that were measured on all seeds; of equals the one that spares the most."""
        through = [
            trial for trial in self.trials
            if trial.request.seeds == self._spec.evaluate.seeds and trial.objective > FAILED
        ]  # fmt: skip
        return max(through, key=lambda trial: (trial.objective, -trial.neighbour_loss), default=None)

    def begin(self) -> list[Unit]:
        """Returns the fit that says which attributes are nearest, or begins to search where it is committed."""
        return [self._first] if self._first.unit_id not in self._committed else self.settled(())

    def settled(self, done: Sequence[Settled]) -> list[Unit]:
        """Takes note of units that are done, and returns those that follow from the best edit."""
        if self._edits is not None:
            return self._edits.settled(done)
        for item in done:
            self._note(item)
        if self._beside is None and self._first.unit_id not in self._failed:
            nearest = self._store.read_units([self._first.unit_id], "fits")["neighbours"][0].as_py() or []
            self._beside = watched(self._spec, known_attributes(self._resolved), nearest)
            self._search.start()
        self._answer()
        return []

    def asked(self) -> list[Unit] | None:
        """Returns the units that trials ask for; None when the search is over and the best edit is under way."""
        if self._edits is not None or self._first.unit_id in self._failed:
            return None
        if self._beside is None:
            return []
        wanted = self._search.take()
        if wanted or self._asked or not self._search.over():
            return self._units(wanted)
        return self._fit_best()

    def _edit(self, settings: EditSettings, window: Window) -> PlannedEdit:
        return planned_edit(self._spec, self._model, self._attribute, settings, "by_hand", window.sites)

    def _probes(self, seeds: int) -> list[Probe]:
        last = FIRST_SEED["select"] + seeds
        drawn = probes(self._spec, self._attribute, self._beside or [], "select", self._resolved.judge_id)
        return [probe for probe in drawn if probe.seed < last]

    def _units(self, wanted: Iterable[Request]) -> list[Unit]:
        """Cuts what trials ask for into units, those that ask for the same seeds together: they share a clean image."""
        rungs: dict[int, list[Request]] = {}
        for request in wanted:
            self._asked[request.trial] = request
            rungs.setdefault(request.seeds, []).append(request)
        found: list[Unit] = []
        for seeds, requests in rungs.items():
            edits = {request.trial: self._edit(request.settings, request.window) for request in requests}
            distinct, drawn = list({edit.edit_id: edit for edit in edits.values()}.values()), self._probes(seeds)
            pairs = self._measured.pairs(self._model.id, self._attribute.key, distinct, drawn)
            units = [
                unit
                for unit in evaluate_units(
                    self._spec, self._model, self._attribute, distinct, LOCALIZATION, drawn, "select", self._order,
                    pairs,
                )
                # One that failed is not run again in this run.
                if unit.unit_id not in self._failed
            ]  # fmt: skip
            self._order += len(units)
            for trial, edit in edits.items():
                self._waits[trial] = {unit.unit_id for unit in units if edit in unit.payload.edits}
            found += units
        # What is measured already needs no unit.
        self._answer()
        return found

    def _note(self, item: Settled) -> None:
        unit_id = item.unit.unit_id
        if item.report.outcome == "failed":
            self._failed.add(unit_id)
        elif isinstance(item.unit.payload, Evaluation):
            self._measured.add(unit_id, item.report.reported)
        for waits in self._waits.values():
            waits.discard(unit_id)

    def _answer(self) -> None:
        """Tells trials whose units are done how they did, and writes that down."""
        ready = [name for name in self._asked if not self._waits[name]]
        for name in ready:
            trial = self._judged(self._asked.pop(name))
            self._trials[name] = trial
            self._search.answer(name, trial.objective)
        if ready:
            self._write()

    def _judged(self, request: Request) -> Trial:
        edit = self._edit(request.settings, request.window)
        rows = self._measured.rows(self._model.id, self._attribute.key, [edit], self._probes(request.seeds))
        row = {
            "edit_id": edit.edit_id, "model": self._model.id, "attribute": self._attribute.key,
            "attribute_kind": self._attribute.kind, "editor": edit.settings.editor, "targets": None,
            "scope": edit.scope,
            "chosen": False, "site_indices": edit.sites, "localization": LOCALIZATION,
        }  # fmt: skip
        found = summarize([row], chosen_by(self._spec, self._resolved, self._attribute.kind, rows), "select")
        pictures = len({(row["prompt_role"], row["prompt"], row["clip_text"], row["seed"]) for row in rows})
        if not found:
            return Trial(request, edit.edit_id, pictures, 0.0, 0.0, FAILED)
        flipped, loss = found[0].flipped.value, neighbour_loss(found[0])
        return Trial(request, edit.edit_id, pictures, flipped, loss, objective(flipped, loss, self._most_loss))

    @property
    def _most_loss(self) -> float:
        return (self._spec.edit or EditSpec()).max_neighbour_loss

    def _fit_best(self) -> list[Unit] | None:
        """Turns the best trial into an edit that is measured like any other."""
        best = self.best
        if best is None:
            return None
        settings, window = best.request.settings, best.request.window
        info, wanted = editor_info(settings.editor), self._spec.edit or EditSpec()
        edit = EditSpec.model_validate(
            {
                "editors": (settings.editor,), "targets": ("paired",), "preserve": settings.preserve,
                "max_neighbour_loss": wanted.max_neighbour_loss,
                **{name: getattr(settings, name) for name in info.options},
                **{item.option: (getattr(settings, item.name),) for item in info.settings},
            }
        )  # fmt: skip
        spec = self._spec.model_copy(update={"edit": edit})
        place = place_by_hand(self._model.id, self._attribute.key, window)
        place = replace(place, localization=f"{place.localization}, {settings.editor} tuned")
        context = replace(self._context, spec=spec, first_order=self._order)
        self._edits = EditStage(context, [place])
        return self._edits.begin()

    def _write(self) -> None:
        """Replaces what ``trials`` says of this attribute of this model: an earlier search of it goes."""
        mine, best = (self._model.id, self._attribute.key), self.best
        rows = [self._row(trial, best=trial is best) for trial in self.trials]
        table = make_table("trials", rows)
        self._context.side.submit(lambda: write_derived(self._store, {"trials": table}, [mine]))

    def _row(self, trial: Trial, *, best: bool) -> dict[str, Any]:
        settings, window = trial.request.settings, trial.request.window
        columns = shown(editor_info(settings.editor), settings)
        return {
            "sweep_id": self._store.sweep_id(), "model": self._model.id, "attribute": self._attribute.key,
            "trial": trial.request.trial, "edit_id": trial.edit_id, "editor": settings.editor,
            "window_start": window.start, "window_size": window.size, "tokens": settings.tokens,
            "lambda": columns.get("lambda"), "neurons": columns.get("neurons"),
            "seeds": trial.request.seeds, "pictures": trial.pictures, "flipped": trial.flipped,
            "neighbour_loss": trial.neighbour_loss, "objective": trial.objective,
            "stopped": trial.request.seeds < self._spec.evaluate.seeds, "best": best,
            "search_seed": self._search_seed, "settings": settings.model_dump_json(),
            "schema_version": SCHEMA_VERSION,
        }  # fmt: skip
