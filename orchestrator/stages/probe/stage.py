"""The probe on the driver's side: a measurement that fails ends the run."""

from __future__ import annotations

from collections.abc import Sequence

from loco_core.errors import ModelError
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.stages.base import Row, Stage


class ProbeStage(Stage):
    """Has every model measured that has no batch size yet."""

    name = "probe"

    def __init__(self, units: Sequence[Unit]) -> None:
        """Takes the measurements.

        Args:
            units: measurements that are not made yet.
        """
        self._units = list(units)

    def begin(self) -> list[Unit]:
        """Returns the measurements."""
        return self._units

    def settled(self, done: Sequence[Settled]) -> list[Unit]:
        """Takes note of measurements.

        Raises:
            ModelError: one failed.
        """
        for item in done:
            if item.report.outcome == "failed":
                raise ModelError(f"generation.batch_size: auto: {item.report.error}")
        return []

    def failures(self, unit: Unit) -> list[Row]:
        """Returns nothing: what could not be measured is measured by the next run."""
        return []
