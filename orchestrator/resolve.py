"""From names to what they stand for: paths, revisions, weight hashes, sites. Without torch; frozen before planning."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from loco_core import registry
from loco_core.attributes import attribute
from loco_core.editors import method
from loco_core.errors import ModelError, SpecError, did_you_mean, located
from loco_core.folders import pipeline_files, scorer_files
from loco_core.loading import check_weights
from loco_core.models import FamilyInfo, families, family_of_pipeline, find_model, left_out
from loco_core.schedules import check_schedule, is_scheduler, make_scheduler, named_scheduler
from loco_core.scorers import BUNDLED, find_scorer, named_scorers
from loco_core.tracing import reads
from loco_core.types import Attribute, Engine, Generation
from orchestrator.editable import check_editors
from orchestrator.presets import published
from orchestrator.spec import AttributeSpec, ModelSpec, SweepSpec, WorkerNeeds
from orchestrator.spec.places import name_of
from orchestrator.super_resolution import ResolvedSuperResolution, check_super_resolution, with_super_resolution
from orchestrator.texts import check_texts, prompt_reader, scorer_reader
from orchestrator.traceable import check_subjects, localizer_at, traceable
from orchestrator.weights import absolute, commit, read_json, weights_hash


class ResolvedModel(BaseModel):
    """A model of the sweep, pinned.

    Attributes:
        id: its name in the results.
        family: key of its family.
        path: folder or hub id.
        revision: commit on the hub; None for a folder.
        weights: hash of weights and configuration (of a hub model, its commit).
        dtype: of weights and activations.
        engine: how it computes.
        guidance_scale: where it is not the sweep's.
        super_resolution: its second stage, if it has one.
        site_names: addresses of its sites in execution order.
        native_side: side of an image in pixels where the sweep does not say; an upper bound.
        seconds_per_image: expected cost of an image of 50 steps.
        worker: what a worker needs.
        scheduler: class of its own scheduler; empty where nobody has looked.
        encoder_layers: self-attentions and MLPs of its CLIP text encoders; 0 where nobody asked for them.
        probed_batch: rows a forward pass, where the sweep leaves them to a probe that has been made.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    family: str
    path: str
    revision: str | None
    weights: str
    dtype: str
    engine: Engine = Engine()
    guidance_scale: float | None = None
    super_resolution: ResolvedSuperResolution | None = None
    site_names: tuple[str, ...]
    native_side: int
    seconds_per_image: float
    worker: WorkerNeeds
    scheduler: str = ""
    encoder_layers: int = 0
    probed_batch: int | None = None

    @property
    def n_sites(self) -> int:
        """How many sites it has."""
        return len(self.site_names)

    @property
    def drawn_with(self) -> str:
        """Hashes of all weights that make its images: with those of a second stage. Edits are of ``weights`` alone."""
        second = self.super_resolution
        return self.weights if second is None else f"{self.weights}+{second.weights}"

    def pixels(self, settings: Generation) -> int:
        """Returns how many pixels an image has, at most."""
        second = self.super_resolution
        larger = max(second.native_side // self.native_side, 1) if second else 1
        return larger**2 * (settings.height or self.native_side) * (settings.width or self.native_side)

    def generation(self, settings: Generation) -> Generation:
        """Returns the sweep's settings as they are for this model."""
        return settings if self.guidance_scale is None else replace(settings, guidance_scale=self.guidance_scale)

    @property
    def editable_sites(self) -> tuple[int, ...]:
        """The sites whose K and V an edit may change."""
        shared = families()[self.family].shared
        return tuple(i for i, name in enumerate(self.site_names) if not (shared and name.startswith(shared)))

    def method_sites(self, editor: str) -> tuple[int, ...]:
        """Returns the sites that a published method edits; none where it edits a text encoder.

        Raises:
            SpecError: the model has no such text encoder.
        """
        fixed, facts = method(editor), families()[self.family]
        if fixed is None or fixed.place == "all_sites":
            return self.editable_sites
        if not facts.clip_encoders:
            raise SpecError(
                f"{editor} edits the CLIP text encoder that cross-attention reads; {self.id} ({self.family}) reads "
                f"{facts.encoders}"
            )
        return ()


class ResolvedScorer(BaseModel):
    """The scorer, pinned.

    Attributes:
        name: as in the sweep; of a file or folder its own name, wherever it lies.
        source: what a worker loads: the name of a bundled scorer, a folder, or a hub id.
        revision: commit on the hub; None for a folder.
        weights: hash of its weights (of a hub model, its commit).
    """

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    revision: str | None
    weights: str


class Resolved(BaseModel):
    """A sweep with every name looked up.

    Attributes:
        models: in their order.
        attributes: likewise.
        scorer: what scores.
        code: SHA-256 of every Python file that the sweep names, as it was when it was looked up; what workers run of
            them is the same.
    """

    model_config = ConfigDict(frozen=True)

    models: tuple[ResolvedModel, ...]
    attributes: tuple[Attribute, ...]
    scorer: ResolvedScorer
    code: dict[str, str] = {}

    def model(self, model_id: str) -> ResolvedModel:
        """Returns a model by its id.

        Raises:
            SpecError: there is none; tables may name what the sweep file does not.
        """
        for model in self.models:
            if model.id == model_id:
                return model
        raise SpecError(f'the sweep has no model "{model_id}"')

    def attribute(self, key: str) -> Attribute:
        """Returns an attribute by its key.

        Raises:
            SpecError: there is none; see `model`.
        """
        for item in self.attributes:
            if item.key == key:
                return item
        raise SpecError(f'the sweep has no attribute "{key}"')


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
        models.append(traceable(spec, with_super_resolution(i, item, model)))
    attributes = _checked(spec, models)
    with located("scorer"):
        scorer = _scorer(spec)
    _look_closer(spec, models, attributes, scorer)
    return Resolved(models=tuple(models), attributes=attributes, scorer=scorer, code=registry.digests(spec.files))


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
        models.append(traceable(spec, with_super_resolution(i, item, model, hub=False)))
    attributes = _checked(spec, models)
    scorer = ResolvedScorer(name=name_of(spec.scorer), source=spec.scorer, revision=None, weights="")
    key, where = find_scorer(spec.scorer)
    if key != spec.scorer and Path(where).is_dir():
        with located("scorer"):
            scorer = _scorer(spec)
    _look_closer(spec, [model for model in models if Path(model.path).is_dir()], attributes, scorer)
    return Resolved(models=tuple(models), attributes=attributes, scorer=scorer)


def _look_closer(
    spec: SweepSpec, models: Sequence[ResolvedModel], attributes: Sequence[Attribute], scorer: ResolvedScorer
) -> None:
    """Refuses steps that a scheduler cannot take, and texts that a model or the scorer would not read whole.

    Of texts that is as far as tokenizers are on this machine.
    """
    readers, numbers = [], {item.id: i for i, item in enumerate(spec.models)}
    for model in models:
        with located("models", numbers[model.id]):
            _check_schedule(spec, model)
            reader = prompt_reader(model.id, model.family, model.path, model.revision)
        readers += [reader] if reader else []
    key, where = find_scorer(spec.scorer)
    with located("scorer"):
        scores = scorer_reader(spec.scorer, where, scorer.revision) if key == "clip" else None
    check_texts(spec, attributes, readers, scores)


def _check_schedule(spec: SweepSpec, model: ResolvedModel) -> None:
    """Refuses steps that the scheduler of a model cannot take."""
    config = read_json(model.path, model.revision, "scheduler/scheduler_config.json")
    partly = any(option.steps not in (None, (0, spec.generation.steps)) for option in spec.interventions)
    try:
        scheduler = make_scheduler(model.scheduler, config)
        if spec.generation.scheduler is not None:
            scheduler = named_scheduler(spec.generation.scheduler, scheduler)
        check_schedule(scheduler, spec.generation.steps, partly=partly)
    except ModelError as error:
        raise SpecError(f"{model.id}: {error}") from error


def _as_published(spec: ModelSpec) -> ResolvedModel:
    family, known = ("", None) if spec.path is not None else find_model(spec.id)
    if known is None or known.path is not None:
        return resolve_model(spec)
    if not known.published:
        raise ModelError(f"no configuration of {spec.id} is known without its weights")
    info, config = families()[family], dict(known.published)
    site_names, native_side = _facts(info, config, known.hub_id)
    return ResolvedModel(
        id=spec.id, family=family, path=known.hub_id, revision=spec.revision or known.revision, weights="",
        dtype=spec.dtype, guidance_scale=spec.guidance_scale, site_names=site_names, native_side=native_side,
        seconds_per_image=known.seconds_per_image, worker=spec.worker, encoder_layers=2 * known.encoder_layers,
    )  # fmt: skip


def _checked(spec: SweepSpec, models: Sequence[ResolvedModel]) -> tuple[Attribute, ...]:
    """Refuses windows and options that do not fit the models; returns the attributes."""
    for model in models:
        sizes = spec.windows.sizes or (1,)
        if (largest := max(sizes)) > model.n_sites:
            with located("windows", "sizes", sizes.index(largest)):
                raise SpecError(
                    f"windows.sizes: {largest} is larger than {model.id}, which has {model.n_sites} cross-attention "
                    "sites"
                )
        _check_options(spec, model)
    attributes = check_names(spec)
    check_subjects(spec, attributes)
    return attributes


def _check_options(spec: SweepSpec, model: ResolvedModel) -> None:
    """Refuses options that mean nothing in a model's family."""
    facts = families()[model.family]
    if spec.edit is not None and model.engine.offload == "sequential":
        with located("models", [item.id for item in spec.models].index(model.id), "engine", "offload"):
            raise SpecError(
                f"weights of {model.id} that are offloaded layer by layer cannot be edited; expected offload: model, "
                "or no edit"
            )
    for i, option in enumerate(spec.interventions):
        if option.pooled == "donor" and not facts.pooled:
            with located("interventions", i, "pooled"):
                raise SpecError(f"nothing in {model.id} ({model.family}) reads a pooled text; expected pooled: prompt")
        if option.guidance_half != "conditional" and not facts.guided:
            with located("interventions", i, "guidance_half"):
                raise SpecError(
                    f"{model.id} ({model.family}) has distilled guidance, without an unconditional half; expected "
                    "guidance_half: conditional"
                )
    for side in ("height", "width"):
        if (pixels := getattr(spec.generation, side)) is not None and pixels % facts.side_multiple:
            with located("generation", side):
                raise SpecError(f"{pixels} is no side of {model.id}; expected a multiple of {facts.side_multiple}")
    if spec.generation.scheduler is not None:
        with located("generation", "scheduler"):
            whose = f" for {model.id} ({model.family})"
            _check_scheduler(
                spec.generation.scheduler, {model.scheduler, *(facts.schedulers or _karras())} - {""}, whose
            )
    named = model.guidance_scale is not None or "guidance_scale" in spec.generation.model_fields_set
    if not facts.guided and not named:
        with located("models", [item.id for item in spec.models].index(model.id)):
            raise SpecError(
                f"{model.id} ({model.family}) is distilled for a guidance scale of its own; expected {{id: {model.id}, "
                "guidance_scale: NUMBER}}, for FLUX.1-dev 3.5"
            )
    if facts.stream == "evolving" and spec.generation.batch_size == 1:
        with located("generation", "batch_size"):
            raise SpecError(
                f"every image of {model.id} reads from one that draws its donor beside it; expected a batch_size of 2 "
                "or more"
            )


def check_methods(spec: SweepSpec, resolved: Resolved) -> None:
    """Refuses an editor that can edit none of the models; one that can edit some passes over the others.

    Raises:
        SpecError: there is one.
    """
    for i, editor in enumerate(spec.edit.editors if spec.edit else ()):
        refused = list[SpecError]()
        for model in resolved.models:
            try:
                model.method_sites(editor)
            except SpecError as error:
                refused.append(error)
        if len(refused) == len(resolved.models):
            with located("edit", "editors", i):
                raise refused[0]


def named_attributes(spec: SweepSpec) -> tuple[Attribute, ...]:
    """Looks up the attributes of a sweep.

    Raises:
        SpecError: a name is unknown; ``loc`` says where in the sweep.
    """
    attributes = []
    for i, name in enumerate(spec.attributes):
        with located("attributes", i):
            attributes.append(_attribute(name, spec.prompts))
    return tuple(attributes)


def check_names(spec: SweepSpec) -> tuple[Attribute, ...]:
    """Looks up the names of a sweep that a machine without any weights knows; returns its attributes.

    Raises:
        SpecError: a name is unknown; ``loc`` says where in the sweep.
    """
    registry.look_again(spec.files)
    for i, item in enumerate(spec.models):
        if item.path is None:
            with located("models", i):
                family, _ = find_model(item.id)
            if item.super_resolution is not None:
                with located("models", i, "super_resolution"):
                    check_super_resolution(item.id, family)
    attributes = named_attributes(spec)
    if spec.reproduces is not None:
        with located("reproduces"):
            published(spec.reproduces)
    for i, name in enumerate(spec.localize.localizers):
        with located(*localizer_at(i)):
            registry.function("localizers", name, "localize")
            reads(name)
    check_editors(spec, attributes)
    if spec.generation.scheduler is not None:
        with located("generation", "scheduler"):
            if not is_scheduler(spec.generation.scheduler):
                others = {name for facts in families().values() for name in facts.schedulers}
                _check_scheduler(spec.generation.scheduler, {*_karras(), *others})
    return attributes


def _check_scheduler(name: str, known: Collection[str], whose: str = "") -> None:
    if name not in known:
        raise SpecError(f'no scheduler "{name}"{whose}{did_you_mean(name, known)}')


def _karras() -> tuple[str, ...]:
    """Returns the names of the schedulers that most families work with."""
    from diffusers.schedulers import KarrasDiffusionSchedulers

    return tuple(item.name for item in KarrasDiffusionSchedulers)


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
    if spec.path is None:
        family, known = find_model(spec.id)
        path = str(known.path or known.hub_id)
        revision, seconds = spec.revision or known.revision, known.seconds_per_image
    else:
        family, path, revision, seconds = "", spec.path, spec.revision, 0.0
    index = read_json(path, revision, "model_index.json")
    class_name = index.get("_class_name", "unnamed class")
    if not isinstance(class_name, str):
        raise ModelError(f"{path}/model_index.json: _class_name is {class_name}; expected a class of diffusers")
    family = family or family_of_pipeline(class_name, path)
    info = families()[family]
    site_names, native_side = _facts(info, read_json(path, revision, info.config_file), path)
    scheduler = index.get("scheduler")
    if not (isinstance(scheduler, list) and len(scheduler) == 2 and isinstance(scheduler[1], str)):
        raise ModelError(f"{path}/model_index.json names no scheduler; expected a library and a class")
    weights = weights_hash(path, revision, partial(pipeline_files, left_out=left_out(family)))
    if spec.path is not None and Path(path).is_dir():
        check_weights(Path(path), weights, left_out(family))
    return ResolvedModel(
        id=spec.id,
        family=family,
        path=absolute(path),
        # The commit, not the name of a branch: what is hashed is what every worker loads.
        revision=weights.removeprefix("hub:") if weights.startswith("hub:") else None,
        weights=weights,
        dtype=spec.dtype,
        engine=spec.how,
        guidance_scale=spec.guidance_scale,
        site_names=site_names,
        native_side=native_side,
        seconds_per_image=seconds or info.seconds_per_image,
        worker=spec.worker,
        scheduler=scheduler[1],
    )


def _facts(info: FamilyInfo, config: dict[str, Any], path: str) -> tuple[tuple[str, ...], int]:
    try:
        return info.site_names(config), info.native_side(config)
    except Exception as error:  # whatever a configuration says that a family has not thought of
        raise ModelError(f"{path}/{info.config_file} is not the configuration of a denoiser: {error!r}") from error


def _scorer(spec: SweepSpec) -> ResolvedScorer:
    key, where = find_scorer(spec.scorer)
    if key == spec.scorer:
        return _outside_scorer(key, where)
    if spec.scorer not in BUNDLED and not Path(where).is_dir() and "/" not in where:
        known = (*BUNDLED, *named_scorers())
        raise SpecError(
            f'scorer: no scorer "{spec.scorer}"{did_you_mean(spec.scorer, known)}; or CLIP model\'s folder or hub id'
        )
    revision = None if Path(where).is_dir() else commit(where, None)
    if key == "clip":
        _check_clip(spec.scorer, where, revision)
    name = spec.scorer if spec.scorer in BUNDLED else absolute(spec.scorer)
    weights = weights_hash(where, revision, scorer_files)
    if key == "clip" and spec.scorer not in BUNDLED and Path(where).is_dir():
        check_weights(Path(where), weights)
    return ResolvedScorer(name=name_of(spec.scorer), source=name, revision=revision, weights=weights)


def _check_clip(name: str, where: str, revision: str | None) -> None:
    """Refuses models that compare pictures and texts in another way than CLIP does."""
    if Path(where).is_dir() and not (Path(where) / "config.json").is_file():
        raise ModelError(f"{name} holds no config.json; expected the folder of a CLIP model")
    kind = read_json(where, revision, "config.json").get("model_type", "clip")
    if kind != "clip":
        raise ModelError(f"{name} holds a {kind} model; expected a CLIP model, whose model_type is clip")


def _outside_scorer(key: str, where: str) -> ResolvedScorer:
    """Pins a scorer that is named by its file, and so by what the file says: a changed one is another scorer."""
    registry.function("scorers", key, "Scorer")
    digest = hashlib.sha256(registry.source("scorers", key))
    revision = commit(where, None) if where and not Path(where).is_dir() else None
    if where:
        digest.update(weights_hash(where, revision).encode())
    return ResolvedScorer(name=name_of(key), source=key, revision=revision, weights=digest.hexdigest())
