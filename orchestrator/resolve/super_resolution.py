"""The second stage of a model, which enlarges its images: what its name stands for. Without torch."""

from __future__ import annotations

from functools import partial

from loco_core.diffusion.facts import DEFAULT, families, left_out
from loco_core.diffusion.folders import pipeline_files
from loco_core.diffusion.hub import on_hub
from loco_core.diffusion.weights import absolute, read_json, weights_hash
from loco_core.errors import ModelError, SpecError, located
from orchestrator.resolve.resolved import ResolvedModel, ResolvedSuperResolution
from orchestrator.spec import ModelSpec, SuperResolutionSpec


def check_super_resolution(model: str, family: str) -> None:
    """Refuses a second stage of a model whose family has none.

    Raises:
        SpecError: it has none.
    """
    known = families()
    if family == DEFAULT or not known[family].super_resolution_class:
        able = " and ".join(key for key, facts in known.items() if facts.super_resolution_class)
        raise SpecError(f"super_resolution: {model} ({family}) has no second stage; only {able} has one")


def resolve_super_resolution(spec: SuperResolutionSpec, family: str) -> ResolvedSuperResolution:
    """Looks up a second stage.

    Args:
        spec: as in the sweep.
        family: of the first stage, one that has a second.

    Raises:
        ModelError: it is not the family's second stage, or holds pickles where safetensors belong.
    """
    facts = families()[family]
    found = read_json(spec.path, spec.revision, "model_index.json").get("_class_name")
    if found != facts.super_resolution_class:
        raise ModelError(f'super_resolution: {spec.path} is a "{found}"; expected a "{facts.super_resolution_class}"')
    config = read_json(spec.path, spec.revision, facts.config_file)
    try:
        side = facts.native_side(config)
    except Exception as error:  # whatever a configuration says that a family has not thought of
        place = f"{spec.path}/{facts.config_file}"
        raise ModelError(f"{place} is not the configuration of a denoiser: {error!r}") from error
    files_of = partial(pipeline_files, left_out=left_out(family, second=True))
    weights = weights_hash(spec.path, spec.revision, files_of)
    return ResolvedSuperResolution(
        path=absolute(spec.path),
        # As of a model: the commit, not the name of a branch.
        revision=weights.removeprefix("hub:") if weights.startswith("hub:") else None,
        weights=weights,
        native_side=side,
    )


def with_super_resolution(number: int, spec: ModelSpec, model: ResolvedModel, *, hub: bool = True) -> ResolvedModel:
    """Returns a model with the second stage that the sweep gives it, if it does.

    Args:
        number: of the model in the sweep.
        spec: the same as declared.
        model: its first stage.
        hub: whether to ask the hub; without it no more is known of a hub id than that.

    Raises:
        SpecError: its family has no second stage.
        ModelError: as of `resolve_super_resolution`.
    """
    second = spec.super_resolution
    if second is None:
        return model
    with located("models", number, "super_resolution"):
        check_super_resolution(model.id, model.family)
        if hub or not on_hub(second.path):
            found = resolve_super_resolution(second, model.family)
        else:
            found = ResolvedSuperResolution(path=second.path, revision=second.revision, weights="", native_side=0)
    seconds = model.facts.super_resolution_cost * model.seconds_per_image
    return model.model_copy(update={"super_resolution": found, "seconds_per_image": seconds})
