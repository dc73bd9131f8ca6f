"""The donor of a model, where it is another model: what its name stands for, and whether the two fit. Without torch."""

from __future__ import annotations

from pathlib import Path

from loco_core.diffusion.differences import Weighed, differences
from loco_core.diffusion.donor import no_donor
from loco_core.diffusion.facts import DEFAULT, families, find_model, known_models, left_out
from loco_core.diffusion.hub import on_hub
from loco_core.diffusion.weights import absolute, identity, read_json
from loco_core.errors import ModelError, SpecError, located
from loco_core.tracing.base import reads
from orchestrator.resolve.checkpoints import checkpoint, looked_at
from orchestrator.resolve.resolved import Resolved, ResolvedDonor, ResolvedModel
from orchestrator.resolve.traceable import localizer_at
from orchestrator.spec import SweepSpec
from orchestrator.spec.beside import DonorSpec
from orchestrator.spec.model import donor_as_model

_UNSERVED = "is of a class without a family, and only calls tell what it is; expected models of a known family"
# What of a denoiser's configuration the shapes of K and V follow from.
_SHAPING = ("cross_attention_dim", "block_out_channels", "hidden_size", "attention_head_dim", "num_attention_heads")


def with_donor(spec: SweepSpec, number: int, model: ResolvedModel, *, hub: bool = True) -> ResolvedModel:
    """Returns a model with the donor that the sweep gives it, if it does.

    Args:
        spec: the sweep.
        number: of the model in the sweep.
        model: the model.
        hub: whether to ask the hub; without it no more is known of a hub id than that.

    Raises:
        SpecError: the model's family takes no donor, or a localizer reads traces of donor prompts.
        ModelError: the donor is none, or its sites are others.
    """
    donor = spec.models[number].donor
    if donor is None:
        return model
    with located("models", number, "donor"):
        if model.family == DEFAULT:
            raise SpecError(f"models.{number}.donor: {model.id} {_UNSERVED}")
        if model.facts.stream != "fixed":
            raise SpecError(f"models.{number}.donor: {model.id} ({model.family}): {no_donor(donor.path)}")
        if hub or not (on_hub(donor.path) or on_hub(donor.config or "")):
            found = resolve_donor(donor, model)
        else:
            extras = donor_as_model(donor).extras
            found = ResolvedDonor(
                family=model.family, path=donor.path, revision=donor.revision, weights="", extras=extras
            )
    for i, name in enumerate(spec.localize.localizers):
        if reads(name) is not None:
            with located(*localizer_at(i)):
                raise SpecError(
                    f"{name} reads traces of donor prompts, and the donor of {model.id} is a model; expected another "
                    "localizer"
                )
    return model.model_copy(update={"donor": found})


def resolve_donor(spec: DonorSpec, model: ResolvedModel) -> ResolvedDonor:
    """Looks up a donor.

    Args:
        spec: as in the sweep.
        model: the model whose donor it is.

    Raises:
        ModelError: it is no pipeline of a known family, holds pickles where safetensors belong, or its sites or their
            shapes are others than the model's.
    """
    name = Path(spec.path).name
    if not Path(spec.path).exists() and not on_hub(spec.path) and name in known_models():
        known = find_model(name)[1]
        raise ModelError(
            f"no folder {spec.path}; names of models are none of donors: expected a folder or a hub id, such as "
            f"{known.path or known.hub_id}"
        )
    found = checkpoint(donor_as_model(spec))
    if found.family == DEFAULT:
        raise ModelError(f"the donor {spec.path} {_UNSERVED}")
    info, own = families()[found.family], model.facts
    config = read_json(found.described_in, found.revision, info.config_file)
    expected = read_json(model.described_in, model.revision, own.config_file)
    try:
        names = info.site_names(config)
    except Exception as error:  # whatever a configuration says that a family has not thought of
        place = f"{found.described_in}/{info.config_file}"
        raise ModelError(f"{place} is not the configuration of a denoiser: {error!r}") from error
    wanted = f"expected a model of the architecture of {model.id}"
    if names != model.site_names:
        raise ModelError(
            f"the donor {spec.path} ({found.family}) has {len(names)} sites, and {model.id} ({model.family}) "
            f"{len(model.site_names)} of other names; {wanted}"
            if len(names) != len(model.site_names)
            else f"the donor {spec.path} ({found.family}) has other sites than {model.id} ({model.family}); {wanted}"
        )
    for key in _SHAPING:
        if config.get(key) != expected.get(key):
            raise ModelError(
                f"the donor {spec.path} has {key} {config.get(key)}, and {model.id} {expected.get(key)}: its K and V "
                f"are of other shapes; {wanted}"
            )
    weights, pinned = identity(found.path, found.revision, left_out(found.family), found.extras)
    return ResolvedDonor(
        family=found.family, path=absolute(found.path), revision=pinned, weights=weights, extras=found.extras
    )


def donor_words(resolved: Resolved) -> tuple[str, ...]:
    """Returns in what models differ from their donors beside K and V of their sites, a sentence a model.

    Raises:
        ModelError: a file cannot be read.
    """
    return tuple(f"{model.id}: {_words(model, model.donor)}" for model in resolved.models if model.donor is not None)


def _words(model: ResolvedModel, donor: ResolvedDonor) -> str:
    pair = [
        Weighed(Path(there.folder), each.extras, _denoiser(each), there.left_out)
        for each in (model, donor)
        for there in looked_at(each, ())
        if there.file is None
    ]
    if len(pair) < 2:
        return (
            "what differs from its donor beside K and V of sites stays as it is; how much that is can be told of two "
            "folders, or of the hub's cache, alone"
        )
    one, other = pair
    found = differences(one, other, model.site_names)
    there = f"K or V differ from its donor at {len(found.sites)} of {model.n_sites} sites"
    if not found.sites:
        there += ", so that no swap changes anything"
    layers = "layer" if found.elsewhere == 1 else "layers"
    elsewhere = [f"{found.elsewhere} other {layers} of the {one.denoiser}"] if found.elsewhere else []
    rest = [*elsewhere, *found.components]
    if not rest:
        return f"{there}, and nothing else differs"
    single = len(rest) == 1 and found.elsewhere < 2
    stay = "differs too, and stays as it is" if single else "differ too, and stay as they are"
    return f"{there}; {' and '.join(rest)} {stay}"


def _denoiser(model: ResolvedModel | ResolvedDonor) -> str:
    return families()[model.family].config_file.partition("/")[0]
