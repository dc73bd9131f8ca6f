"""What is traced beside a sweep: pure, and the same on every machine.

Traces are taken of the sweep's own prompts and seeds. What is traced already is left out, so that prompts and seeds may
grow; the rest is cut as if it were still there, so that a unit beside committed ones keeps its name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from loco_core.tracing.base import Cost, TracedModel, reads, tracer_id, tracer_info
from loco_core.types import Attribute, PromptRecord
from orchestrator import identity
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import Count, batch_size, images_in, make_unit, seconds_per_image, short_seconds, sweep_id
from orchestrator.stages.sweep.variants import prompt_id

Pair = tuple[str, str, str, str, int]
"""What a trace is of: see `PAIR`."""
PAIR = ["model", "attribute", "method", "prompt_id", "seed"]
"""Columns of ``traces`` that say so."""


@dataclass(frozen=True)
class Tracing:
    """Prompts and seeds of one (model, attribute) that are traced by one tracer.

    Attributes:
        attribute: what is traced.
        tracer: key or file of the tracer.
        method: what it is called in ``traces``.
        items: the prompts, each with a seed.
        batch_size: rows per forward pass; frozen here.
        images: how many pictures are drawn.
    """

    attribute: Attribute
    tracer: str
    method: str
    items: tuple[tuple[PromptRecord, int], ...]
    batch_size: int
    images: int


def tracers(spec: SweepSpec) -> dict[str, str]:
    """Returns the tracers whose traces the localizers of a sweep read, by what they are called in ``traces``."""
    wanted = (reads(name) for name in spec.localize.localizers)
    return dict(sorted((tracer_id(tracer), tracer) for tracer in wanted if tracer is not None))


def pair_of(row: Mapping[str, Any]) -> Pair:
    """Returns what a row of ``traces`` is a part of."""
    model, attribute, method, prompt, seed = (row[name] for name in PAIR)
    return model, attribute, method, prompt, seed


def wanted_pairs(spec: SweepSpec, model: str, attribute: Attribute, method: str) -> dict[Pair, PromptRecord]:
    """Returns all that is to be traced of one (model, attribute), in order: seeds outside prompts."""
    return {
        (model, attribute.key, method, prompt_id(record), seed): record
        for seed in spec.seeds
        for record in attribute.records[: spec.prompts]
    }


def trace_units(spec: SweepSpec, resolved: Resolved, traced: Collection[Pair], first_order: int) -> list[Unit]:
    """Cuts what is not traced yet into units of about the length of a sweep's.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        traced: what is there.
        first_order: number behind the last planned unit.

    Returns:
        units whose payload is a `Tracing`.
    """
    units, wanted = list[Unit](), tracers(spec)
    for model in resolved.models:
        for attribute in resolved.attributes:
            for method, tracer in wanted.items():
                pairs = wanted_pairs(spec, model.id, attribute, method)
                cost, each = _cost(spec, model, tracer, len(pairs))
                seconds = seconds_per_image(spec, model)
                left = [(record, pair[-1]) for pair, record in pairs.items() if pair not in traced]
                for start in range(0, len(left), each):
                    items = tuple(left[start : start + each])
                    drawn = cost.images * len(items)
                    payload = Tracing(attribute, tracer, method, items, cost.batch_size, drawn)
                    name = _name(spec, model, attribute, method, items)
                    units.append(make_unit("trace", name, model, first_order + len(units), seconds * drawn, payload))
    return units


def count_traces(spec: SweepSpec, resolved: Resolved, traced: Collection[Pair]) -> Count:
    """Counts what `trace_units` would cut; where nothing is traced yet without looking at every seed.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        traced: what is there.
    """
    if traced:
        units = trace_units(spec, resolved, traced, 0)
        images, seconds = sum(unit.payload.images for unit in units), sum(unit.expected_seconds for unit in units)
        return Count(len(units), images, 0, seconds)
    total = Count()
    for model in resolved.models:
        for attribute in resolved.attributes:
            pairs = len({prompt_id(record) for record in attribute.records[: spec.prompts]}) * len(spec.seeds)
            for tracer in tracers(spec).values():
                cost, each = _cost(spec, model, tracer, pairs)
                images = cost.images * pairs
                total += Count(math.ceil(pairs / each), images, 0, seconds_per_image(spec, model) * images)
    return total


def _cost(spec: SweepSpec, model: ResolvedModel, tracer: str, pairs: int) -> tuple[Cost, int]:
    """Returns what tracing takes, and prompts and seeds per unit."""
    traced = TracedModel(model.facts, model.n_sites, model.encoder_layers)
    cost = tracer_info(tracer).cost(traced, pairs, batch_size(spec, model))
    images = images_in(short_seconds(spec), spec, model)
    return cost, cost.together * max(1, int(images / (cost.images * cost.together)))


def _name(
    spec: SweepSpec, model: ResolvedModel, attribute: Attribute, method: str, items: tuple[tuple[Any, int], ...]
) -> str:
    parts = tuple(
        f"{seed} " + "\n".join((item.prompt, item.donor, item.score_text, *item.against)) for item, seed in items
    )
    return identity.unit_id(identity.UnitKey(sweep_id(spec), "trace", model.id, attribute.key, (method, *parts)))
