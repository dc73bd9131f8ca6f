"""All stages as one: sweep and trace, localize, edit, evaluate. Each attribute goes through them without a barrier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loco_core.localizers import Localization
from orchestrator.plan import PlannedUnit
from orchestrator.resolve import Resolved
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit import EditStage
from orchestrator.stages.localize import Tables
from orchestrator.stages.sweep import SweepStage
from orchestrator.stages.trace import TraceStage
from orchestrator.store import Publisher, Store


class Publishing:
    """Derives units, and publishes what is committed when there is enough of it."""

    def __init__(self, store: Store, step: Callable[[Sequence[Settled]], list[Unit]]) -> None:
        """Starts from what the store holds.

        Args:
            store: the results.
            step: derives units.
        """
        self._step, self._publisher, self._unpublished = step, Publisher(store), 0

    def derive(self, settled: Sequence[Settled]) -> list[Unit]:
        """Returns the units that follow; see :func:`orchestrator.scheduler.loop.run_units`."""
        units = self._step(settled)
        self._unpublished += len(settled)
        if self._unpublished >= self._publisher.wanted:
            self._publisher.publish()
            self._unpublished = 0
        return units

    def finish(self) -> None:
        """Publishes whatever is committed."""
        self._publisher.publish(flush=True)


class Chain:
    """Derives the units of all stages from what is committed, and publishes it.

    Attributes:
        tables: what was localized.
        sweep: the stage that swaps windows, and localizes by their scores.
        trace: the stage that localizes by traces.
        edit: the stage that edits.
    """

    def __init__(
        self,
        store: Store,
        spec: SweepSpec,
        resolved: Resolved,
        sweep_id: str,
        units: Sequence[PlannedUnit],
        on_localized: Callable[[Localization], None],
    ) -> None:
        """Starts from what the store holds.

        Args:
            store: the results.
            spec: the sweep.
            resolved: the sweep with its names looked up.
            sweep_id: its identity.
            units: of all plan files, in order.
            on_localized: told what was localized.
        """
        self._found: list[Localization] = []
        self._on_localized = on_localized
        self.tables = Tables(store, sweep_id, spec.localize)
        self.sweep = SweepStage(store, spec, resolved, units, self.tables, self._localized)
        self.trace = TraceStage(store, spec, resolved, self.sweep.next_order, self.tables, self._localized)
        self.edit = EditStage(store, spec, resolved, self.trace.next_order)
        self._publishing = Publishing(store, self._step)

    def derive(self, settled: Sequence[Settled]) -> list[Unit]:
        """Returns the units that follow; see :func:`orchestrator.scheduler.loop.run_units`."""
        return self._publishing.derive(settled)

    def finish(self) -> None:
        """Publishes whatever is committed."""
        self._publishing.finish()

    def _step(self, settled: Sequence[Settled]) -> list[Unit]:
        kinds: dict[str, list[Settled]] = {}
        for item in settled:
            kinds.setdefault(item.unit.kind, []).append(item)
        cells, traces = kinds.pop("sweep", []), kinds.pop("trace", [])
        units = self.sweep.settled(cells) if settled else self.sweep.begin()
        units += self.trace.settled(traces) if settled else self.trace.begin()
        units += self.edit.settled(item for items in kinds.values() for item in items)
        for found in self._found:
            units += self.edit.localized(found)
        self._found.clear()
        return units

    def _localized(self, found: Localization) -> None:
        self._found.append(found)
        self._on_localized(found)
