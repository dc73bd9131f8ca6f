"""What all kinds of work have in common on the driver's side: a stage plans units and notes what became of them.

A kind of work is a folder: ``plan.py`` says which units there are, ``stage.py`` (a `Stage`) what follows from those
that are done, ``work.py`` what a worker does with one, see `orchestrator.stages.context`. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loco_core.localization.base import Localization
from loco_core.types import Attribute
from orchestrator import identity
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.scheduler.side_work import SideWork
from orchestrator.spec import SweepSpec
from orchestrator.spec.places import name_of
from orchestrator.store import Store

if TYPE_CHECKING:
    from orchestrator.stages.edit.plan import PlannedEdit
    from orchestrator.stages.edit.summary import EditSummary

UNIT_SECONDS = 30.0
"""How long a unit should take at least, and one of a trace or an edit at most, unless a sweep asks for shorter ones."""
LEAST_UNITS = 64
"""Into how many units what is planned at once should be cut, where they are not too short then: there may be as many
workers, and none of them should wait long for the last one."""
GUESSED_BATCH = 8

Row = Mapping[str, Any]
"""One row of a table, by column."""


@dataclass(frozen=True)
class Count:
    """What units are, taken together.

    Attributes:
        units: how many.
        images: that they generate.
        cells: that they score.
        seconds: of work, by the cost table.
        images_again: rows that they generate in addition where no worker does two units of a block one after another.
    """

    units: int = 0
    images: int = 0
    cells: int = 0
    seconds: float = 0.0
    images_again: int = 0

    def __add__(self, other: Count) -> Count:
        """Returns both together."""
        return Count(
            self.units + other.units, self.images + other.images, self.cells + other.cells,
            self.seconds + other.seconds, self.images_again + other.images_again,
        )  # fmt: skip

    def __mul__(self, times: int) -> Count:
        """Returns it so many times."""
        return Count(
            self.units * times, self.images * times, self.cells * times, self.seconds * times,
            self.images_again * times,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlanContext:
    """What the units of an outside stage are planned from; see `orchestrator.stages.registry`.

    Attributes:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        sweep_id: identity of the sweep.
        first_order: number in the plan from which the units of this stage count.
        settings: settings of this stage in the sweep's ``stages`` block; empty of the stages of this project.
    """

    spec: SweepSpec
    resolved: Resolved
    sweep_id: str
    first_order: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageContext(PlanContext):
    """What a stage is built from.

    Attributes:
        store: the results.
        side: runs beside the loop what takes long.
        announce: called with every localization that edits follow; returns the units that follow from it.
        on_edited: called with what the chosen edits of a place did, from another thread than the loop's; None where
            nobody asks.
        on_chosen: called with the chosen edits of a place, from that thread: the model, the attribute, the edits, and
            what picked their sites; returns the units that follow from them.
    """

    store: Store
    side: SideWork = field(default_factory=SideWork)
    announce: Callable[[Localization], list[Unit]] = lambda found: []
    on_edited: Callable[[Sequence[EditSummary]], None] | None = None
    on_chosen: Callable[[str, str, Sequence[PlannedEdit], str], list[Unit]] = lambda *chosen: []


class Stage:
    """One kind of work. A stage whose units all stand in its plan needs no class of its own, see `PlannedStage`.

    Attributes:
        name: the stage's name; its units carry it.
        is_final: whether a unit that was given up stays so until somebody asks for its cells again; else the next run
            tries it again.
    """

    name: str
    is_final = False

    def begin(self) -> list[Unit]:
        """Returns the units to begin with: what is planned and not committed, and what follows from the rest."""
        return []

    def settled(self, done: Sequence[Settled]) -> list[Unit]:
        """Takes note of units that were committed or given up, and returns those that follow."""
        return []

    def localized(self, found: Localization) -> list[Unit]:
        """Returns the units that follow from a localization."""
        return []

    def asked(self) -> list[Unit] | None:
        """Returns units that somebody asks for meanwhile; None when nobody will ask any more."""
        return None

    def failures(self, unit: Unit) -> list[Row]:
        """Returns what ``failures`` says of a unit that was given up: one row per cell, or one where it has no cells.

        Without rows nothing is written.
        """
        attribute = getattr(unit.payload, "attribute", None)
        row = {"model": unit.model}
        if isinstance(attribute, Attribute):
            return [{**row, "attribute": attribute.key, "attribute_kind": attribute.kind}]
        return [{**row, "attribute": attribute} if isinstance(attribute, str) else row]


class PlannedStage(Stage):
    """A stage whose units are all known at its beginning, and that are simply run.

    Args:
        name: the stage's name.
        units: all of its units.
        context: see `StageContext`.
    """

    def __init__(self, name: str, units: Sequence[Unit], context: StageContext) -> None:
        self.name = name
        self._units, self._store = units, context.store

    def begin(self) -> list[Unit]:
        """Returns the units that are not committed."""
        committed = self._store.committed()
        return [unit for unit in self._units if unit.unit_id not in committed]


def make_unit(
    stage: str,
    unit_id: str,
    model: ResolvedModel,
    order: int,
    expected_seconds: float,
    payload: object,
    block: str = "",
) -> Unit:
    """Returns a unit for the scheduler.

    Args:
        stage: name of the stage whose work a worker does.
        unit_id: the unit's name in the store.
        model: what the worker loads, and what it needs.
        order: where it stands in the plan.
        expected_seconds: cost, by the cost table.
        payload: what the work is given: a frozen dataclass that pickles.
        block: what units have in common that a worker keeps in memory; empty where there is nothing.
    """
    worker = model.worker
    labels = tuple(sorted(worker.label_selector.items()))
    needs = WorkerNeeds(worker.gpus, labels, worker.accelerators, worker.min_gpu_memory)
    return Unit(unit_id, stage, model.id, order, expected_seconds, payload, needs, block)


def sweep_id(spec: SweepSpec) -> str:
    """Returns the identity of a sweep; its axes are not part of it."""
    return identity.sweep_id(identity.SweepKey(spec.name, spec.generation.settings, name_of(spec.scorer)))


def batch_size(spec: SweepSpec, model: ResolvedModel) -> int:
    """Returns rows per forward pass of a model; a guess where they are to be measured and were not yet."""
    size = spec.generation.batch_size
    return size if isinstance(size, int) else model.probed_batch or GUESSED_BATCH


def seconds_per_image(spec: SweepSpec, model: ResolvedModel) -> float:
    """Returns what an image of the sweep should cost on the slowest device, by the cost table."""
    return max(model.seconds_per_image * spec.generation.steps / 50, model.probed_seconds or 0.0)


def short_seconds(spec: SweepSpec) -> float:
    """Returns how long a unit takes where longer ones would save nothing."""
    return min(UNIT_SECONDS, spec.generation.unit_seconds)


def images_in(seconds: float, spec: SweepSpec, model: ResolvedModel) -> float:
    """Returns how many images a unit of so many seconds has, as measured where that was done."""
    return seconds / (model.probed_seconds or seconds_per_image(spec, model))
