"""From a resolved sweep and what exists to units of work: pure, and the same on every machine.

A unit is a slice of one (model, attribute, prompt record, seed) block. It generates its own clean and donor images, so
that every difference is taken on one device in one batch shape. Units are numbered once and never resized.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from loco_core.localizers import Grid, Request
from loco_core.types import Attribute, Control, Generation, Intervention, PromptRecord, Row, Window
from orchestrator import identity
from orchestrator.resolve import Resolved, ResolvedModel
from orchestrator.spec import SweepSpec
from orchestrator.spec.places import name_of

# How long a unit should take on the slowest device: short enough to lose one to a preempted machine without regret.
UNIT_SECONDS = 30.0
# How many other contents a clean image is compared with, to know what unrelated content scores.
UNRELATED_TEXTS = 8
READ_ROWS = 10_000
GUESSED_BATCH = 8
CELL_KEY = ["model", "attribute", "control", "window_start", "window_size", "cell_id"]
"""Columns that make a row of the plan, of ``scores`` or of ``failures`` one of a kind."""


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One cell of the plan, and where it is computed.

    Attributes:
        unit_id: the unit that computes it.
        unit_order: where the unit stands in the plan.
        row: where the cell stands in the unit.
        emit: whether the cell becomes a score; a unit's clean and donor images are generated again in every slice of a
            block, but scored once.
        expected_seconds: of the whole unit.
        batch_size: rows a forward pass, at most those of the spec; frozen here.

    All others are columns of ``scores``.
    """

    unit_id: str
    unit_order: int
    row: int
    emit: bool
    expected_seconds: float
    batch_size: int
    cell_id: str
    image_id: str
    model: str
    attribute: str
    attribute_kind: str
    mode: str
    prompt_id: str
    template_id: str
    prompt: str
    donor: str
    score_text: str
    donor_text: str
    content_text: str
    unrelated_texts: tuple[str, ...]
    control: Control
    window_start: int | None
    window_size: int | None
    site_indices: tuple[int, ...]
    part: str
    step_start: int
    step_end: int
    tokens: str
    guidance_half: str
    pooled: str
    seed: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes the row one of a kind: the cell and the labels under which it is counted."""
        return tuple(getattr(self, name) for name in CELL_KEY)

    @property
    def intervention(self) -> Intervention:
        """The intervention of the cell."""
        return Intervention(
            self.site_indices,
            self.part,  # type: ignore[arg-type]
            self.step_start,
            self.step_end,
            self.tokens,  # type: ignore[arg-type]
            self.guidance_half,  # type: ignore[arg-type]
            self.pooled,  # type: ignore[arg-type]
        )

    @property
    def engine_row(self) -> Row:
        """What the engine generates."""
        donor = self.prompt if self.control == "identity" else self.donor
        prompt = self.donor if self.control == "donor" else self.prompt
        return Row(prompt, donor, self.seed, self.intervention)


@dataclass(frozen=True)
class PlannedUnit:
    """A unit with its rows; what a worker is sent."""

    kind: ClassVar[Literal["sweep"]] = "sweep"
    unit_id: str
    model: str
    attribute: str
    order: int
    expected_seconds: float
    rows: tuple[PlannedRow, ...]


Block = tuple[str, str]
"""Model and attribute."""


@dataclass(frozen=True)
class _Draft:
    """A cell before it has a prompt, a seed and a unit: its control, its window and its intervention."""

    control: Control
    window: Window | None
    intervention: Intervention


@dataclass(frozen=True)
class _Drafts:
    """What is wanted of one (model, attribute): some drafts on all prompts and seeds, others on the first few."""

    everywhere: tuple[_Draft, ...]
    requested: tuple[tuple[Request, tuple[_Draft, ...]], ...]

    def of(self, prompt: int, seed: int) -> list[_Draft]:
        """Drafts of one prompt and seed, each once."""
        found = dict.fromkeys(self.everywhere)
        for request, drafts in self.requested:
            if (request.prompts is None or prompt < request.prompts) and (
                request.seeds is None or seed < request.seeds
            ):
                found |= dict.fromkeys(drafts)
        return list(found)


_PLAN_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("unit_id", pa.string()), ("unit_order", pa.int64()), ("row", pa.int32()), ("emit", pa.bool_()),
    ("expected_seconds", pa.float64()), ("batch_size", pa.int32()), ("cell_id", pa.string()),
    ("image_id", pa.string()),
    ("model", pa.string()), ("attribute", pa.string()), ("attribute_kind", pa.string()), ("mode", pa.string()),
    ("prompt_id", pa.string()), ("template_id", pa.string()), ("prompt", pa.string()), ("donor", pa.string()),
    ("score_text", pa.string()), ("donor_text", pa.string()), ("content_text", pa.string()),
    ("unrelated_texts", pa.list_(pa.string())), ("control", pa.string()), ("window_start", pa.int32()),
    ("window_size", pa.int32()), ("site_indices", pa.list_(pa.int32())), ("part", pa.string()),
    ("step_start", pa.int32()), ("step_end", pa.int32()), ("tokens", pa.string()), ("guidance_half", pa.string()),
    ("pooled", pa.string()),
    ("seed", pa.int64()),
]  # fmt: skip
PLAN_SCHEMA = pa.schema(_PLAN_COLUMNS)


def sweep_id(spec: SweepSpec) -> str:
    """Returns the identity of a sweep; its axes are not part of it."""
    return identity.sweep_id(identity.SweepKey(spec.name, spec.generation.settings, name_of(spec.scorer)))


def batch_size(spec: SweepSpec, model: ResolvedModel) -> int:
    """Returns rows a forward pass of a model; a guess where they are to be measured and were not yet."""
    size = spec.generation.batch_size
    return size if isinstance(size, int) else model.probed_batch or GUESSED_BATCH


def windows(spec: SweepSpec, n_sites: int) -> tuple[Window, ...]:
    """Returns the windows of a model, by size and start."""
    return tuple(
        Window(start, size)
        for size in spec.sizes(n_sites)
        for start in range(0, n_sites - size + 1, spec.windows.stride)
    )


def grid(spec: SweepSpec, attribute: Attribute, n_sites: int) -> Grid:
    """Returns everything that a localizer may ask for of one (model, attribute)."""
    prompts = tuple(prompt_id(record) for record in attribute.records[: spec.prompts])
    return Grid(n_sites, windows(spec, n_sites), prompts, spec.seeds)


def plan(
    spec: SweepSpec,
    resolved: Resolved,
    planned: Collection[tuple[Any, ...]] = (),
    *,
    requests: Mapping[Block, Sequence[Request]] | None = None,
    only: Collection[tuple[Any, ...]] | None = None,
    first_order: int = 0,
    round_: int = 0,
) -> list[PlannedUnit]:
    """Plans every cell that is not planned yet.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        planned: keys of rows that earlier plan files hold.
        requests: what is wanted of which (model, attribute), instead of the whole grid; nothing of those not named.
        only: keys of rows to plan, out of these; None plans them all.
        first_order: number of units already planned.
        round_: 0, or which retry this is.

    Returns:
        units in order: model by model, attribute by attribute, seeds outside prompts, so that an interrupted sweep
        holds whole seeds.
    """
    done, order, units = set(planned), first_order, []
    for model in resolved.models:
        for attribute in resolved.attributes:
            if requests is None:
                drafts = _Drafts(_whole_grid(spec, model.n_sites), ())
            else:
                drafts = _requested(spec, model.n_sites, requests.get((model.id, attribute.key), ()))
            for at, seed in enumerate(spec.seeds):
                for number, record in enumerate(attribute.records[: spec.prompts]):
                    wanted = drafts.of(number, at)
                    if not wanted:
                        continue
                    block = _block(spec, resolved, model, attribute, record, seed, [*_ANCHORS, *wanted])
                    for rows in _slices(spec, model, block, done, only):
                        units.append(_unit(spec, model, attribute, rows, order, round_))
                        order += 1
    return units


_ANCHORS = (_Draft("clean", None, Intervention()), _Draft("donor", None, Intervention()))


def _whole_grid(spec: SweepSpec, n_sites: int) -> tuple[_Draft, ...]:
    swept = windows(spec, n_sites)
    drafts = _references(spec, n_sites)
    for option in spec.interventions:
        drafts += [_Draft("window", window, option.at(window.sites)) for window in swept]
        drafts += [
            _Draft("random", Window(-1, size), option.at(sites))
            for size in spec.sizes(n_sites)
            for sites in random_sites(n_sites, size, spec.controls.random)
        ]
    if spec.controls.complement:
        drafts += [_complement(spec, window, n_sites) for window in swept if window.size < n_sites]
    return tuple(drafts)


def _requested(spec: SweepSpec, n_sites: int, requests: Sequence[Request]) -> _Drafts:
    """Drafts of requests; every intervention of the spec is run at a requested window, as in the whole grid."""
    found = []
    for request in requests:
        drafts = _references(spec, n_sites)
        if request.control == "window" and request.window is not None:
            drafts += [_Draft("window", request.window, o.at(request.window.sites)) for o in spec.interventions]
        if request.control == "complement" and request.window is not None and request.window.size < n_sites:
            drafts.append(_complement(spec, request.window, n_sites))
        found.append((request, tuple(drafts)))
    return _Drafts((), tuple(found))


def _references(spec: SweepSpec, n_sites: int) -> list[_Draft]:
    every = tuple(range(n_sites))
    drafts = [_Draft("identity", None, Intervention(every))] if spec.controls.identity else []
    if spec.controls.all_sites:
        drafts += [_Draft("all_sites", None, option.at(every)) for option in spec.interventions]
    return drafts


def _complement(spec: SweepSpec, window: Window, n_sites: int) -> _Draft:
    others = tuple(site for site in range(n_sites) if site not in window.sites)
    return _Draft("complement", window, spec.interventions[0].at(others))


def random_sites(n_sites: int, size: int, count: int) -> list[tuple[int, ...]]:
    """Returns the first ``count`` of a fixed sequence of random site sets, none twice; a larger count only adds.

    There are at most as many as there are sets of that size.
    """
    found: dict[tuple[int, ...], None] = {}
    draws = 0
    while len(found) < min(count, math.comb(n_sites, size)):
        drawn = np.random.default_rng([n_sites, size, draws]).choice(n_sites, size, replace=False)
        found[tuple(sorted(int(s) for s in drawn))] = None
        draws += 1
    return list(found)


def _block(
    spec: SweepSpec,
    resolved: Resolved,
    model: ResolvedModel,
    attribute: Attribute,
    record: PromptRecord,
    seed: int,
    drafts: Sequence[_Draft],
) -> Iterator[PlannedRow]:
    generation, steps = model.generation(spec.generation.settings), spec.generation.steps
    contents = dict.fromkeys(r.content_text for r in attribute.records if r.content_text != record.content_text)
    unrelated, named = tuple(contents)[:UNRELATED_TEXTS], prompt_id(record)
    for draft in drafts:
        does = draft.intervention
        is_random = draft.control == "random"
        row = PlannedRow(
            unit_id="", unit_order=0, row=0, emit=True, expected_seconds=0.0, batch_size=0,
            cell_id="", image_id="", model=model.id, attribute=attribute.key, attribute_kind=attribute.kind,
            mode=attribute.mode, prompt_id=named, template_id=record.template_id, prompt=record.prompt,
            donor=record.donor, score_text=record.score_text, donor_text=record.donor_text,
            content_text=record.content_text, unrelated_texts=unrelated if draft.control == "clean" else (),
            control=draft.control, window_start=draft.window.start if draft.window and not is_random else None,
            window_size=draft.window.size if draft.window else None, site_indices=does.sites, part=does.part,
            step_start=does.step_start, step_end=steps if does.step_end is None else does.step_end, tokens=does.tokens,
            guidance_half=does.guidance_half, pooled=does.pooled, seed=seed,
        )  # fmt: skip
        yield _identified(row, model, resolved, generation)


def prompt_id(record: PromptRecord) -> str:
    """Returns a short name of a prompt record."""
    return identity.safe_name(f"{record.prompt} | {record.donor}")[-12:]


def _identified(row: PlannedRow, model: ResolvedModel, resolved: Resolved, generation: Generation) -> PlannedRow:
    engine = row.engine_row
    drawn = (engine.prompt, engine.donor, engine.seed, engine.intervention, generation)
    image = identity.image_id(identity.ImageKey(model.drawn_with, model.dtype, *drawn, model.engine.bits))
    scorer = resolved.scorer
    cell = identity.cell_id(
        identity.CellKey(image, scorer.name, scorer.weights, row.score_text, row.donor_text, row.content_text)
    )
    return replace(row, image_id=image, cell_id=cell)


def _slices(
    spec: SweepSpec,
    model: ResolvedModel,
    block: Iterator[PlannedRow],
    done: set[tuple[Any, ...]],
    only: Collection[tuple[Any, ...]] | None,
) -> Iterator[list[PlannedRow]]:
    """Cuts what is missing of a block into units, each led by the block's clean and donor images."""
    clean, donor, *rest = block
    missing = [row for row in rest if _wanted(row, done, only)]
    anchors = [replace(row, emit=_wanted(row, done, only)) for row in (clean, donor)]
    if not missing and not any(row.emit for row in anchors):
        return
    seconds = model.seconds_per_image * spec.generation.steps / 50
    # Whole batches, the two anchors included.
    rows = batch_size(spec, model)
    batches = max(1, int(UNIT_SECONDS / seconds / rows))
    size = max(1, batches * rows - len(anchors))
    for start in range(0, max(1, len(missing)), size):
        yield [*anchors, *missing[start : start + size]]
        anchors = [replace(row, emit=False) for row in anchors]


def _wanted(row: PlannedRow, done: set[tuple[Any, ...]], only: Collection[tuple[Any, ...]] | None) -> bool:
    return row.key not in done and (only is None or row.key in only)


def _unit(
    spec: SweepSpec, model: ResolvedModel, attribute: Attribute, rows: list[PlannedRow], order: int, round_: int
) -> PlannedUnit:
    items = tuple(f"{row.cell_id} {row.control} {row.window_start} {row.window_size} {row.emit}" for row in rows)
    name = identity.unit_id(identity.UnitKey(sweep_id(spec), "sweep", model.id, attribute.key, items, round_))
    images = len({row.image_id for row in rows})
    # As few batches as the spec allows, of equal size: a unit of three images must not be filled up to sixty-four.
    batches = math.ceil(images / batch_size(spec, model))
    size = math.ceil(images / batches)
    seconds = images * model.seconds_per_image * spec.generation.steps / 50
    numbered = tuple(
        replace(row, unit_id=name, unit_order=order, row=i, expected_seconds=seconds, batch_size=size)
        for i, row in enumerate(rows)
    )
    return PlannedUnit(name, model.id, attribute.key, order, seconds, numbered)


_FIELDS = tuple(field.name for field in fields(PlannedRow))


def cell_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns the key of a row of ``scores`` or ``failures``; see :attr:`PlannedRow.key`."""
    return tuple(row[name] for name in CELL_KEY)


def to_table(units: Sequence[PlannedUnit]) -> pa.Table:
    """Returns a plan file's content, one row a cell."""
    rows = [row for unit in units for row in unit.rows]
    return pa.table(
        {name: pa.array([getattr(row, name) for row in rows], PLAN_SCHEMA.field(name).type) for name in _FIELDS},
        schema=PLAN_SCHEMA,
    )


def from_table(table: pa.Table) -> list[PlannedUnit]:
    """Returns the units of a plan file."""
    units: dict[str, list[PlannedRow]] = {}
    # A million rows share a few thousand texts; without this each row holds copies of its own.
    once: dict[Any, Any] = {}
    for batch in table.to_batches(max_chunksize=READ_ROWS):
        for values in batch.to_pylist():
            row = PlannedRow(**{name: _shared(name, value, once) for name, value in values.items()})
            units.setdefault(row.unit_id, []).append(row)
    return [
        PlannedUnit(name, rows[0].model, rows[0].attribute, rows[0].unit_order, rows[0].expected_seconds, tuple(rows))
        for name, rows in units.items()
    ]


def _shared(name: str, value: Any, once: dict[Any, Any]) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    return value if name in ("cell_id", "image_id") else once.setdefault((name, value), value)
