"""A plan in columns, one row per unit, and what a worker is sent of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loco_core.types import Mode, PromptRecord
from orchestrator.stages.sweep.variants import BASELINES, CellVariant, Variants

Integers = NDArray[np.integer[Any]]

_NAMED: pa.DataType = pa.dictionary(pa.int16(), pa.string())
_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("unit_id", pa.string()), ("unit_order", pa.int64()), ("round", pa.int32()), ("model", _NAMED),
    ("attribute", _NAMED), ("prompt", pa.int32()), ("seed", pa.int64()), ("slice", pa.int32()),
    ("clean", pa.bool_()), ("donor", pa.bool_()), ("leads", pa.bool_()), ("cells", pa.int32()),
    ("images", pa.int32()), ("batch_size", pa.int32()), ("expected_seconds", pa.float64()),
]  # fmt: skip
PLAN_SCHEMA = pa.schema(_COLUMNS)
"""Columns of a plan. ``prompt`` and ``slice`` are numbers in lists that are stored once per file; ``clean`` and
``donor`` say whether these images are scored by this unit, ``leads`` whether the clean one is in its batches, ``cells``
how many are scored, and ``images`` how many its batches draw; ``round`` is 0, or which retry asked for the unit."""


@dataclass(frozen=True)
class Prompt:
    """A prompt record with what its attribute says of it.

    Attributes:
        attribute: key of the attribute.
        attribute_kind: kind of the attribute.
        mode: of the attribute.
        prompt_id: short name of the record.
        record: the texts.
        unrelated: contents of other records, with which the clean image is compared.
    """

    attribute: str
    attribute_kind: str
    mode: Mode
    prompt_id: str
    record: PromptRecord
    unrelated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SweepUnit:
    """What a worker computes a unit from.

    Attributes:
        unit_id: name of the unit.
        model: id of the model.
        prompt: texts of the block.
        seed: seed of the block.
        variants: what is scored beside the baselines.
        clean: whether the clean image is scored by this unit.
        donor: whether the donor image is.
        leads: whether the clean image is drawn in the batches of this unit. Of other units the worker has it from one
            before, or draws it in a batch of its own.
        batch_size: rows per forward pass, at most those of the spec; the same of all units that are cut together.
    """

    unit_id: str
    model: str
    prompt: Prompt
    seed: int
    variants: Variants
    clean: bool
    donor: bool
    leads: bool
    batch_size: int

    @property
    def block(self) -> str:
        """Name of what units of a model have in common whose clean image is the same, bit for bit."""
        return f"{self.prompt.prompt_id} {self.seed} {self.batch_size}"

    @property
    def attribute(self) -> str:
        """Key of the attribute."""
        return self.prompt.attribute

    @property
    def scored(self) -> Variants:
        """The variants that become scores, in the order of the unit's cells."""
        return scored(self.variants, self.clean, self.donor)


def scored(variants: Variants, clean: bool, donor: bool) -> Variants:
    """Returns what a unit scores, in order: the baselines that are its own, and its slice."""
    own = (variant for variant, emitted in zip(BASELINES, (clean, donor), strict=True) if emitted)
    return (*own, *variants)


@dataclass(frozen=True)
class Plan:
    """Units in columns.

    Attributes:
        units: one row per unit, see `PLAN_SCHEMA`.
        prompts: what the numbers in ``prompt`` stand for.
        slices: what those in ``slice`` do: variants beside the baselines.
    """

    units: pa.Table
    prompts: tuple[Prompt, ...]
    slices: tuple[Variants, ...]

    def __len__(self) -> int:
        """Returns how many units there are."""
        return int(self.units.num_rows)

    def __add__(self, other: Plan) -> Plan:
        """Returns the units of both, in their order."""
        return joined([self, other])

    @property
    def next_order(self) -> int:
        """Number behind the last unit."""
        return int(self.column("unit_order").max()) + 1 if len(self) else 0

    @property
    def unit_ids(self) -> list[str]:
        """Names of the units, in their order."""
        return [str(name) for name in self.units["unit_id"].to_pylist()]

    def column(self, name: str) -> NDArray[Any]:
        """Returns a column of numbers; of names the numbers of the names, see `names`."""
        column = self.units[name].combine_chunks()
        if isinstance(column, pa.DictionaryArray):
            column = column.indices
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def names(self, name: str) -> list[str]:
        """Returns what the numbers of a column of names stand for."""
        column = self.units[name].combine_chunks()
        return [str(name) for name in column.dictionary.to_pylist()] if isinstance(column, pa.DictionaryArray) else []

    def seconds_by_model(self) -> dict[str, float]:
        """Returns the expected seconds of the units of each model."""
        if not len(self):
            return {}
        names = self.names("model")
        sums = np.bincount(self.column("model"), self.column("expected_seconds"), len(names))
        return {name: float(seconds) for name, seconds in zip(names, sums, strict=True) if seconds}

    def numbered(self, first: int) -> Plan:
        """Returns the units with other places in the plan, one after another.

        Args:
            first: number of the first one.
        """
        return self.with_columns({"unit_order": np.arange(first, first + len(self))})

    def with_columns(self, columns: Mapping[str, NDArray[Any]]) -> Plan:
        """Returns the units with other numbers in some columns."""
        units = self.units
        for name, values in columns.items():
            field = PLAN_SCHEMA.field(name)
            array: Any = pa.array(values, field.type)
            units = units.set_column(units.schema.get_field_index(name), field, array)
        return replace(self, units=units)

    def take(self, rows: NDArray[Any]) -> Plan:
        """Returns some units: those of these numbers, or those where a flag is set."""
        at = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return replace(self, units=self.units.take(at).combine_chunks())

    def without(self, unit_ids: Iterable[str]) -> Plan:
        """Returns the units of other names, in their order."""
        return replace(self, units=self.units.filter(pc.invert(self._named(unit_ids))).combine_chunks())

    def with_ids(self, unit_ids: Iterable[str]) -> Plan:
        """Returns the units of these names, in their order."""
        return replace(self, units=self.units.filter(self._named(unit_ids)).combine_chunks())

    def _named(self, unit_ids: Iterable[str]) -> Any:
        return pc.is_in(self.units["unit_id"], pa.array(list(unit_ids), pa.string()))

    @cached_property
    def _rows(self) -> dict[tuple[str, str], Integers]:
        if not len(self):
            return {}
        models, attributes = self.names("model"), self.names("attribute")
        code = self.column("model").astype(np.int64) * len(attributes) + self.column("attribute")
        order = np.argsort(code, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(code[order])) + 1)
        return {
            (models[code[rows[0]] // len(attributes)], attributes[code[rows[0]] % len(attributes)]): rows
            for rows in groups
        }

    @cached_property
    def _records(self) -> Integers:
        """For every prompt the number of the first one of the same texts: lost plans tell less of a prompt."""
        first: dict[tuple[str, ...], int] = {}
        for i, prompt in enumerate(self.prompts):
            for key in _keys(prompt.record):
                first.setdefault((prompt.attribute, *key), i)
        return np.array([first[prompt.attribute, *_keys(prompt.record)[-1]] for prompt in self.prompts], np.int64)

    @property
    def model_attributes(self) -> list[tuple[str, str]]:
        """The (model, attribute) pairs that have units, sorted."""
        return sorted(self._rows)

    def rows_of(self, model: str, attribute: str) -> Integers:
        """Returns the numbers of the units of one (model, attribute), in their order."""
        return self._rows.get((model, attribute), np.empty(0, np.int64))

    def places(self, attribute: str, records: Sequence[PromptRecord]) -> Integers:
        """Returns, for every prompt of the plan, its place among records; -1 for those that are none of them.

        A prompt whose score texts nobody knows, see `orchestrator.stages.sweep.stored`, is told by the rest.
        """
        place: dict[tuple[str, ...], int] = {}
        for i, record in enumerate(records):
            for key in _keys(record):
                place.setdefault(key, i)
        found = [
            place.get(_keys(prompt.record)[-1], -1) if prompt.attribute == attribute else -1 for prompt in self.prompts
        ]
        return np.array(found, np.int64)

    def variants_of(self, held: Iterable[int]) -> Variants:
        """Returns what slices hold together, each variant once.

        Args:
            held: numbers of `scoring`.
        """
        return tuple(dict.fromkeys(variant for each in held for variant in self.scored_by(each)))

    def scoring(self, rows: Integers | slice = slice(None)) -> Integers:
        """Returns what units score, as a number that `scored_by` reads: the slice, and which baselines."""
        found: Integers = self.column("slice")[rows] * 4 + self.column("clean")[rows] * 2 + self.column("donor")[rows]
        return found

    def scored_by(self, scoring: int) -> Variants:
        """Returns the variants that units score which have this number in `scoring`, in their order."""
        return scored(self.slices[scoring // 4], bool(scoring // 2 % 2), bool(scoring % 2))

    def cells_of(self, model: str, attribute: str) -> int:
        """Returns how many different cells are planned of one (model, attribute): a retry plans cells again."""
        rows = self.rows_of(model, attribute)
        if not self.column("round")[rows].any():
            return int(self.column("cells")[rows].sum())
        held = self.scoring(rows)
        seeds, seed = np.unique(self.column("seed")[rows], return_inverse=True)
        prompt = self._records[self.column("prompt")[rows]]
        _, numbers, sets = number_sets(prompt * len(seeds) + seed, held)
        sizes = np.array([len(self.variants_of(each)) for each in sets])
        return int(sizes[numbers].sum())

    def payloads(self) -> list[SweepUnit]:
        """Returns what workers compute the units from."""
        names = ("unit_id", "model", "prompt", "seed", "slice", "clean", "donor", "leads", "batch_size")
        columns = [self.units[name].to_pylist() for name in names]
        return [
            SweepUnit(unit, model, self.prompts[prompt], seed, self.slices[part], clean, donor, leads, batch)
            for unit, model, prompt, seed, part, clean, donor, leads, batch in zip(*columns, strict=True)
        ]

    def to_table(self) -> pa.Table:
        """Returns the content of a plan file: the units, and in its metadata the lists that their numbers are of."""
        variants: dict[CellVariant, int] = {}
        slices = [[variants.setdefault(each, len(variants)) for each in part] for part in self.slices]
        lists = {
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "variants": [variant.to_json() for variant in variants],
            "slices": slices,
        }
        return self.units.replace_schema_metadata({_LISTS: json.dumps(lists)})


def _keys(record: PromptRecord) -> list[tuple[str, ...]]:
    """Returns by what a record is told from others: by what is drawn, and, where they are known, all texts."""
    texts = (record.score_text, record.donor_text, record.content_text, *record.siblings)
    drawn = (record.prompt, record.donor)
    return [drawn, (*drawn, *texts)] if any(texts) else [drawn]


EMPTY = Plan(pa.Table.from_batches([], PLAN_SCHEMA), (), ())
_LISTS = b"loco_sweep_plan"


def from_table(table: pa.Table) -> Plan:
    """Returns the plan that `Plan.to_table` wrote."""
    lists = json.loads((table.schema.metadata or {})[_LISTS])
    variants = [CellVariant.from_json(values) for values in lists["variants"]]
    prompts = tuple(
        Prompt(**{**values, "record": _record(values["record"]), "unrelated": tuple(values["unrelated"])})
        for values in lists["prompts"]
    )
    slices = tuple(tuple(variants[number] for number in part) for part in lists["slices"])
    return Plan(table.replace_schema_metadata(None), prompts, slices)


def _record(values: Mapping[str, Any]) -> PromptRecord:
    # Plans of an older version say no siblings.
    return PromptRecord(**{**values, "siblings": tuple(values.get("siblings", ()))})


def joined(plans: Sequence[Plan]) -> Plan:
    """Returns the units of several plans, in their order; prompts and slices that several have are held once."""
    prompts, slices = dict[Prompt, int](), dict[Variants, int]()
    tables = [PLAN_SCHEMA.empty_table()]
    for plan in plans:
        prompt = np.array([prompts.setdefault(each, len(prompts)) for each in plan.prompts], np.int32)
        part = np.array([slices.setdefault(each, len(slices)) for each in plan.slices], np.int32)
        if len(plan):
            numbers = {"prompt": prompt[plan.column("prompt")], "slice": part[plan.column("slice")]}
            tables.append(plan.with_columns(numbers).units)
    return Plan(pa.concat_tables(tables).unify_dictionaries().combine_chunks(), tuple(prompts), tuple(slices))


def spread(lengths: Integers, which: Integers) -> tuple[Integers, Integers]:
    """Writes out lists that lie behind each other in one array, as often as they are named.

    Args:
        lengths: length of each list.
        which: numbers of lists, which may repeat.

    Returns:
        for every item of ``which``'s lists: its place in ``which``, and its place in the array.
    """
    counts = lengths[which]
    owner = np.repeat(np.arange(len(which)), counts)
    first = (np.cumsum(lengths) - lengths)[which] - (np.cumsum(counts) - counts)
    return owner, first[owner] + np.arange(len(owner))


def number_sets(places: Integers, items: Integers) -> tuple[Integers, Integers, list[tuple[int, ...]]]:
    """Numbers the different sets of items that places have.

    Args:
        places: place of each item.
        items: the items, numbers.

    Returns:
        the places that have any, in order; the number of the set of each; and the sets, each in ascending order.
    """
    order = np.lexsort((items, places))
    place, item = places[order], items[order].astype(np.int64)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    known: dict[bytes, int] = {}
    spans = pairwise([*starts.tolist(), len(item)])
    numbers = [known.setdefault(item[start:end].tobytes(), len(known)) for start, end in spans]
    sets = [tuple(np.frombuffer(each, np.int64).tolist()) for each in known]
    return place[starts], np.array(numbers, np.int64), sets
