"""Whether the attacks of a sweep are there, and can be made on its models; without torch."""

from __future__ import annotations

from collections.abc import Sequence

from loco_core.attacking.base import attack_info, attack_settings, check_attackable
from loco_core.diffusion.facts import find_model
from loco_core.errors import LocoError, SpecError, located
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.spec import ModelSpec, SweepSpec
from orchestrator.spec.places import name_of

FLOOR = ("evaluate", "floor")


def check_attacks(spec: SweepSpec) -> None:
    """Refuses attacks that no machine knows, and settings that they do not have.

    Raises:
        SpecError: there is one; ``loc`` says where in the sweep.
    """
    for i, item in enumerate(spec.evaluate.attacks):
        try:
            attack_settings(item.choice)
        except LocoError as error:
            error.loc = ("evaluate", "attacks", i, *error.loc)
            raise
    if spec.evaluate.floor is None:
        return
    with located(*FLOOR):
        if not spec.evaluate.attacks:
            raise SpecError(
                "floor is what attacks are held against, and there are none; expected evaluate: {attacks: ..}"
            )

        floor = floor_of(spec)
        if floor is not None and floor.path is None:
            find_model(floor.id)


def floor_of(spec: SweepSpec) -> ModelSpec | None:
    """Returns the model that attacks are held against as a model of a sweep is written; None where there is none.

    Its dtype here is that of the first model; each model is held against it in its own, see `beside`.
    """
    if (floor := spec.evaluate.floor) is None:
        return None
    return ModelSpec(id=name_of(floor), path=floor if "/" in floor else None, dtype=spec.models[0].dtype)


def beside(floor: ResolvedModel, model: ResolvedModel) -> ResolvedModel:
    """Returns the floor as a model is held against it: in the model's dtype, so that they differ in weights alone."""
    return floor.model_copy(update={"dtype": model.dtype})


def free_tokens(spec: SweepSpec) -> int:
    """Returns how many free tokens the attacks of a sweep put in front of a prompt, at most."""
    choices = [item.choice for item in spec.evaluate.attacks]
    return max((attack_info(choice.use).tokens(attack_settings(choice)) for choice in choices), default=0)


def check_models(spec: SweepSpec, models: Sequence[ResolvedModel], floor: ResolvedModel | None) -> None:
    """Refuses attacks that cannot be made on a model of the sweep, and a floor whose pictures have another size.

    Args:
        spec: the sweep.
        models: its models.
        floor: the model that never learned the attributes, if one is given.

    Raises:
        SpecError: it does; ``loc`` says where in the sweep.
    """
    for i, item in enumerate(spec.evaluate.attacks):
        for model in models:
            with located("evaluate", "attacks", i):
                _check(model, item.use)
            if floor is not None:
                with located(*FLOOR):
                    _check(beside(floor, model), item.use)
    sides = spec.generation.height, spec.generation.width
    for model in models:
        if floor is not None and None in sides and floor.native_side != model.native_side:
            with located(*FLOOR):
                raise SpecError(
                    f"{floor.id} draws {floor.native_side} pixels and {model.id} {model.native_side}; expected a floor "
                    "of the same size, or generation.height and generation.width"
                )


def _check(model: ResolvedModel, attack: str) -> None:
    check_attackable(model.id, model.family, model.facts, attack, model.dtype, model.engine)
