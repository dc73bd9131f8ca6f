"""What a run would do, before it does anything: what the ``plan`` command says, without a terminal."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loco_core.errors import SpecError, located
from orchestrator.hooks.choice import hook_warnings
from orchestrator.resolve.donors import donor_words
from orchestrator.resolve.editable import check_records
from orchestrator.resolve.judge_cost import JudgeCost, judge_cost
from orchestrator.resolve.options import check_methods, unedited_models
from orchestrator.resolve.resolved import Resolved
from orchestrator.runs.session import (
    check_texts,
    is_planned_otherwise,
    pinned_names,
)
from orchestrator.runs.usage import HOUR, Spent, is_enough, spent
from orchestrator.runs.warnings import default_lines, warnings_of
from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.attack.plan import count_attacks
from orchestrator.stages.base import Count, PlanContext, sweep_id
from orchestrator.stages.edit.candidates import methods
from orchestrator.stages.edit.count import count_edits
from orchestrator.stages.localize import main_rows
from orchestrator.stages.probe.plan import probes, with_batch_sizes
from orchestrator.stages.registry import units_of
from orchestrator.stages.sweep.plan import count, counted
from orchestrator.stages.sweep.planned import EMPTY, Plan
from orchestrator.stages.sweep.stored import planned
from orchestrator.stages.sweep.variants import beginnings, windows
from orchestrator.stages.trace.plan import Pair, count_traces, pair_of, tracers
from orchestrator.stages.trace.stage import committed_pairs
from orchestrator.store import Store, check_whole, open_store

if TYPE_CHECKING:
    from loco_core.localization.power import Reach


@dataclass(frozen=True)
class ModelOutlook:
    """What a run would take of the workers of one model.

    Attributes:
        model: id of the model.
        gpus: GPUs of each of its workers; None takes one where there is any.
        hours: hours of work on one worker.
        edit_hours: hours that edits and attacks on them take in addition, at the most.
        measured: whether the hours follow from what was used for units that are done; else from the cost that is
            assumed for the model.
        types: names of the devices that they will run on: those so far where the hours follow from these, else the
            types of GPU that the model asks for; any where there is none.
        steps: denoising steps of its pictures.
        guidance_scale: guidance scale of its pictures.
        dtype: format of its weights and activations.
    """

    model: str
    gpus: int | None
    hours: float
    edit_hours: float
    measured: bool
    types: tuple[str, ...] = ()
    steps: int = 0
    guidance_scale: float = 0.0
    dtype: str = ""

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs; of workers where they have none."""
        return self.hours * max(1, self.gpus or 0)

    @property
    def edit_gpu_hours(self) -> float:
        """The same of edits."""
        return self.edit_hours * max(1, self.gpus or 0)


@dataclass(frozen=True)
class Outlook:
    """What a run would do.

    Attributes:
        units: units that remain.
        images: images that they generate, those of traces included.
        cells: cells that they score.
        images_per_cell: images that they generate per cell, without those of traces, where every unit finds the clean
            image of its block at its worker; None without cells.
        most_images_per_cell: the same where none does, and draws it again in a batch of its own.
        seconds: of work on one worker.
        measured: whether the seconds follow from what was used for units that are done, without loading and waiting;
            else, of any model, from the cost that is assumed for it.
        models: the same work by model.
        used: what all commands on these results used so far.
        reach: what the sweep can show, of the model with most windows.
        guessed_batches: models whose batch size the run measures first, so that the number of units is a guess.
        most_cells: with a localizer that begins small: how many cells it may ask for in all, complements aside; else
            None.
        edits: what edits and attacks on them take in addition, at the most: if every attribute that can be edited is
            localized in every model. Nothing where the sweep does not edit.
        judge: what the judge of edits takes beside that; None without edits or judge.
        unedited: why attributes and models are not edited though the sweep edits, a sentence each.
        donors: in what models differ from the models that are their donors, a sentence each.
        warnings: what the sweep cannot show or cannot mean, and what to change, a sentence each.
        by_default: which models have no family of their own, and whether they were checked, a sentence each.
        unswept: the largest window sizes in range of models in which not all windows of that size are swept. Where no
            window passes there, the outcome is ``inconclusive``, never ``distributed``.
    """

    units: int
    images: int
    cells: int
    seconds: float
    reach: Reach
    guessed_batches: tuple[str, ...]
    most_cells: int | None
    images_per_cell: float | None = None
    most_images_per_cell: float | None = None
    measured: bool = False
    models: tuple[ModelOutlook, ...] = ()
    used: Spent = field(default_factory=Spent)
    edits: Count = field(default_factory=Count)
    judge: JudgeCost | None = None
    unedited: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    by_default: tuple[str, ...] = ()
    unswept: tuple[int, ...] = ()


def outlook(spec: SweepSpec, resolved: Resolved, root: str | None) -> Outlook:
    """Says what a run would do; writes nothing.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        root: results of earlier runs, if there may be any.

    Raises:
        SpecError: these results cannot go on with this spec, or none of the models admits an edit that it asks for.
    """
    from loco_core.localization.power import reach

    check_methods(spec, resolved)
    unedited = (*check_records(spec, resolved.attributes), *unedited_models(spec, resolved))
    known = EMPTY
    committed: frozenset[str] = frozenset()
    traced: set[Pair] = set()
    paces: dict[str, float] = {}
    used = Spent()
    held: Store | None = None
    if root is not None and ("://" in root or Path(root).is_dir()):
        store = held = open_store(root)
        store.check_sweep(sweep_id(spec), spec)
        check_whole(store)
        pinned_names(store, resolved)
        resolved = with_batch_sizes(store, spec, resolved)
        committed = store.committed()
        used = spent(store)
        if not is_planned_otherwise(store, resolved):
            known = planned(store, spec.generation.steps)
            check_texts(store.root, known, resolved.attributes)
            paces = _paces(used, known, committed)
        if tracers(spec):
            traced = {pair_of(row) for row in committed_pairs(store)}
    begun = beginnings(spec, resolved)
    waiting, outside = known.without(committed), _outside_units(spec, resolved, committed)
    planned_seconds = waiting.seconds_by_model()
    swept, left, edits, models = counted(waiting), Count(), Count(), []
    for model in resolved.models:
        alone = resolved.model_copy(update={"models": (model,)})
        new, traces = count(spec, alone, known, requests=begun), count_traces(spec, alone, traced)
        edited = count_edits(spec, alone) + count_attacks(spec, alone)
        seconds = planned_seconds.get(model.id, 0.0) + new.seconds + traces.seconds
        seconds += sum(unit.expected_seconds for unit in outside if unit.model == model.id)
        swept, left, edits = swept + new, left + traces, edits + edited
        pace = paces.get(model.id)
        hours, edit_hours = ((pace or 1.0) * each / HOUR for each in (seconds, edited.seconds))
        types = model.worker.accelerators
        if pace is not None:
            types = tuple(sorted({item.device for item in used.usage if item.model == model.id and item.device}))
        drawn = model.generation(spec.generation.settings)
        models.append(
            ModelOutlook(
                model.id, model.worker.gpus, hours, edit_hours, pace is not None, types, drawn.steps,
                drawn.guidance_scale, model.dtype,
            )
        )  # fmt: skip
    if held is not None and not swept.units:
        _check_groups(spec, resolved, held)
    left, cells = left + swept, swept.cells
    can_show = reach(
        spec.prompts,
        len(spec.seeds),
        max(len(windows(spec, model.n_sites)) for model in resolved.models),
        spec.localize.threshold,
        spec.localize.confidence,
    )
    return Outlook(
        edits=replace(edits, seconds=HOUR * sum(item.edit_hours for item in models)),
        judge=judge_cost(resolved) if spec.edit else None,
        unedited=unedited,
        donors=donor_words(resolved),
        warnings=(*warnings_of(spec, resolved, can_show), *hook_warnings(spec)),
        by_default=default_lines(spec),
        unswept=_unswept(spec, resolved),
        units=left.units + len(outside),
        images=left.images,
        cells=cells,
        images_per_cell=swept.images / cells if cells else None,
        most_images_per_cell=(swept.images + swept.images_again) / cells if cells else None,
        seconds=HOUR * sum(item.hours for item in models),
        measured=all(item.measured for item in models),
        models=tuple(models),
        used=used,
        reach=can_show,
        guessed_batches=tuple(unit.model for unit in probes(spec, resolved)),
        most_cells=None if begun is None else count(spec, resolved).cells,
    )


def _unswept(spec: SweepSpec, resolved: Resolved) -> tuple[int, ...]:
    found = set()
    for sites in (model.n_sites for model in resolved.models):
        largest = min(spec.localize.largest(sites), sites - 1)
        if largest not in spec.sizes(sites) or spec.windows.stride > 1:
            found.add(largest)
    return tuple(sorted(found))


def _paces(used: Spent, known: Plan, committed: frozenset[str]) -> dict[str, float]:
    """Returns how much longer workers took for the units of a model than the cost table says, where enough is done.

    They drew, scored and wrote; what edits took meanwhile is in it, too.
    """
    done, total = known.with_ids(committed).seconds_by_model(), known.seconds_by_model()
    hours = {model: sum(item.working for item in used.usage if item.model == model) for model in done}
    return {
        model: HOUR * hours[model] / seconds
        for model, seconds in done.items()
        if is_enough(hours[model], seconds, total[model])
    }


def _outside_units(spec: SweepSpec, resolved: Resolved, committed: Collection[str]) -> list[Unit]:
    """Returns what is left of kinds of work that are installed beside this project."""
    identity = sweep_id(spec)
    contexts = {
        name: PlanContext(spec=spec, resolved=resolved, sweep_id=identity, settings=settings)
        for name, settings in spec.stages.items()
    }
    units = (unit for name, context in contexts.items() for unit in units_of(context, name))
    return [unit for unit in units if unit.unit_id not in committed]


def _check_groups(spec: SweepSpec, resolved: Resolved, store: Store) -> None:
    """Refuses a group that no model edits, as one of its attributes is localized nowhere; for complete results.

    Raises:
        SpecError: there is one; ``loc`` says where in the sweep.
    """
    if spec.edit is None or methods(spec):
        return
    found = main_rows(store.read("localizations")).to_pylist()
    nowhere = {(row["model"], row["attribute"]): row["outcome"] for row in found if row["window_start"] is None}
    listed = [(key, i, group) for key in ("together", "sequence") for i, group in enumerate(getattr(spec.edit, key))]
    for key, i, group in listed:
        lacking = {model.id: name for model in resolved.models for name in group if (model.id, name) in nowhere}
        if len(lacking) == len(resolved.models):
            model, name = next(iter(lacking.items()))
            outcome = nowhere[model, name].replace("_", " ")
            with located("edit", key, i, group.index(name)):
                raise SpecError(
                    f"{name} is localized nowhere in these results ({model}: {outcome}), so that no edit can be fitted "
                    "to the group; leave it out"
                )
