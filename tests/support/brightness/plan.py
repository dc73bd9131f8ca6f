"""One unit per (model, attribute, prompt): some of the sweep's seeds."""

from __future__ import annotations

from dataclasses import dataclass

from loco_core.errors import SpecError
from orchestrator import identity
from orchestrator.scheduler.protocol import Unit
from orchestrator.stages.base import PlanContext, make_unit, seconds_per_image


@dataclass(frozen=True)
class Pictures:
    """A prompt, the seeds that it is drawn with, and seconds to wait before that."""

    attribute: str
    prompt: str
    seeds: tuple[int, ...]
    pause: float


def units(context: PlanContext) -> list[Unit]:
    """Plans the pictures of the first few seeds."""
    unknown = set(context.settings) - {"seeds", "pause"}
    if unknown:
        raise SpecError(f"stages.brightness: no setting {min(unknown)!r}; expected seeds and pause")
    seeds = context.spec.seeds[: int(context.settings.get("seeds", 1))]
    found: list[Unit] = []
    for model in context.resolved.models:
        for attribute in context.resolved.attributes:
            for record in attribute.records[: context.spec.prompts]:
                key = identity.UnitKey(
                    context.sweep_id, "brightness", model.id, attribute.key, (record.prompt, *map(str, seeds))
                )
                payload = Pictures(attribute.key, record.prompt, seeds, float(context.settings.get("pause", 0.0)))
                cost = len(seeds) * seconds_per_image(context.spec, model) + payload.pause
                order = context.first_order + len(found)
                found.append(make_unit("brightness", identity.unit_id(key), model, order, cost, payload))
    return found
