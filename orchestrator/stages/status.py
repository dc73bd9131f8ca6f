"""How far a sweep is, told from storage alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from loco_core.errors import StoreError
from orchestrator.stages.sweep import failed_keys, planned_units
from orchestrator.store import Store


@dataclass(frozen=True)
class BlockStatus:
    """One attribute of one model.

    Attributes:
        units: planned.
        units_done: committed.
        ok: committed cells with a valid image.
        invalid: committed cells without one.
        failed: cells that could not be made.
        outcome: of the localization, if there is one.
    """

    model: str
    attribute: str
    units: int
    units_done: int
    ok: int
    invalid: int
    failed: int
    outcome: str | None
    window_start: int | None
    window_size: int | None


@dataclass(frozen=True)
class SweepStatus:
    """A whole sweep."""

    name: str
    sweep_id: str
    units: int
    units_done: int
    blocks: tuple[BlockStatus, ...]


def survey(store: Store) -> SweepStatus:
    """Reads how far a sweep is.

    Raises:
        StoreError: the root holds no sweep.
    """
    spec, sweep_id = store.sweep(), store.sweep_id()
    if spec is None or sweep_id is None:
        raise StoreError(f"{store.root}: holds no sweep")
    units, committed = planned_units(store), store.committed()
    names = ("model", "attribute")
    planned = Counter((unit.model, unit.attribute) for unit in units)
    done = Counter((unit.model, unit.attribute) for unit in units if unit.unit_id in committed)
    scores = store.read_units(sorted(committed), "scores")
    cells = Counter(zip(*(scores[name].to_pylist() for name in (*names, "status")), strict=True))
    failures = store.read_units(sorted(committed), "failures")
    failed = Counter((key[0], key[1]) for key in failed_keys(scores, failures))
    found = {(row["model"], row["attribute"]): row for row in store.read("localizations").to_pylist()}
    blocks = tuple(
        BlockStatus(
            *block, planned[block], done[block], cells[(*block, "ok")], cells[(*block, "invalid")], failed[block],
            *(found.get(block, {}).get(name) for name in ("outcome", "window_start", "window_size")),
        )
        for block in sorted(planned)
    )  # fmt: skip
    return SweepStatus(spec.name, sweep_id, len(units), sum(done.values()), blocks)
