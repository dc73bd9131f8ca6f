"""From names to what they stand for: paths, revisions, weight hashes, sites. Without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loco_core import plugins
from loco_core.attributes import as_scored, attribute
from loco_core.diffusion.adapters import inversion_file, lora_file
from loco_core.diffusion.checks import Checks, Weights, check
from loco_core.diffusion.facts import DEFAULT, FamilyInfo, families, find_model, left_out
from loco_core.diffusion.folders import scorer_files
from loco_core.diffusion.weights import absolute, commit, read_json, weights_hash
from loco_core.errors import ModelError, SpecError, did_you_mean, located
from loco_core.scoring.base import find_scorer, named_scorers
from loco_core.tracing.base import reads
from loco_core.types import Attribute, Extras
from orchestrator.presets import published
from orchestrator.resolve.apart import once
from orchestrator.resolve.attacks import FLOOR, check_attacks, check_models, floor_of, free_tokens
from orchestrator.resolve.checkpoints import checkpoint, looked_at
from orchestrator.resolve.default import identity_of, profile_of
from orchestrator.resolve.donors import with_donor
from orchestrator.resolve.editable import check_editors
from orchestrator.resolve.hooks import check_hooks
from orchestrator.resolve.judge import check_judge, resolve_judge
from orchestrator.resolve.metrics import check_metrics, check_sides, resolve_metrics
from orchestrator.resolve.options import check_fit, check_scheduler, steps_of
from orchestrator.resolve.resolved import Resolved, ResolvedModel, ResolvedScorer
from orchestrator.resolve.super_resolution import check_super_resolution, with_super_resolution
from orchestrator.resolve.texts import prompt_reader, scorer_reader
from orchestrator.resolve.traceable import check_subjects, localizer_at, traceable
from orchestrator.spec import AttributeSpec, ModelSpec, SweepSpec
from orchestrator.spec.places import name_of


def resolve(spec: SweepSpec) -> Resolved:
    """Looks up every name of a sweep.

    Raises:
        SpecError: a name is unknown, or a window is larger than a model.
        ModelError: a folder is not a pipeline, or holds pickles where safetensors belong.
    """
    models = []
    for i, item in enumerate(spec.models):
        with located("models", i):
            model = resolve_model(item)
        models.append(traceable(spec, with_donor(spec, i, with_super_resolution(i, item, model))))
    attributes = _checked(spec, models)
    with located("scorer"):
        scorer = resolve_scorer(spec)
    floor = _floor(spec, models, resolve_model)
    _look_closer(spec, models, attributes, scorer, floor)
    return Resolved(
        models=tuple(models), attributes=attributes, scorer=scorer, judge=resolve_judge(spec, attributes, scorer),
        metrics=resolve_metrics(spec), floor=floor, code=plugins.digests(spec.files),
    )  # fmt: skip


def outline(spec: SweepSpec) -> Resolved:
    """Looks up what there is to know of a sweep without the hub: models as published, no hash of any weights.

    Good for counting cells. Their identities are not those of a run.

    Raises:
        SpecError: a name is unknown, or a window is larger than a model.
        ModelError: a folder is not a pipeline, or nobody published the sites of a model.
    """
    models = []
    for i, item in enumerate(spec.models):
        with located("models", i):
            model = _as_published(item)
        model = with_super_resolution(i, item, model, hub=False)
        models.append(traceable(spec, with_donor(spec, i, model, hub=False)))
    attributes = _checked(spec, models)
    scorer = ResolvedScorer(name=name_of(spec.scorer), source=spec.scorer, revision=None, weights="")
    if Path(find_scorer(spec.scorer)[1]).is_dir():
        with located("scorer"):
            scorer = resolve_scorer(spec)
    _look_closer(spec, [model for model in models if Path(model.described_in).is_dir()], attributes, scorer)
    judge, metrics = resolve_judge(spec, attributes, scorer, hub=False), resolve_metrics(spec, hub=False)
    floor = _floor(spec, models, _as_published)
    return Resolved(
        models=tuple(models), attributes=attributes, scorer=scorer, judge=judge, metrics=metrics, floor=floor
    )  # fmt: skip


def _floor(
    spec: SweepSpec, models: Sequence[ResolvedModel], find: Callable[[ModelSpec], ResolvedModel]
) -> ResolvedModel | None:
    """Looks up the model that attacks are held against, if there is one, and refuses models that cannot be attacked."""
    named, found = floor_of(spec), None
    if named is not None:
        with located(*FLOOR):
            found = find(named)
    check_models(spec, models, found)
    return found


def _look_closer(
    spec: SweepSpec,
    models: Sequence[ResolvedModel],
    attributes: Sequence[Attribute],
    scorer: ResolvedScorer,
    floor: ResolvedModel | None = None,
) -> None:
    """Refuses folders without their weights, steps that a scheduler cannot take, and texts that would be cut.

    Of texts that is as far as tokenizers are on this machine.
    """
    weights, steps, readers = list[Weights](), [], []
    numbers = {item.id: i for i, item in enumerate(spec.models)}
    for model in models:
        place = ("models", numbers[model.id])
        own, second = spec.models[numbers[model.id]], model.super_resolution
        with located(*place):
            weights += looked_at(model, place) if own.path is not None or own.extras != Extras() else ()
            if model.donor is not None:
                weights += looked_at(model.donor, (*place, "donor"))
        if second is not None and Path(second.path).is_dir():
            without = tuple(sorted(left_out(model.family, second=True)))
            weights.append(Weights(second.path, second.weights, without, (*place, "super_resolution")))
        with located(*place):
            steps.append(steps_of(spec, model, place))
            reader = prompt_reader(model, place)
        readers += [reader] if reader else []
    if floor is not None and Path(floor.described_in).is_dir():
        with located(*FLOOR):
            weights += looked_at(floor, FLOOR)
            steps.append(steps_of(spec, floor, FLOOR))
            reader = prompt_reader(floor, FLOOR)
        readers += [reader] if reader else []
    key, where = find_scorer(spec.scorer)
    with located("scorer"):
        read = plugins.declared("scorers", key, "TOKENIZED", False)
        scores = scorer_reader(spec.scorer, where, scorer.revision, scorer.weights) if read else None
    if read and key != spec.scorer and scorer.weights and Path(where).is_dir():
        weights.append(Weights(absolute(where), scorer.weights, (), ("scorer",)))
    # Edits are measured on all records.
    records = None if spec.edit else spec.prompts
    free = free_tokens(spec)
    once(check, Checks(tuple(weights), tuple(steps), tuple(readers), scores, tuple(attributes), records, free))


def _checked(spec: SweepSpec, models: Sequence[ResolvedModel]) -> tuple[Attribute, ...]:
    """Refuses windows and options that do not fit the models; returns the attributes."""
    check_fit(spec, models)
    attributes = check_names(spec)
    check_subjects(spec, attributes)
    check_sides(spec, models)
    return attributes


def check_names(spec: SweepSpec) -> tuple[Attribute, ...]:
    """Looks up the names of a sweep that a machine without any weights knows; returns its attributes.

    Raises:
        SpecError: a name is unknown; ``loc`` says where in the sweep.
    """
    plugins.look_again(spec.all_files)
    check_hooks(spec)
    for i, item in enumerate(spec.models):
        if item.path is None:
            with located("models", i):
                family, _ = find_model(item.id)
            if item.super_resolution is not None:
                with located("models", i, "super_resolution"):
                    check_super_resolution(item.id, family)
    for name in spec.stages:
        with located("stages", name):
            plugins.outside_module("stages", name)
    attributes = named_attributes(spec)
    if spec.reproduces is not None:
        with located("reproduces"):
            published(spec.reproduces)
    for i, name in enumerate(spec.localize.localizers):
        with located(*localizer_at(i)):
            plugins.function("localizers", name, "localize")
            reads(name)
    check_editors(spec, attributes)
    check_judge(spec, attributes)
    check_metrics(spec)
    check_attacks(spec)
    check_scheduler(spec)
    return attributes


def named_attributes(spec: SweepSpec) -> tuple[Attribute, ...]:
    """Looks up the attributes of a sweep.

    Raises:
        SpecError: a name is unknown; ``loc`` says where in the sweep.
    """
    attributes = []
    for i, name in enumerate(spec.attributes):
        with located("attributes", i):
            attributes.append(as_scored(_attribute(name, spec.prompts), spec.margin))
    return tuple(attributes)


def _attribute(item: str | AttributeSpec, prompts: int) -> Attribute:
    if isinstance(item, AttributeSpec):
        return item.attribute
    found = attribute(item)
    if len(found.records) < prompts:
        raise SpecError(f"prompts: {prompts} are asked for, {item} has {len(found.records)}")
    return found


def resolve_model(spec: ModelSpec) -> ResolvedModel:
    """Looks up one model.

    Raises:
        SpecError: no model has this name.
        ModelError: it is not a pipeline, or holds pickles where safetensors belong.
    """
    found = checkpoint(spec)
    where, revision, family = found.described_in, found.revision, found.family
    known = families().get(family)
    # Before the weights: what a configuration lacks is said by its name.
    facts = _facts(known, read_json(where, revision, known.config_file), where) if known else None
    weights, pinned = identity_of(found)
    profile = profile_of(found, weights, spec.dtype) if family == DEFAULT else None
    info = profile.facts if profile else families()[family]
    site_names, native_side = facts or _facts(info, read_json(where, revision, info.config_file), where)
    scheduler = found.index.get("scheduler")
    if not (isinstance(scheduler, list) and len(scheduler) == 2 and isinstance(scheduler[1], str)):
        raise ModelError(f"{where}/model_index.json names no scheduler; expected a library and a class")
    return ResolvedModel(
        id=spec.id,
        family=family,
        path=absolute(found.path),
        revision=pinned,
        weights=weights,
        extras=found.extras,
        dtype=spec.dtype,
        engine=spec.how,
        guidance_scale=spec.guidance_scale,
        site_names=site_names,
        native_side=native_side,
        seconds_per_image=found.seconds or info.seconds_per_image,
        worker=spec.worker,
        scheduler=scheduler[1],
        profile=profile,
    )


def _as_published(spec: ModelSpec) -> ResolvedModel:
    family, known = ("", None) if spec.path is not None else find_model(spec.id)
    if known is None or known.path is not None:
        return resolve_model(spec)
    if not known.published:
        raise ModelError(f"no configuration of {spec.id} is known without its weights")
    # These are on this machine, whatever is not.
    for lora in spec.loras:
        lora_file(lora.path)
    for word in spec.textual_inversions:
        inversion_file(word.path)
    info, config = families()[family], dict(known.published)
    site_names, native_side = _facts(info, config, known.hub_id)
    return ResolvedModel(
        id=spec.id, family=family, path=known.hub_id, revision=spec.revision or known.revision, weights="",
        extras=spec.extras, dtype=spec.dtype, guidance_scale=spec.guidance_scale, site_names=site_names,
        native_side=native_side,
        seconds_per_image=known.seconds_per_image, worker=spec.worker, encoder_layers=2 * known.encoder_layers,
    )  # fmt: skip


def _facts(info: FamilyInfo, config: dict[str, Any], path: str) -> tuple[tuple[str, ...], int]:
    try:
        return info.site_names(config), info.native_side(config)
    except Exception as error:  # whatever a configuration says that a family has not thought of
        raise ModelError(f"{path}/{info.config_file} is not the configuration of a denoiser: {error!r}") from error


def resolve_scorer(spec: SweepSpec) -> ResolvedScorer:
    """Looks up the scorer of a sweep.

    Raises:
        SpecError: there is none of this name.
        ModelError: it is no CLIP model, or cannot be had.
    """
    key, where = find_scorer(spec.scorer)
    if key == spec.scorer:
        return _named_scorer(key, where)
    if not Path(where).is_dir() and "/" not in where:
        near = did_you_mean(spec.scorer, named_scorers())
        raise SpecError(f'scorer: no scorer "{spec.scorer}"{near}; or CLIP model\'s folder or hub id')
    revision = None if Path(where).is_dir() else commit(where, None)
    _check_clip(spec.scorer, where, revision)
    weights = weights_hash(where, revision, scorer_files)
    return ResolvedScorer(name=name_of(spec.scorer), source=absolute(spec.scorer), revision=revision, weights=weights)


def _check_clip(name: str, where: str, revision: str | None) -> None:
    """Refuses models that compare pictures and texts in another way than CLIP does."""
    if Path(where).is_dir() and not (Path(where) / "config.json").is_file():
        raise ModelError(f"{name} holds no config.json; expected the folder of a CLIP model")
    kind = read_json(where, revision, "config.json").get("model_type", "clip")
    if kind != "clip":
        raise ModelError(f"{name} holds a {kind} model; expected a CLIP model, whose model_type is clip")


def _named_scorer(key: str, where: str) -> ResolvedScorer:
    """Pins a scorer that is named by its key or file, and so by what the file says: a changed one is another scorer."""
    plugins.function("scorers", key, "Scorer")
    code = plugins.source("scorers", key)
    revision = commit(where, None) if where and not Path(where).is_dir() else None
    if where and not code:
        weights = weights_hash(where, revision, scorer_files)
    else:
        digest = hashlib.sha256(code)
        if where:
            digest.update(weights_hash(where, revision).encode())
        weights = digest.hexdigest()
    return ResolvedScorer(name=name_of(key), source=key, revision=revision, weights=weights)
