"""Edits on results that are there: what the ``edit`` and ``evaluate`` commands do, without a terminal."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from loco_core.errors import EditError, SpecError, StoreError, did_you_mean
from loco_core.types import Window
from orchestrator.batch_sizes import with_batch_sizes
from orchestrator.edit_candidates import methods
from orchestrator.edit_plan import check_editable
from orchestrator.edit_summary import EditSummary, summarize
from orchestrator.plan import sweep_id
from orchestrator.resolve import Resolved, ResolvedModel, resolve
from orchestrator.scheduler.loop import Requests, RunSummary
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.session import Controls, absolute, begin, drive, pinned_names, worker_settings
from orchestrator.spec import EditSpec, EvaluateSpec, SweepSpec
from orchestrator.stages.chain import Publishing
from orchestrator.stages.edit import EditStage, Place, localized_place, method_places, place_by_hand
from orchestrator.stages.localize import main_rows
from orchestrator.stages.remeasure import as_chosen, remeasure
from orchestrator.stages.sweep import units_left
from orchestrator.stages.tune import Search, Space, Trial, TuneStage
from orchestrator.store import Beating, Store, check_whole, encode_document, leased, open_store, preflight
from orchestrator.store.layout import RESOLVED

Say = Callable[[str], None]


@dataclass(frozen=True)
class Meant:
    """What a command is about; where nothing is named, all is meant.

    Attributes:
        root: results folder or ``s3://`` address.
        model: id of a model.
        attributes: keys of attributes.
    """

    root: str
    model: str | None = None
    attributes: tuple[str, ...] = ()

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Tells whether a row of a table is meant."""
        return self.model in (None, row["model"]) and (not self.attributes or row["attribute"] in self.attributes)


@dataclass(frozen=True)
class EditResult:
    """How a command ended, and what edits did on the ``report`` split.

    Attributes:
        summary: of the work; None where none was left.
        edits: those that were meant.
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
    store: Store
    spec: SweepSpec
    resolved: Resolved
    lease: Beating


def edit(
    meant: Meant, controls: Controls, say: Say, *, window: Window | None = None, blocks: SweepSpec | None = None
) -> EditResult:
    """Fits edits and measures them beside their baselines; the same call again resumes.

    Args:
        meant: what is edited: all that is localized, or, with a window, some attributes of one model.
        controls: where it runs, who is told, and what stops it.
        say: told, in a line, what a person should know.
        window: where edits are made, whatever the localizer said.
        blocks: a sweep whose ``edit`` and ``evaluate`` blocks take the place of those of the results.

    Raises:
        LocoError: there is nothing to edit, a name is unknown, or the results cannot be read or written.
    """
    store, recorded = _opened(meant.root)
    if blocks is not None:
        store.check_sweep(sweep_id(blocks), blocks)
        names = [name for name in ("edit", "evaluate") if name in blocks.model_fields_set]
        given: dict[str, Any] = {name: getattr(blocks, name) for name in names}
        recorded = recorded.model_copy(update=given)
    spec = recorded.model_copy(update={"edit": recorded.edit or EditSpec()})
    meant = _checked(meant, spec, named="--window is about" if window else None)
    with _held(store, spec, meant) as held:
        places = _named(held, meant, window) if window else _localized(held, meant, say)
        if blocks is not None:
            # As it was given, without defaults: `retry` is not to edit what nobody asked to have edited.
            store.record_sweep(sweep_id(recorded), recorded, uuid.uuid4().hex)
        stage = EditStage(store, spec, held.resolved, 0)

        def step(settled: Sequence[Settled]) -> list[Unit]:
            return stage.settled(settled) if settled else [unit for place in places for unit in stage.at(place)]

        return _driven(held, Publishing(store, step), controls, meant)


def evaluate(
    meant: Meant, controls: Controls, say: Say, changes: Mapping[str, int | bool], *, only_chosen: bool = False
) -> EditResult:
    """Measures edits that are there on more prompts and seeds; what is chosen stays chosen.

    Args:
        meant: whose edits.
        controls: where it runs, who is told, and what stops it.
        say: told, in a line, what a person should know.
        changes: values of the ``evaluate`` block other than the recorded ones.
        only_chosen: leave out edits of other settings than those that were chosen.

    Raises:
        LocoError: there are no edits, a name is unknown, or the results cannot be read or written.
    """
    store, recorded = _opened(meant.root)
    wanted = EvaluateSpec.model_validate({**recorded.evaluate.model_dump(), **changes})
    spec = recorded.model_copy(update={"evaluate": wanted})
    meant = _checked(meant, spec)
    with _held(store, spec, meant) as held:
        rows = [row for row in store.read("edits").to_pylist() if meant.holds(row)]
        if not rows:
            raise EditError(
                f"nothing to evaluate: {meant.root} holds no edits{_of(meant)}; `loco-sweep edit` fits some"
            )
        if only_chosen:
            rows = [dict(row) for row in as_chosen(rows)]
        found = remeasure(store, spec, held.resolved, rows)
        if found.lost:
            say(
                f"{found.lost} of {len(rows)} edits cannot be fitted again as they were: the sweep takes other prompts "
                "now, or the model or the editor's file changed; `loco-sweep edit` fits new ones"
            )
        publishing = Publishing(store, lambda settled: [] if settled else list(found.units))
        if not found.units:
            # All of it may be what a driver that died had committed and not published.
            publishing.finish()
            return EditResult(None, _summaries(store, meant))
        return _driven(held, publishing, controls, meant)


def tune(
    meant: Meant,
    controls: Controls,
    *,
    window: Window | None,
    editors: tuple[str, ...],
    search: Callable[[Space, int], Search],
    seed: int,
) -> TuneResult:
    """Searches the settings of an edit, and measures the best like any other edit.

    Args:
        meant: one attribute of one model.
        controls: where it runs, who is told, and what stops it.
        window: where the edit is made; None searches that too.
        editors: keys of editors.
        search: makes the search of a space, on so many seeds.
        seed: of the search.

    Raises:
        LocoError: a name is unknown, the search breaks off, or the results cannot be read or written.
    """
    store, recorded = _opened(meant.root)
    wanted = recorded.edit or EditSpec()
    spec = recorded.model_copy(update={"edit": wanted})
    meant = _checked(meant, spec, named="tune is about")
    with _held(store, spec, meant) as held:
        (model,), (name,) = held.resolved.models, meant.attributes
        if window is not None:
            _check_window(model, window)
        check_editable(held.resolved.attribute(name), spec.prompts, model, window.sites if window else ())
        count = len(model.editable_sites)
        largest = min(spec.localize.largest(model.n_sites), count)
        space = Space(editors, window, count, largest, wanted.preserve, wanted.fill, wanted.guidance_half)
        found = search(space, spec.evaluate.seeds)
        stage = TuneStage(store, spec, held.resolved, name, found, seed)
        result = _driven(
            held, Publishing(store, stage.step), controls, meant, requests=stage.requests, before_shutdown=found.stop
        )
        return TuneResult(result, stage.trials, stage.best, spec.evaluate.seeds)


def _opened(root: str) -> tuple[Store, SweepSpec]:
    store = open_store(absolute(root), create=False)
    spec = store.sweep()
    if spec is None:
        raise StoreError(f"{root}: holds no sweep")
    return store, spec


def _checked(meant: Meant, spec: SweepSpec, *, named: str | None = None) -> Meant:
    """Checks names; where a model and its attributes must be named, completes those that are clear.

    Args:
        meant: what was named.
        spec: the sweep.
        named: begins the sentence that says what must be named; None where nothing must.

    Raises:
        SpecError: a name is unknown, or it is not clear what is meant.
    """
    models = [model.id for model in spec.models]
    attributes = [item if isinstance(item, str) else item.label for item in spec.attributes]
    given = [("model", meant.model, models), *(("attribute", name, attributes) for name in meant.attributes)]
    for what, value, known in given:
        if value is not None and value not in known:
            raise SpecError(f'{meant.root} has no {what} "{value}"{did_you_mean(value, known)}')
    if named is None:
        return meant
    if (meant.model is None and len(models) > 1) or (not meant.attributes and len(attributes) > 1):
        raise SpecError(
            f"{named} attributes of one model: name them with --model and --attribute; there are the "
            f"models {', '.join(models)} and the attributes {', '.join(attributes)}"
        )
    return replace(meant, model=meant.model or models[0], attributes=meant.attributes or (attributes[0],))


@contextmanager
def _held(store: Store, spec: SweepSpec, meant: Meant) -> Iterator[_Results]:
    """Holds the lease on results whose models are still those that they were made with."""
    models = tuple(model for model in spec.models if meant.model in (None, model.id))
    resolved = with_batch_sizes(store, spec, resolve(spec.model_copy(update={"models": models})))
    with leased(store) as lease:
        store.blobs.clean()
        check_whole(store)
        begin(store, resolved)
        yield _Results(absolute(meant.root), store, spec, resolved, lease)


def _driven(
    held: _Results,
    publishing: Publishing,
    controls: Controls,
    meant: Meant,
    requests: Requests | None = None,
    before_shutdown: Callable[[], None] = lambda: None,
) -> EditResult:
    marker = preflight(held.store.blobs, 0)
    # With the files that this command runs.
    held.store.blobs.replace(RESOLVED, encode_document(pinned_names(held.store, held.resolved)))
    settings = worker_settings(held.root, sweep_id(held.spec), held.spec, held.resolved, marker)
    summary = drive(held.store, publishing, settings, held.lease, controls, requests, before_shutdown)
    return EditResult(summary, _summaries(held.store, meant))


def _summaries(store: Store, meant: Meant) -> tuple[EditSummary, ...]:
    rows = (row for row in store.read("edits").to_pylist() if meant.holds(row))
    return tuple(summarize(rows, store.read("evaluations").to_pylist()))


def _named(held: _Results, meant: Meant, window: Window) -> list[Place]:
    """Returns the places that a person named.

    Raises:
        SpecError: the window does not lie in the model, or an attribute cannot be edited.
    """
    (model,) = held.resolved.models
    _check_window(model, window)
    for name in meant.attributes:
        check_editable(held.resolved.attribute(name), held.spec.prompts, model, window.sites)
    names = dict.fromkeys(meant.attributes)
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


def _localized(held: _Results, meant: Meant, say: Say) -> list[Place]:
    """Returns where what is meant is localized, whichever localizer wrote that last, and where methods edit it.

    Raises:
        EditError: it is localized nowhere, and no method edits it all the same.
        SpecError: none of what is localized can be edited.
    """
    left, planned = units_left(held.store)
    if left:
        say(f"the sweep is incomplete ({left} of {planned} units are left); what is localized already is edited")
    found = [row for row in main_rows(held.store.read("localizations")).to_pylist() if meant.holds(row)]
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
        if meant.holds({"model": model.id, "attribute": item.key})
        for place in method_places(held.spec, held.resolved, model.id, item.key)
    ]
    if not places and not elsewhere:
        for model, editor in ((model, editor) for model in held.resolved.models for editor in asked):
            model.method_sites(editor)
        raise EditError(
            f"nothing to edit: no attribute of {meant.root} is localized{_of(meant)}; "
            "name a window with --window START,SIZE"
        )
    if not places:
        say(f"nothing is localized{_of(meant)}; edits are made by {' and '.join(asked)} alone, which need no window")
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


def _of(meant: Meant) -> str:
    named = " of ".join(name for name in (", ".join(meant.attributes), meant.model) if name)
    return f" ({named})" if named else ""
