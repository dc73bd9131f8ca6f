"""A model that is looked at before a sweep of it: from its name to a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from loco_core.attributes import attribute, bundled, made_for
from loco_core.diffusion.facts import find_model, known_models, published_model
from loco_core.errors import SpecError, did_you_mean
from loco_core.scoring.base import find_scorer, named_scorers
from loco_core.scoring.base import made_for as scorer_made_for
from loco_core.types import Attribute, Generation
from orchestrator.resolve.lookup import named_attributes, resolve_model
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.resolve.super_resolution import with_super_resolution
from orchestrator.spec import ModelSpec, SweepSpec
from orchestrator.spec.places import hub_or_folder

if TYPE_CHECKING:
    from loco_core.checking.certificate import Certificate
    from loco_core.checking.unknown import Look
    from loco_core.diffusion.model import LoadedModel

STEPS, SEEDS, ATTRIBUTES = 16, 2, 3
SCORER = "openai/clip-vit-large-patch14"
"""Of models whose pictures no bundled scorer knows."""
KINDS = ("style", "object", "fact")


@dataclass(frozen=True)
class Subject:
    """A model, and what its pictures are to be.

    Attributes:
        model: the model as a sweep has it.
        settings: settings of its pictures; None takes those with which its family is published.
        attributes: what is drawn; none takes bundled ones that fit the model.
        scorer: what scores pictures; None takes one that fits the model.
    """

    model: ModelSpec
    settings: Generation | None = None
    attributes: tuple[Attribute, ...] = ()
    scorer: str | None = None


@dataclass(frozen=True)
class Options:
    """What a command says of a check.

    Attributes:
        steps: denoising steps of the pictures that are scored; None takes 16, or as many as it is published with where
            that is fewer.
        seeds: number of seeds.
        device: ``auto`` takes a GPU where torch sees one.
        dtype: number format in place of the model's own; None leaves it.
        attributes: keys of the attributes that are drawn, in place of others.
        scorer: scorer in place of others; None leaves it.
    """

    steps: int | None = None
    seeds: int = SEEDS
    device: str = "auto"
    dtype: str | None = None
    attributes: tuple[str, ...] = ()
    scorer: str | None = None


def subject_named(name: str, revision: str | None = None) -> Subject:
    """Returns a model by its name, folder or hub id.

    Raises:
        SpecError: there is none of that name.
    """
    if name in known_models():
        return Subject(_spec({"id": name, "revision": revision}))
    place = hub_or_folder(name)
    if place != name and not Path(place).exists():
        # A word alone, or a path to nothing.
        if "/" not in name:
            find_model(name)
        raise SpecError(
            f"{name}: there is no such folder; expected a name of `loco-sweep models`, a folder or a hub id"
        )
    return Subject(_spec({"id": Path(place).name, "path": place, "revision": revision}))


def subject_of(spec: SweepSpec, model: str | None) -> Subject:
    """Returns a model of a sweep, with its settings, first attributes and scorer.

    Args:
        spec: the sweep.
        model: id of the model; None where there is only one.

    Raises:
        SpecError: no such model is in it, or none is named of several.
    """
    known = {item.id: item for item in spec.models}
    if model is None and len(known) > 1:
        raise SpecError(f"--model: {spec.name} has {len(known)} models; expected one of {', '.join(known)}")
    chosen = next(iter(known)) if model is None else model
    if chosen not in known:
        raise SpecError(f'--model: {spec.name} has no model "{chosen}"{did_you_mean(chosen, known)}')
    item, settings = known[chosen], spec.generation.settings
    if item.guidance_scale is not None:
        settings = replace(settings, guidance_scale=item.guidance_scale)
    return Subject(item, settings, named_attributes(spec)[:ATTRIBUTES], spec.scorer)


def _spec(content: dict[str, str | None]) -> ModelSpec:
    try:
        return ModelSpec.model_validate({key: value for key, value in content.items() if value is not None})
    except ValidationError as error:
        problem = error.errors()[0]
        raise SpecError(f"{content['id']}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def check(subject: Subject, options: Options, say: Callable[[str], None] = lambda _: None) -> Certificate:
    """Checks a model.

    Args:
        subject: the model, and what its pictures are to be.
        options: what the command says.
        say: called with what is done now.

    Raises:
        SpecError: an attribute or a scorer is unknown.
        ModelError: the model cannot be looked up or loaded.
        OutOfMemoryError: it does not fit.
    """
    from loco_core.checking.run import Wanted, check_model

    model = subject.model
    if options.dtype is not None:
        model = _spec({**model.model_dump(mode="json", exclude_unset=True), "dtype": options.dtype})
    resolved = with_super_resolution(0, model, resolve_model(model))
    settings = _settings(subject, resolved, options.steps)
    side = int(resolved.pixels(settings) ** 0.5)
    return check_model(
        Wanted(
            model=resolved.id,
            family=resolved.family,
            source=source_of(resolved),
            weights=resolved.weights_id,
            site_names=resolved.site_names,
            dtype=resolved.dtype,
            device=_device(options.device, model),
            engine=resolved.engine,
            load=_loader(resolved, _device(options.device, model)),
            settings=settings,
            attributes=_attributes(subject, options, side),
            scorer=_scorer(subject, options, side),
            seeds=options.seeds,
        ),
        say,
    )


def look_at(subject: Subject, options: Options) -> Look:
    """Looks at a pipeline of a class that no family serves.

    Args:
        subject: the model.
        options: what the command says; its device and number format count.

    Raises:
        ModelError: it cannot be loaded, or nothing can be told of it.
    """
    from loco_core.checking.unknown import look

    model = subject.model
    return look(str(model.path), model.revision, options.dtype or model.dtype, _device(options.device, model))


def _settings(subject: Subject, model: ResolvedModel, steps: int | None) -> Generation:
    # Of a model as published both are known; else they are those of its family.
    known = published_model(subject.model.path or subject.model.id) or model.facts
    assert known.steps is not None
    assert known.guidance_scale is not None
    settings = subject.settings or Generation(guidance_scale=known.guidance_scale)
    return replace(settings, steps=steps or min(STEPS, known.steps))


def source_of(model: ResolvedModel) -> str:
    """Returns where a model comes from, as a certificate says it: a hub id, or the name of a folder, never its path.

    With something beside it, it is no more the model of that hub id.
    """
    source, extras = Path(model.path).name if Path(model.path).exists() else model.path, model.extras
    more = [extras.variant] if extras.variant else []
    more += [f"{Path(item.path).name} x {item.scale:g}" for item in extras.loras]
    more += [item.token for item in extras.textual_inversions]
    return " + ".join([source, *more])


def _loader(model: ResolvedModel, device: str) -> Callable[[str], LoadedModel]:
    def load(dtype: str) -> LoadedModel:
        from loco_core.diffusion.model import load_model

        second = model.super_resolution
        return load_model(
            model.family, model.path, model.revision, dtype, device, model.engine,
            (second.path, second.revision) if second else None, extras=model.extras,
        )  # fmt: skip

    return load


def _device(wanted: str, model: ModelSpec) -> str:
    from loco_core.checking.run import best_device

    if wanted != "auto":
        return wanted
    return "cpu" if model.worker.gpus == 0 else best_device()


def _attributes(subject: Subject, options: Options, side: int) -> tuple[Attribute, ...]:
    if options.attributes:
        return tuple(attribute(key) for key in options.attributes)
    return subject.attributes or tuple(attribute(key) for key in fitting_attributes(side))


def fitting_attributes(side: int) -> tuple[str, ...]:
    """Returns three bundled attributes, one per kind, that mean something in pictures of a side in pixels."""
    own = [key for key in bundled() if made_for(key) == side]
    keys = own or [key for key in bundled() if not made_for(key)]
    return tuple(next(key for key in keys if key.startswith(f"{kind}/")) for kind in KINDS)


def _scorer(subject: Subject, options: Options, side: int) -> str:
    """Returns a scorer that knows pictures of a side in pixels."""
    if (chosen := options.scorer or subject.scorer) is not None:
        find_scorer(chosen)
        return chosen
    return next((name for name in named_scorers() if scorer_made_for(name) == side), SCORER)
