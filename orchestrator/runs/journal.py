"""What a successor of this driver must find if it dies, kept in the results root."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping

from orchestrator.scheduler.protocol import Unit, UnitReport
from orchestrator.stages.chain import Chain
from orchestrator.store import SCHEMA_VERSION, Store, layout, make_table


class StoreJournal:
    """Keeps the scheduler's attempts and failures in the results root."""

    def __init__(self, store: Store, sweep_id: str, chain: Chain) -> None:
        """Takes what knows the units.

        Args:
            store: the results.
            sweep_id: identity of the sweep.
            chain: the stages.
        """
        self._store, self._sweep_id, self._chain = store, sweep_id, chain

    def previous(self) -> Mapping[str, int]:
        """Returns what the driver before this one left in flight."""
        return self._store.in_flight()

    def record(self, attempts: Mapping[str, int]) -> None:
        """Replaces the record of what is in flight."""
        self._store.record_in_flight(attempts)

    def committed(self, unit: Unit) -> bool:
        """Tells whether a unit is committed."""
        return self._store.blobs.exists(layout.unit(unit.unit_id))

    def give_up(self, unit: Unit, report: UnitReport) -> bool:
        """Commits a unit as nothing but failures, so that a late worker cannot commit it any more.

        A unit that the next run shall try again fails under another name.
        """
        if self.committed(unit):
            return True
        name = unit.unit_id
        if not self._chain.is_final(unit):
            name = hashlib.sha256(f"{name} failed {uuid.uuid4()}".encode()).hexdigest()
        rows = [
            {
                "sweep_id": self._sweep_id,
                **cell,
                "unit_id": name,
                "error_type": report.error_type or "Unknown",
                "error": report.error or "no message",
                "attempt": report.attempt,
                "schema_version": SCHEMA_VERSION,
            }
            for cell in self._chain.failures(unit)
        ]
        if not rows:
            return False
        return self._store.commit_unit(name, {"failures": make_table("failures", rows)}, uuid.uuid4().hex) == "lost"
