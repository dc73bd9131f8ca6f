"""Whether the models and prompts of a sweep can be traced as its localizers want it; without torch."""

from __future__ import annotations

from loco_core.diffusion.folders import INDEX
from loco_core.diffusion.weights import read_json
from loco_core.errors import ModelError, SpecError, located
from loco_core.tracing.base import check_traceable, reads, tracer_info
from loco_core.types import Attribute
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.spec import SweepSpec


def traceable(spec: SweepSpec, model: ResolvedModel) -> ResolvedModel:
    """Checks that a model can be traced as the localizers want it, and counts the layers that this takes.

    Raises:
        SpecError: it cannot.
        ModelError: the configuration of one of its text encoders is none.
    """
    for i, name in enumerate(spec.localize.localizers):
        with located(*localizer_at(i)):
            if (tracer := reads(name)) is None:
                continue
            info = tracer_info(tracer)
            if model.profile is not None:
                raise SpecError(
                    f"{model.id} ({model.profile.pipeline}) is served by the default family, whose models cannot be "
                    f"traced by {name}; expected a family for this class of pipelines (how-to: plug-ins)"
                )
            check_traceable(model.family, tracer, model.id)
            if model.engine.offload == "sequential":
                raise SpecError(
                    f"layers of {model.id} that are offloaded one by one cannot be traced by {name}; expected "
                    "offload: model, or another localizer"
                )
            if info.not_alone and spec.generation.batch_size == 1:
                raise SpecError(f"{name} {info.not_alone}; expected a batch_size of 2 or more")
            if info.encoder_layers:
                # Of a model as published it is known without the hub.
                count = model.encoder_layers or 2 * _encoder_layers(model)
                model = model.model_copy(update={"encoder_layers": count})
    return model


def _encoder_layers(model: ResolvedModel) -> int:
    index = read_json(model.described_in, model.revision, INDEX)
    # SD3 may be saved without its T5.
    parts = [part for part in model.facts.traced_encoders if (index.get(part) or [None])[0] is not None]
    return sum(_layers(model, part) for part in parts)


def _layers(model: ResolvedModel, part: str) -> int:
    """Returns how many layers a text encoder has, as CLIP, T5, and language models with eyes or without tell it."""
    config = read_json(model.described_in, model.revision, f"{part}/config.json")
    inner = config.get("text_config")
    for held in (config, inner if isinstance(inner, dict) else {}):
        for name in ("num_hidden_layers", "num_layers"):
            if isinstance(held.get(name), int):
                return int(held[name])
    raise ModelError(f"{model.described_in}: the configuration of {part} tells no num_hidden_layers and no num_layers")


def check_subjects(spec: SweepSpec, attributes: tuple[Attribute, ...]) -> None:
    """Refuses to trace prompts whose donors say the same: no word of them is the subject.

    Raises:
        SpecError: there is one, of those that the sweep takes.
    """
    if all(reads(name) is None for name in spec.localize.localizers):
        return
    for i, item in enumerate(attributes):
        for record in item.records[: spec.prompts]:
            if record.prompt.split() == record.donor.split():
                with located("attributes", i):
                    raise SpecError(
                        f'{item.key}: the prompt "{record.prompt}" equals its donor; it has no words to trace'
                    )


def localizer_at(number: int) -> tuple[str | int, ...]:
    """Returns where in a sweep a localizer is named: first the one that edits follow."""
    return ("localize", "compare", number - 1) if number else ("localize", "localizer")
