"""A planner out of a function, for tests of the loop and of backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.scheduler.protocol import Settled, Unit


@dataclass
class Derived:
    """Begins with some units; more follow by a function, or are asked for by another."""

    units: Sequence[Unit] = ()
    following: Callable[[Sequence[Settled]], Sequence[Unit]] = lambda done: ()
    asking: Callable[[], Sequence[Unit] | None] = lambda: None

    def begin(self) -> Sequence[Unit]:
        # Nobody but the scheduler is to keep them.
        units, self.units = self.units, ()
        return units

    def settled(self, done: Sequence[Settled]) -> Sequence[Unit]:
        return self.following(done)

    def asked(self) -> Sequence[Unit] | None:
        return self.asking()
