"""Edits on results that are there: what the ``edit`` and ``evaluate`` commands do, without a terminal."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from loco_core.errors import EditError, SpecError, StoreError, did_you_mean
from loco_core.types import Window
from orchestrator.hooks.choice import makers_of
from orchestrator.hooks.events import RunEnd
from orchestrator.hooks.runner import watching
from orchestrator.resolve.lookup import resolve
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.runs.metrics import write_metrics
from orchestrator.runs.session import (
    Controls,
    absolute,
    begin,
    check_texts,
    drive,
    each,
    pinned_names,
    run_start,
    worker_settings,
)
from orchestrator.scheduler.progress import RunSummary
from orchestrator.scheduler.side_work import SideWork
from orchestrator.spec import EditSpec, EvaluateSpec, SweepSpec
from orchestrator.stages.base import PlannedStage, Stage, StageContext, sweep_id
from orchestrator.stages.chain import Chain, editing
from orchestrator.stages.edit.candidates import methods
from orchestrator.stages.edit.chooser import latest_judge
from orchestrator.stages.edit.missing import as_chosen, missing_evaluations
from orchestrator.stages.edit.places import Place, localized_place, method_places, place_by_hand
from orchestrator.stages.edit.plan import check_editable
from orchestrator.stages.edit.summary import EditSummary, summarize
from orchestrator.stages.localize import main_rows
from orchestrator.stages.probe.plan import with_batch_sizes
from orchestrator.stages.sweep.stored import planned, units_left
from orchestrator.stages.tune.stage import Search, Space, Trial, TuneStage, check_searchable
from orchestrator.store import Held, Publisher, Store, check_whole, encode_document, leased, open_store, preflight
from orchestrator.store.layout import RESOLVED

Say = Callable[[str], None]


@dataclass(frozen=True)
class Selection:
    """What a command is about; where nothing is named, all is selected.

    Attributes:
        root: results folder or ``s3://`` address.
        model: id of a model.
        attributes: keys of attributes.
    """

    root: str
    model: str | None = None
    attributes: tuple[str, ...] = ()

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Tells whether a row of a table is selected."""
        return self.model in (None, row["model"]) and (not self.attributes or row["attribute"] in self.attributes)


@dataclass(frozen=True)
class EditResult:
    """How a command ended, and what edits did on the ``report`` split.

    Attributes:
        summary: of the work; None where none was left.
        edits: those that were selected.
    """

    summary: RunSummary | None
    edits: tuple[EditSummary, ...]


@dataclass(frozen=True)
class TuneResult:
    """How a search ended.

    Attributes:
        edits: what the best edit did on the ``report`` split, beside others of the attribute.
        trials: how far every trial came.
        best: the best of those that were measured on all seeds.
        seeds: how many that is.
    """

    edits: EditResult
    trials: tuple[Trial, ...]
    best: Trial | None
    seeds: int


@dataclass(frozen=True)
class _Results:
    """A results folder that is this process's for now."""

    root: str
    held: Held
    spec: SweepSpec
    resolved: Resolved
    side: SideWork = field(default_factory=SideWork)

    @property
    def store(self) -> Store:
        """The files."""
        return self.held.store


def run_edits(
    selection: Selection,
    controls: Controls,
    say: Say,
    *,
    window: Window | None = None,
    blocks: SweepSpec | None = None,
    store: Store | None = None,
    resolved: Resolved | None = None,
) -> EditResult:
    """Fits edits and measures them beside their baselines; the same call again resumes.

    Args:
        selection: what is edited: all that is localized, or, with a window, some attributes of one model.
        controls: where it runs, who reads of it, and what stops it.
        say: called with a line that a person should read.
        window: where edits are made, whatever the localizer said.
        blocks: a sweep whose ``edit`` and ``evaluate`` blocks take the place of those of the results.
        store: the results, opened; None opens those that `meant` names.
        resolved: the models that are selected and all names of the sweep, looked up; None looks them up.

    Raises:
        LocoError: there is nothing to edit, a name is unknown, or the results cannot be read or written.
    """
    store, recorded = _opened(selection.root, store)
    if blocks is not None:
        store.check_sweep(sweep_id(blocks), blocks)
        names = [name for name in ("edit", "evaluate") if name in blocks.model_fields_set]
        given: dict[str, Any] = {name: getattr(blocks, name) for name in names}
        recorded = recorded.model_copy(update=given)
    spec = recorded.model_copy(update={"edit": recorded.edit or EditSpec()})
    selection = _checked(selection, spec, named="--window is about" if window else None)
    with _held(store, spec, selection, resolved) as held:
        places = _named(held, selection, window) if window else _localized(held, selection, say)
        if blocks is not None:
            # As it was given, without defaults: `retry` is not to edit what nobody asked to have edited.
            held.store.record_sweep(sweep_id(recorded), recorded, uuid.uuid4().hex)
        return _driven(held, editing(_context(held), places), controls, selection)


def run_evaluation(
    selection: Selection,
    controls: Controls,
    say: Say,
    changes: Mapping[str, int | bool],
    *,
    only_chosen: bool = False,
    store: Store | None = None,
    resolved: Resolved | None = None,
) -> EditResult:
    """Measures edits that are there on more prompts and seeds; what is chosen stays chosen.

    Args:
        selection: whose edits.
        controls: where it runs, who reads of it, and what stops it.
        say: called with a line that a person should read.
        changes: values of the ``evaluate`` block other than the recorded ones.
        only_chosen: leave out edits of other settings than those that were chosen.
        store: the results, opened; None opens those that `meant` names.
        resolved: the models that are selected and all names of the sweep, looked up; None looks them up.

    Raises:
        LocoError: there are no edits, a name is unknown, or the results cannot be read or written.
    """
    store, recorded = _opened(selection.root, store)
    wanted = EvaluateSpec.model_validate({**recorded.evaluate.model_dump(), **changes})
    spec = recorded.model_copy(update={"evaluate": wanted})
    selection = _checked(selection, spec)
    with _held(store, spec, selection, resolved) as held:
        rows = [row for row in held.store.read("edits").to_pylist() if selection.holds(row)]
        if not rows:
            raise EditError(
                f"nothing to evaluate: {selection.root} holds no edits{_of(selection)}; `loco-sweep edit` fits some"
            )
        if only_chosen:
            rows = [dict(row) for row in as_chosen(rows)]
        found = missing_evaluations(held.store, spec, held.resolved, rows)
        if found.lost:
            say(
                f"{found.lost} of {len(rows)} edits cannot be fitted again as they were: the sweep takes other prompts "
                "now, or the model or the editor's file changed; `loco-sweep edit` fits new ones"
            )
        if found.other_texts:
            say(
                f"{found.other_texts} of {len(rows)} edits were chosen by a margin against other texts than the "
                "sweep's are now; `loco-sweep edit` chooses anew"
            )
        if not found.units:
            # All of it may be what a driver that died had committed and not published.
            Publisher(held.store).publish(flush=True)
            write_metrics(held.store, held.resolved)
            return EditResult(None, _summaries(held.store, selection))
        return _driven(held, [PlannedStage("edit", found.units, _context(held))], controls, selection)


def run_tuning(
    selection: Selection,
    controls: Controls,
    *,
    window: Window | None,
    editors: tuple[str, ...],
    search: Callable[[Space, int], Search],
    seed: int,
    store: Store | None = None,
    resolved: Resolved | None = None,
) -> TuneResult:
    """Searches the settings of an edit, and measures the best like any other edit.

    Args:
        selection: one attribute of one model.
        controls: where it runs, who reads of it, and what stops it.
        window: where the edit is made; None searches that too.
        editors: keys of editors.
        search: makes the search of a space, on so many seeds.
        seed: of the search.
        store: the results, opened; None opens those that `meant` names.
        resolved: the models that are selected and all names of the sweep, looked up; None looks them up.

    Raises:
        LocoError: a name is unknown, the search breaks off, or the results cannot be read or written.
    """
    check_searchable(editors)
    store, recorded = _opened(selection.root, store)
    wanted = recorded.edit or EditSpec()
    spec = recorded.model_copy(update={"edit": wanted})
    selection = _checked(selection, spec, named="tune is about")
    with _held(store, spec, selection, resolved) as held:
        (model,), (name,) = held.resolved.models, selection.attributes
        if window is not None:
            _check_window(model, window)
        check_editable(held.resolved.attribute(name), spec.prompts, model, window.sites if window else ())
        model.check_sites()
        count = len(model.editable_sites)
        largest = min(spec.localize.largest(model.n_sites), count)
        space = Space(editors, window, count, largest, wanted)
        found = search(space, spec.evaluate.seeds)
        stage = TuneStage(_context(held), name, found, seed)
        result = _driven(held, [stage], controls, selection, before_shutdown=found.stop)
        return TuneResult(result, stage.trials, stage.best, spec.evaluate.seeds)


def _opened(root: str, store: Store | None) -> tuple[Store, SweepSpec]:
    store = store or open_store(absolute(root), create=False)
    spec = store.sweep()
    if spec is None:
        raise StoreError(f"{root}: holds no sweep")
    return store, spec


def _checked(selection: Selection, spec: SweepSpec, *, named: str | None = None) -> Selection:
    """Checks names; where a model and its attributes must be named, completes those that are clear.

    Args:
        selection: what was named.
        spec: the sweep.
        named: begins the sentence that says what must be named; None where nothing must.

    Raises:
        SpecError: a name is unknown, or it is not clear what is selected.
    """
    models = [model.id for model in spec.models]
    attributes = [item if isinstance(item, str) else item.label for item in spec.attributes]
    given = [("model", selection.model, models), *(("attribute", name, attributes) for name in selection.attributes)]
    for what, value, known in given:
        if value is not None and value not in known:
            raise SpecError(f'{selection.root} has no {what} "{value}"{did_you_mean(value, known)}')
    if named is None:
        return selection
    if (selection.model is None and len(models) > 1) or (not selection.attributes and len(attributes) > 1):
        raise SpecError(
            f"{named} attributes of one model: name them with --model and --attribute; there are the "
            f"models {', '.join(models)} and the attributes {', '.join(attributes)}"
        )
    return replace(selection, model=selection.model or models[0], attributes=selection.attributes or (attributes[0],))


@contextmanager
def _held(store: Store, spec: SweepSpec, selection: Selection, resolved: Resolved | None) -> Iterator[_Results]:
    """Holds the lease on results whose models are still those that they were made with."""
    models = tuple(model for model in spec.models if selection.model in (None, model.id))
    resolved = resolved or resolve(spec.model_copy(update={"models": models}))
    resolved = with_batch_sizes(store, spec, resolved)
    with leased(store) as held:
        held.store.blobs.clean()
        check_whole(held.store)
        begin(held.store, resolved)
        check_texts(held.store.root, planned(held.store, spec.generation.steps), resolved.attributes)
        yield _Results(absolute(selection.root), held, spec, resolved)


def _context(held: _Results) -> StageContext:
    return StageContext(
        store=held.store, spec=held.spec, resolved=held.resolved, sweep_id=sweep_id(held.spec), side=held.side
    )  # fmt: skip


def _driven(
    held: _Results,
    stages: Sequence[Stage],
    controls: Controls,
    selection: Selection,
    before_shutdown: Callable[[], None] = lambda: None,
) -> EditResult:
    marker = preflight(held.store.blobs, 0)
    # With the files that this command runs.
    held.store.blobs.replace(RESOLVED, encode_document(pinned_names(held.store, held.resolved)))
    settings = worker_settings(held.root, sweep_id(held.spec), held.spec, held.resolved, marker)
    with watching(makers_of(held.spec)) as hooks:
        hooks.start(run_start(held.spec, held.resolved, held.root, "edit", held.held.died))
        controls = replace(controls, on_progress=each(controls.on_progress, hooks.progress))
        chain = Chain(held.store, stages, held.side, hooks.settled)
        summary = drive(held.held, chain, settings, controls, before_shutdown)
        if summary.outcome != "lease_lost":
            write_metrics(held.store, held.resolved)
        edits = _summaries(held.store, selection)
        hooks.edited([edit for edit in edits if edit.chosen])
        hooks.end(lambda seconds, progress: RunEnd(summary.outcome, None, seconds, progress, edits=edits))
    return EditResult(summary, edits)


def _summaries(store: Store, selection: Selection) -> tuple[EditSummary, ...]:
    rows = (row for row in store.read("edits").to_pylist() if selection.holds(row))
    return tuple(summarize(rows, store.read("evaluations").to_pylist(), judge=latest_judge(store)))


def _named(held: _Results, selection: Selection, window: Window) -> list[Place]:
    """Returns the places that a person named.

    Raises:
        SpecError: the window does not lie in the model, or an attribute cannot be edited.
    """
    (model,) = held.resolved.models
    _check_window(model, window)
    for name in selection.attributes:
        check_editable(held.resolved.attribute(name), held.spec.prompts, model, window.sites)
    names = dict.fromkeys(selection.attributes)
    by_hand = [place_by_hand(model.id, name, window) for name in names]
    return by_hand + [place for name in names for place in method_places(held.spec, held.resolved, model.id, name)]


def _check_window(model: ResolvedModel, window: Window) -> None:
    given = f"--window {window.start},{window.size}"
    if window.size < 1 or window.start < 0 or window.size > model.n_sites:
        raise SpecError(f"{given}: {model.id} has windows of 1 to {model.n_sites} sites, from site 0 on")
    if window.start + window.size > model.n_sites:
        raise SpecError(
            f"{given}: {model.id} has sites 0 to {model.n_sites - 1}, a window of {window.size} starts at "
            f"{model.n_sites - window.size} or before"
        )


def _localized(held: _Results, selection: Selection, say: Say) -> list[Place]:
    """Returns where what is selected is localized, whichever localizer wrote that last, and where methods edit it.

    Raises:
        EditError: it is localized nowhere, and no method edits it all the same.
        SpecError: none of what is localized can be edited.
    """
    left, planned = units_left(held.store)
    if left:
        say(f"the sweep is incomplete ({left} of {planned} units are left); what is localized already is edited")
    found = [row for row in main_rows(held.store.read("localizations")).to_pylist() if selection.holds(row)]
    places = [
        localized_place(row["model"], row["attribute"], Window(row["window_start"], row["window_size"]),
                        row["localizer"])
        for row in found if row["outcome"] == "localized"
    ]  # fmt: skip
    asked = methods(held.spec)
    elsewhere = [
        place
        for model in held.resolved.models
        for item in held.resolved.attributes
        if selection.holds({"model": model.id, "attribute": item.key})
        for place in method_places(held.spec, held.resolved, model.id, item.key)
    ]
    if not places and not elsewhere:
        for model, editor in ((model, editor) for model in held.resolved.models for editor in asked):
            model.method_sites(editor)
        raise EditError(
            f"nothing to edit: no attribute of {selection.root} is localized{_of(selection)}; "
            "name a window with --window START,SIZE"
        )
    if not places:
        say(
            f"nothing is localized{_of(selection)}; edits are made by {' and '.join(asked)} alone, which need no window"
        )
    return _editable(held, [*places, *elsewhere])


def _editable(held: _Results, places: Iterable[Place]) -> list[Place]:
    """Leaves it to the stage to pass over what cannot be edited, unless that is all there is."""
    problems, listed = list[SpecError](), list(places)
    for place in listed:
        try:
            attribute, model = held.resolved.attribute(place.attribute), held.resolved.model(place.model)
            check_editable(attribute, held.spec.prompts, model, place.sites)
        except SpecError as error:
            problems.append(error)
    if len(problems) == len(listed):
        raise problems[0]
    return listed


def _of(selection: Selection) -> str:
    named = " of ".join(name for name in (", ".join(selection.attributes), selection.model) if name)
    return f" ({named})" if named else ""
