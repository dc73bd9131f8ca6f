"""What is traced beside a sweep: pure, and the same on every machine.

Traces are taken of the sweep's own prompts and seeds. What is traced already is left out, so that prompts and seeds may
grow; the rest is cut as if it were still there, so that a unit beside committed ones keeps its name.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from loco_core.tracing import METHODS, Method, reads
from loco_core.types import Attribute, PromptRecord
from orchestrator import identity
from orchestrator.counting import Count
from orchestrator.plan import UNIT_SECONDS, batch_size, prompt_id, sweep_id
from orchestrator.resolve import Resolved, ResolvedModel
from orchestrator.spec import SweepSpec

Pair = tuple[str, str, str, str, int]
"""What a trace is of: see `PAIR`."""
PAIR = ["model", "attribute", "method", "prompt_id", "seed"]
"""Columns of ``traces`` that say so."""


@dataclass(frozen=True)
class TraceUnit:
    """Prompts and seeds of one (model, attribute) that are traced by one method.

    Attributes:
        items: the prompts, each with a seed.
        batch_size: rows a forward pass; frozen here.
        images: that are drawn.
    """

    kind: ClassVar[Literal["trace"]] = "trace"
    unit_id: str
    model: str
    attribute: Attribute
    order: int
    expected_seconds: float
    method: Method
    items: tuple[tuple[PromptRecord, int], ...]
    batch_size: int
    images: int


def methods(spec: SweepSpec) -> tuple[Method, ...]:
    """Returns the methods whose traces the localizers of a sweep read."""
    wanted = {reads(name) for name in spec.localize.localizers}
    return tuple(method for method in METHODS if method in wanted)


def pair_of(row: Mapping[str, Any]) -> Pair:
    """Returns what a row of ``traces`` is a part of."""
    model, attribute, method, prompt, seed = (row[name] for name in PAIR)
    return model, attribute, method, prompt, seed


def wanted_pairs(spec: SweepSpec, model: str, attribute: Attribute, method: Method) -> dict[Pair, PromptRecord]:
    """Returns all that is to be traced of one (model, attribute), in order: seeds outside prompts."""
    return {
        (model, attribute.key, method, prompt_id(record), seed): record
        for seed in spec.seeds
        for record in attribute.records[: spec.prompts]
    }


def trace_units(spec: SweepSpec, resolved: Resolved, traced: Collection[Pair], first_order: int) -> list[TraceUnit]:
    """Cuts what is not traced yet into units of about the length of a sweep's.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        traced: what is there.
        first_order: number behind the last planned unit.
    """
    units, wanted = list[TraceUnit](), methods(spec)
    for model in resolved.models:
        for attribute in resolved.attributes:
            for method in wanted:
                pairs = wanted_pairs(spec, model.id, attribute, method)
                batch, images, each = _shape(spec, model, method, len(pairs))
                seconds = model.seconds_per_image * spec.generation.steps / 50
                left = [(record, pair[-1]) for pair, record in pairs.items() if pair not in traced]
                for start in range(0, len(left), each):
                    items = tuple(left[start : start + each])
                    drawn = images * len(items)
                    units.append(
                        TraceUnit(
                            _name(spec, model, attribute, method, items), model.id, attribute,
                            first_order + len(units), seconds * drawn, method, items, batch, drawn,
                        )
                    )  # fmt: skip
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
        images, seconds = sum(unit.images for unit in units), sum(unit.expected_seconds for unit in units)
        return Count(len(units), images, 0, seconds)
    total = Count()
    for model in resolved.models:
        for attribute in resolved.attributes:
            pairs = len({prompt_id(record) for record in attribute.records[: spec.prompts]}) * len(spec.seeds)
            for method in methods(spec):
                _, images, each = _shape(spec, model, method, pairs)
                seconds = model.seconds_per_image * spec.generation.steps / 50
                total += Count(math.ceil(pairs / each), images * pairs, 0, seconds * images * pairs)
    return total


def _shape(spec: SweepSpec, model: ResolvedModel, method: Method, pairs: int) -> tuple[int, int, int]:
    """Returns rows a batch, images a prompt and seed, and prompts and seeds a unit."""
    seconds, most = model.seconds_per_image * spec.generation.steps / 50, batch_size(spec, model)
    if method == "attention_contribution":
        batch = math.ceil(pairs / math.ceil(pairs / most))
        return batch, 1, batch * max(1, int(UNIT_SECONDS / (seconds * batch)))
    # Corrupted, and every layer restored; each batch has a clean row of its own.
    rows = 1 + model.n_sites + model.encoder_layers
    batches = math.ceil(rows / max(1, most - 1))
    return 1 + math.ceil(rows / batches), rows + batches, max(1, int(UNIT_SECONDS / (seconds * (rows + batches))))


def _name(
    spec: SweepSpec, model: ResolvedModel, attribute: Attribute, method: Method, items: tuple[tuple[Any, int], ...]
) -> str:
    parts = tuple(f"{seed} {item.prompt}\n{item.donor}\n{item.score_text}\n{item.donor_text}" for item, seed in items)
    return identity.unit_id(identity.UnitKey(sweep_id(spec), "trace", model.id, attribute.key, (method, *parts)))
