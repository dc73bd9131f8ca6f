"""Whether the options of a sweep mean something in the families of its models; without torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from loco_core.attacking.base import attack_info
from loco_core.diffusion.checks import Place, Steps
from loco_core.diffusion.facts import families
from loco_core.diffusion.folders import INDEX, read_object
from loco_core.diffusion.hub import cached_folder
from loco_core.diffusion.schedules import KARRAS, is_scheduler
from loco_core.diffusion.weights import read_json
from loco_core.errors import SpecError, did_you_mean, located
from orchestrator.resolve.apart import apart
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.spec import SweepSpec


def check_fit(spec: SweepSpec, models: Sequence[ResolvedModel]) -> None:
    """Refuses windows and options that do not fit the models.

    Raises:
        SpecError: there is one; ``loc`` says where in the sweep.
    """
    for model in models:
        sizes = spec.windows.sizes or (1,)
        if (largest := max(sizes)) > model.n_sites:
            with located("windows", "sizes", sizes.index(largest)):
                raise SpecError(
                    f"windows.sizes: {largest} is larger than {model.id}, which has {model.n_sites} cross-attention "
                    "sites"
                )
        _check_options(spec, model)


def _check_options(spec: SweepSpec, model: ResolvedModel) -> None:
    """Refuses options that mean nothing in a model's family."""
    facts = model.facts
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
        if option.tokens != "all" and not facts.words:
            with located("interventions", i, "tokens"):
                raise SpecError(
                    f"{model.id} is served by the default family, which does not know which "
                    "tokens are words; expected tokens: all, or a family for this class of pipelines (how-to: plug-ins)"
                )
        if option.source == "own" and facts.stream == "fixed":
            with located("interventions", i, "source"):
                raise SpecError(
                    f"in {model.id} ({model.family}) K and V of a prompt are the same whatever is drawn; expected "
                    "source: run"
                )
        if option.source == "own" and not facts.follows:
            with located("interventions", i, "source"):
                raise SpecError(
                    f"{model.id} is served by the default family, which could not find out where its denoiser takes "
                    "the noisy picture; expected source: run"
                )
        if not option.any_half and (not facts.guided or _is_distilled(model)):
            with located("interventions", i, "guidance_half"):
                raise SpecError(
                    f"{model.id} ({model.family}) has distilled guidance, without an unconditional half; expected "
                    "guidance_half: conditional"
                )
    for side in ("height", "width"):
        if (pixels := getattr(spec.generation, side)) is None:
            continue
        if not facts.sides:
            with located("generation", side):
                raise SpecError(
                    f"the call of the pipeline of {model.id} takes no height and width; expected no generation.{side}"
                )
        if pixels % facts.side_multiple:
            with located("generation", side):
                raise SpecError(f"{pixels} is no side of {model.id}; expected a multiple of {facts.side_multiple}")
    if spec.generation.scheduler is not None:
        with located("generation", "scheduler"):
            whose = f" for {model.id} ({model.family})"
            _check_scheduler(spec.generation.scheduler, {model.scheduler, *(facts.schedulers or KARRAS)} - {""}, whose)
    example = f", for {facts.guidance_example}" if facts.guidance_example else ""
    named = model.guidance_scale is not None or "guidance_scale" in spec.generation.model_fields_set
    if not facts.guided and not named:
        with located("models", [item.id for item in spec.models].index(model.id)):
            raise SpecError(
                f"{model.id} ({model.family}) is distilled for a guidance scale of its own; expected {{id: {model.id}, "
                f"guidance_scale: NUMBER}}{example}"
            )
    if isinstance(spec.generation.batch_size, int) and spec.generation.batch_size < facts.least_batch:
        with located("generation", "batch_size"):
            raise SpecError(
                f"every image of {model.id} reads from one that draws its donor beside it; expected a batch_size of "
                f"{facts.least_batch} or more"
            )


def _is_distilled(model: ResolvedModel) -> bool:
    """Tells whether a pipeline runs no guidance at any scale, as the index of its folder says where it is here."""
    folder = cached_folder(model.path, model.revision, INDEX)
    return folder is not None and read_object(folder / INDEX).get("is_distilled") is True


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


def unedited_models(spec: SweepSpec, resolved: Resolved) -> tuple[str, ...]:
    """Returns why models of a sweep that edits admit no edit of their sites, a sentence a model."""
    refused = []
    for model in resolved.models if spec.edit else ():
        try:
            model.check_sites()
        except SpecError as error:
            refused.append(f"{model.id}: {error}")
    return tuple(refused)


def steps_of(spec: SweepSpec, model: ResolvedModel, place: Place) -> Steps:
    """Returns the steps that the scheduler of a model is to take.

    Args:
        spec: the sweep.
        model: the model.
        place: where the sweep names it.

    Raises:
        ModelError: the scheduler has no configuration.
    """
    config = read_json(model.described_in, model.revision, "scheduler/scheduler_config.json")
    partly = any(option.steps not in (None, (0, spec.generation.steps)) for option in spec.interventions)
    attacks = spec.evaluate.attacks if spec.edit is not None else ()
    learns = any(attack_info(item.use).learns for item in attacks)
    return Steps(
        model.id, model.scheduler, config, spec.generation.scheduler, spec.generation.steps, partly, place,
        bool(attacks), learns,
    )  # fmt: skip


def check_scheduler(spec: SweepSpec) -> None:
    """Refuses a scheduler that no family works with.

    Raises:
        SpecError: it is one.
    """
    if (name := spec.generation.scheduler) is not None:
        with located("generation", "scheduler"):
            known = {*KARRAS, *(name for facts in families().values() for name in facts.schedulers)}
            # A model may bring one of its own.
            if name not in known and not apart(is_scheduler, name):
                _check_scheduler(name, known)


def _check_scheduler(name: str, known: Collection[str], whose: str = "") -> None:
    if name not in known:
        raise SpecError(f'no scheduler "{name}"{whose}{did_you_mean(name, known)}')
