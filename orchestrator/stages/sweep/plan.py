"""From a resolved sweep and what is planned already to units of work: pure, and the same on every machine.

A unit is a slice of the cell variants of one block (see `orchestrator.stages.sweep.variants`), in batches of the size
that the block's clean image has, so that every difference is taken on one device in one batch shape. Units are numbered
once and never resized. A plan is one row per unit: nothing here counts cells one by one, and blocks that are alike are
cut once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loco_core.localization.base import Request
from loco_core.types import Attribute, PromptRecord
from orchestrator import identity
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import LEAST_UNITS, Count, images_in, short_seconds, sweep_id
from orchestrator.stages.sweep.cuts import Cut, cut
from orchestrator.stages.sweep.planned import EMPTY, PLAN_SCHEMA, Integers, Plan, Prompt, number_sets, spread
from orchestrator.stages.sweep.variants import (
    ModelAttribute,
    Variants,
    described,
    prompt_id,
    requested,
    spans,
    whole_grid,
)

# How many other contents a clean image is compared with, to know what unrelated content scores.
UNRELATED_TEXTS = 8


@dataclass(frozen=True)
class _Missing:
    """What is to be done for one (model, attribute).

    Attributes:
        kinds: what may be missing of a block, with a record of such blocks; the first one is nothing.
        kind: number of the kind of each block, by seed and prompt.
    """

    model: ResolvedModel
    attribute: Attribute
    records: tuple[PromptRecord, ...]
    kinds: tuple[tuple[Variants, PromptRecord], ...]
    kind: Integers

    @property
    def times(self) -> list[int]:
        """How many blocks there are of each kind."""
        return [int(times) for times in np.bincount(self.kind.ravel(), minlength=len(self.kinds))]


@dataclass(frozen=True)
class _Drafts:
    """The same, cut: units of each kind of block."""

    missing: _Missing
    shapes: tuple[tuple[Cut, ...], ...]


# The sets of variants that blocks have, by (model, attribute): the sets, and the number of the set of each block, by
# seed and prompt. Set 0 is the empty one.
_Sets = tuple[list[Variants], Integers]


def plan(
    spec: SweepSpec,
    resolved: Resolved,
    known: Plan = EMPTY,
    *,
    requests: Mapping[ModelAttribute, Sequence[Request]] | None = None,
) -> Plan:
    """Plans every cell that is not planned yet.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        known: what is planned already.
        requests: what is wanted of which (model, attribute), instead of the whole grid; nothing of those not named.

    Returns:
        units in order: model by model, attribute by attribute, seeds outside prompts, so that an interrupted sweep
        holds whole seeds.
    """
    return _built(spec, resolved, _cut(spec, _missing(spec, resolved, known, requests)), known.next_order, 0)


def count(
    spec: SweepSpec,
    resolved: Resolved,
    known: Plan = EMPTY,
    *,
    requests: Mapping[ModelAttribute, Sequence[Request]] | None = None,
) -> Count:
    """Counts what `plan` would plan; a million seeds are counted as quickly as one."""
    total = Count()
    for drafts in _cut(spec, _missing(spec, resolved, known, requests)):
        for times, cuts in zip(drafts.missing.times, drafts.shapes, strict=True):
            total += sum((each.count for each in cuts), Count()) * times
    return total


def counted(units: Plan) -> Count:
    """Returns what planned units are, taken together."""
    images, cells, seconds = (units.column(name).sum() for name in ("images", "cells", "expected_seconds"))
    again = units.column("batch_size")[~units.column("leads")].sum()
    return Count(len(units), int(images), int(cells), float(seconds), int(again))


def plan_again(spec: SweepSpec, resolved: Resolved, failed: Plan, waiting: Plan, order: int, round_: int) -> Plan:
    """Plans cells that failed once more, whoever asked for them, in the blocks that the sweep has.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        failed: the cells, as units of any size.
        waiting: planned units that are to be run yet: what they hold is not planned again.
        order: number of the first new unit.
        round_: which retry this is, from 1: the units have names of their own.
    """

    def missing() -> Iterator[_Missing]:
        for model, attribute, records in _named(spec, resolved):
            wanted = _sets_of(failed, spec, model, attribute, records)
            yield _not_planned(spec, model, attribute, records, wanted, waiting)

    return _built(spec, resolved, _cut(spec, missing()), order, round_)


def _missing(
    spec: SweepSpec, resolved: Resolved, known: Plan, requests: Mapping[ModelAttribute, Sequence[Request]] | None
) -> Iterator[_Missing]:
    for model, attribute, records in _named(spec, resolved):
        shape = (len(spec.seeds), len(records))
        if requests is None:
            wanted: _Sets = [(), whole_grid(spec, model.n_sites)], np.ones(shape, np.int32)
        elif asked := requests.get((model.id, attribute.key), ()):
            wanted = _requested(spec, model, asked, shape)
        else:
            continue
        yield _not_planned(spec, model, attribute, records, wanted, known)


def _named(spec: SweepSpec, resolved: Resolved) -> Iterator[tuple[ResolvedModel, Attribute, tuple[PromptRecord, ...]]]:
    for model in resolved.models:
        for attribute in resolved.attributes:
            yield model, attribute, attribute.records[: spec.prompts]


def _requested(spec: SweepSpec, model: ResolvedModel, asked: Sequence[Request], shape: tuple[int, int]) -> _Sets:
    matrix, number = np.zeros(shape, np.int32), dict[Variants, int]({(): 0})
    known: dict[tuple[Request, ...], Variants] = {}
    for prompt in range(shape[1]):
        for start, end, requests in spans(spec, asked, prompt):
            if requests not in known:
                known[requests] = requested(spec, model.n_sites, requests)
            matrix[start:end, prompt] = number.setdefault(known[requests], len(number))
    return list(number), matrix


def _sets_of(
    units: Plan, spec: SweepSpec, model: ResolvedModel, attribute: Attribute, records: Sequence[PromptRecord]
) -> _Sets:
    """Returns which variants units hold of the blocks of one (model, attribute) that the sweep has."""
    matrix = np.zeros((len(spec.seeds), len(records)), np.int32)
    rows = units.rows_of(model.id, attribute.key)
    if not len(rows):
        return [()], matrix
    prompts = units.places(attribute.key, records)[units.column("prompt")[rows]]
    seeds = np.array(spec.seeds, np.int64)
    order = np.argsort(seeds, kind="stable")
    found = np.minimum(np.searchsorted(seeds, units.column("seed")[rows], sorter=order), len(seeds) - 1)
    places = order[found]
    inside = (seeds[places] == units.column("seed")[rows]) & (prompts >= 0)
    blocks, numbers, sets = number_sets((places * len(records) + prompts)[inside], units.scoring(rows)[inside])
    matrix.ravel()[blocks] = numbers + 1
    return [(), *(units.variants_of(each) for each in sets)], matrix


def _not_planned(
    spec: SweepSpec,
    model: ResolvedModel,
    attribute: Attribute,
    records: tuple[PromptRecord, ...],
    wanted: _Sets,
    known: Plan,
) -> _Missing:
    """Returns what is wanted and not planned: once for all blocks of which the same is wanted and the same planned."""
    planned = _sets_of(known, spec, model, attribute, records)
    # How many images a block has depends on whether its two prompts differ.
    alike = np.array([record.prompt == record.donor for record in records], np.int64)
    pairs = (wanted[1].astype(np.int64) * len(planned[0]) + planned[1]) * 2 + alike
    codes, number = np.unique(pairs, return_inverse=True)
    nothing = ((), records[0])
    kinds = {nothing: 0}
    numbers = []
    for code in codes.tolist():
        there = set(planned[0][code // 2 % len(planned[0])])
        missing = tuple(variant for variant in wanted[0][code // 2 // len(planned[0])] if variant not in there)
        record = records[int(np.flatnonzero(alike == code % 2)[0])]
        numbers.append(kinds.setdefault((missing, record) if missing else nothing, len(kinds)))
    matrix = np.array(numbers, np.int32)[number.reshape(pairs.shape)]
    # A record that is there twice is one block.
    texts = [_texts(record) for record in records]
    matrix[:, [text in texts[:i] for i, text in enumerate(texts)]] = 0
    return _Missing(model, attribute, records, tuple(kinds), matrix)


def _cut(spec: SweepSpec, missing: Iterator[_Missing]) -> Iterator[_Drafts]:
    """Cuts all that is missing into units: as long as the spec allows, but not so long that there are few of them."""
    every = list(missing)
    seconds = sum(
        len(variants) * times / images_in(1.0, spec, each.model)
        for each in every
        for times, (variants, _) in zip(each.times, each.kinds, strict=True)
    )
    longest = min(spec.generation.unit_seconds, max(short_seconds(spec), seconds / LEAST_UNITS))
    for each in every:
        shapes = (tuple(cut(spec, each.model, *kind, longest)) if kind[0] else () for kind in each.kinds)
        yield _Drafts(each, tuple(shapes))


def _built(spec: SweepSpec, resolved: Resolved, drafts: Iterator[_Drafts], order: int, round_: int) -> Plan:
    """Writes out the units of all blocks, in columns."""
    prompts = dict[Prompt, int]()
    slices = dict[Variants, int]()
    tables, sweep = [PLAN_SCHEMA.empty_table()], sweep_id(spec)
    seeds = np.array(spec.seeds, np.int64)
    for drafts_of in drafts:
        draft, shapes = drafts_of.missing, drafts_of.shapes
        cuts = [cut for shape in shapes for cut in shape]
        if not draft.kind.any():
            continue
        block, cut = spread(np.array([len(shape) for shape in shapes]), draft.kind.ravel())
        place, seed = block % len(draft.records), seeds[block // len(draft.records)]
        named = [prompts.setdefault(_prompt(draft.attribute, record), len(prompts)) for record in draft.records]
        held = [slices.setdefault(each.variants, len(slices)) for each in cuts]

        def of(take: Callable[[Cut], float], kind: str, cuts: list[Cut] = cuts, cut: Integers = cut) -> Any:
            return pa.array(np.array([take(each) for each in cuts], kind)[cut])

        columns = {
            "unit_id": _unit_ids(draft, (sweep, resolved.scorer.weights), cuts, round_, (place, cut, seed)),
            "unit_order": pa.array(np.arange(order, order + len(block))),
            "round": pa.array(np.full(len(block), round_, np.int32)),
            "model": _repeated(draft.model.id, len(block)),
            "attribute": _repeated(draft.attribute.key, len(block)),
            "prompt": pa.array(np.array(named, np.int32)[place]),
            "seed": pa.array(seed),
            "slice": pa.array(np.array(held, np.int32)[cut]),
            "clean": of(lambda each: each.clean, "bool"),
            "donor": of(lambda each: each.donor, "bool"),
            "leads": of(lambda each: each.leads, "bool"),
            "cells": of(lambda each: each.cells, "int32"),
            "images": of(lambda each: each.images, "int32"),
            "batch_size": of(lambda each: each.batch_size, "int32"),
            "expected_seconds": of(lambda each: each.seconds, "float64"),
        }
        tables.append(pa.table(columns, schema=PLAN_SCHEMA))
        order += len(block)
    return Plan(pa.concat_tables(tables), tuple(prompts), tuple(slices))


def _unit_ids(
    draft: _Missing,
    sweep: tuple[str, str],
    cuts: Sequence[Cut],
    round_: int,
    units: tuple[Integers, Integers, Integers],
) -> Any:
    """Names units by what they are: a hash of weights, prompt, cut and seed each, without naming their cells.

    Args:
        draft: what is to be done for their (model, attribute).
        sweep: identity of the sweep, and hash of the scorer's weights.
        cuts: cuts of the draft.
        round_: which retry this is.
        units: number of the prompt, number of the cut, and seed of each.
    """
    prompts, cut, seeds = units
    digests = np.empty((len(seeds), 32), np.uint8)
    alike = prompts * len(cuts) + cut
    order = np.argsort(alike, kind="stable")
    texts = [described(each.variants) for each in cuts]
    for rows in np.split(order, np.flatnonzero(np.diff(alike[order])) + 1):
        record, at = draft.records[prompts[rows[0]]], cut[rows[0]]
        # With other weights it is another unit: a worker of a run before must not commit it for this one.
        made_with = draft.model.weights_id, sweep[1]
        items = (*made_with, *_texts(record), texts[at], f"{cuts[at].clean} {cuts[at].donor}")
        key = identity.UnitKey(sweep[0], "sweep", draft.model.id, draft.attribute.key, items, round_)
        found = identity.unit_digests(key, seeds[rows].tolist())
        digests[rows] = np.frombuffer(found, np.uint8).reshape(-1, 32)
    return _hex(digests)


_HEX = np.frombuffer(b"".join(b"%02x" % i for i in range(256)), "<u2")


def _hex(digests: NDArray[np.uint8]) -> Any:
    """Writes digests as 64 hex digits each, without a Python object per digest."""
    offsets = np.arange(0, 64 * len(digests) + 1, 64, dtype=np.int32)
    digits = np.ascontiguousarray(_HEX[digests])
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets.data), pa.py_buffer(digits.data))


def _repeated(text: str, times: int) -> Any:
    return pa.DictionaryArray.from_arrays(np.zeros(times, np.int16), pa.array([text]))


def _texts(record: PromptRecord) -> tuple[str, ...]:
    texts = (record.score_text, record.donor_text, record.content_text)
    return record.prompt, record.donor, *texts, *record.siblings


def _prompt(attribute: Attribute, record: PromptRecord) -> Prompt:
    contents = dict.fromkeys(r.content_text for r in attribute.records if r.content_text != record.content_text)
    unrelated = tuple(contents)[:UNRELATED_TEXTS]
    return Prompt(attribute.key, attribute.kind, attribute.mode, prompt_id(record), record, unrelated)
