"""Attacks on the driver's side: they follow from edits that are chosen."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.scheduler.protocol import Unit
from orchestrator.stages.attack.plan import attack_units
from orchestrator.stages.base import Stage, StageContext
from orchestrator.stages.edit.plan import PlannedEdit


class AttackStage(Stage):
    """Plans attacks on edits, whoever says that they are chosen."""

    name = "attack"

    def __init__(self, context: StageContext) -> None:
        """Starts from what the store holds.

        Args:
            context: see `StageContext`.
        """
        self._spec, self._resolved, self._order = context.spec, context.resolved, context.first_order
        self._known = set(context.store.committed()) if context.spec.evaluate.attacks else set()

    def chosen(self, model: str, attribute: str, edits: Sequence[PlannedEdit], localization: str) -> list[Unit]:
        """Returns the attacks on chosen edits that are neither committed nor under way.

        It is called from the thread of the side work alone.

        Args:
            model: id of the model.
            attribute: key of the attribute.
            edits: the edits.
            localization: what picked their sites.
        """
        if not self._spec.evaluate.attacks:
            return []
        found = self._resolved
        units = attack_units(
            self._spec, found, found.model(model), found.attribute(attribute), edits, localization, self._order
        )
        # What is done without an edit serves all places.
        new = [unit for unit in units if unit.unit_id not in self._known]
        self._known.update(unit.unit_id for unit in new)
        self._order += len(units)
        return new
