"""All stages as one: each attribute goes through them without a barrier, and what is committed is published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from loco_core.localization.base import Localization
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.scheduler.side_work import SideWork
from orchestrator.stages.attack.stage import AttackStage
from orchestrator.stages.base import Row, Stage, StageContext
from orchestrator.stages.edit.places import Place
from orchestrator.stages.edit.stage import EditStage
from orchestrator.stages.localize import Tables
from orchestrator.stages.registry import outside
from orchestrator.stages.sweep.planned import Plan
from orchestrator.stages.sweep.stage import SweepStage
from orchestrator.stages.trace.stage import TraceStage
from orchestrator.store import Publisher, Store


class Chain:
    """Asks stages for units, tells each what became of its own, and publishes when there is enough of it.

    It is the `orchestrator.scheduler.protocol.Planner` of every run.

    Attributes:
        side: runs beside the loop what takes long.
    """

    def __init__(
        self,
        store: Store,
        stages: Sequence[Stage],
        side: SideWork,
        on_settled: Callable[[Sequence[Settled]], None] = lambda done: None,
    ) -> None:
        """Starts from what the store holds.

        Args:
            store: the results.
            stages: the stages, in their order.
            side: runs beside the loop what takes long; that of the stages.
            on_settled: called with units that were committed or given up.
        """
        self._on_settled = on_settled
        self._stages = {stage.name: stage for stage in stages}
        self.side, self._publisher = side, Publisher(store)
        self._wanted, self._unpublished, self._publishing = self._publisher.wanted, 0, False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the stages."""
        return tuple(self._stages)

    def begin(self) -> list[Unit]:
        """Returns the units that all stages begin with."""
        return [unit for stage in self._stages.values() for unit in stage.begin()]

    def localized(self, found: Localization) -> list[Unit]:
        """Tells every stage what was localized, and returns the units that follow."""
        return [unit for stage in self._stages.values() for unit in stage.localized(found)]

    def settled(self, done: Sequence[Settled]) -> list[Unit]:
        """Tells every stage what became of its units, and returns those that follow."""
        self._on_settled(done)
        mine: dict[str, list[Settled]] = {}
        for item in done:
            mine.setdefault(item.unit.stage, []).append(item)
        units = [unit for name, stage in self._stages.items() if name in mine for unit in stage.settled(mine[name])]
        self._unpublished += len(done)
        if self._unpublished >= self._wanted and not self._publishing:
            self._unpublished, self._publishing = 0, True
            self.side.submit(self._publish)
        return units

    def asked(self) -> list[Unit] | None:
        """Returns what stages are asked for meanwhile; None when none of them will be asked any more."""
        wanted = [stage.asked() for stage in self._stages.values()]
        return None if all(units is None for units in wanted) else [unit for units in wanted for unit in units or ()]

    def failures(self, unit: Unit) -> list[Row]:
        """Returns what ``failures`` says of a unit that was given up."""
        return self._stages[unit.stage].failures(unit)

    def is_final(self, unit: Unit) -> bool:
        """Tells whether a unit that was given up is tried again only where somebody asks for it."""
        return self._stages[unit.stage].is_final

    def finish(self) -> None:
        """Publishes whatever is committed; takes long, and must not run beside itself."""
        self._publisher.publish(flush=True)

    def _publish(self) -> None:
        self._publisher.publish()
        self._wanted, self._publishing = self._publisher.wanted, False


def chain_of_sweep(
    context: StageContext,
    units: Plan,
    tables: Tables,
    on_localized: Callable[[Localization], None],
    on_settled: Callable[[Sequence[Settled]], None] = lambda done: None,
) -> Chain:
    """Returns the stages of a sweep: swaps, traces, edits, attacks on these, and those of other packages it asks for.

    Args:
        context: see `StageContext`.
        units: units of all plan files, in order.
        tables: tables of what was localized.
        on_localized: called with what was localized.
        on_settled: called with units that were committed or given up.
    """

    def announce(found: Localization) -> list[Unit]:
        on_localized(found)
        return chain.localized(found)

    context = replace(context, announce=announce)
    sweep = SweepStage(context, units, tables)
    trace = TraceStage(replace(context, first_order=sweep.next_order), tables)
    after = replace(context, first_order=trace.next_order)
    more = [outside(replace(after, settings=settings), name) for name, settings in sorted(context.spec.stages.items())]
    chain = Chain(context.store, [sweep, trace, *editing(after), *more], context.side, on_settled)
    return chain


def editing(context: StageContext, places: Sequence[Place] = ()) -> list[Stage]:
    """Returns the stages that edit, and attack what is edited.

    Args:
        context: see `StageContext`.
        places: where edits are made from the beginning; localizations add others.
    """
    attack = AttackStage(context)
    return [EditStage(replace(context, on_chosen=attack.chosen), places), attack]
