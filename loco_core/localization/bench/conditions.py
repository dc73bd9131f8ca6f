"""The conditions that localizers are held against: what people's sweeps are like, and what breaks bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from loco_core.localization.bench.populations import drawn_tables, populations
from loco_core.localization.bench.simulate import SIZES, Noise, SimulatedTable, simulated_tables
from loco_core.localization.bench.truths import LAYOUTS, Layout

DESIGNS = ((8, 4), (16, 4), (8, 12))
"""Prompts and seeds of tables that are drawn from real populations."""


USUAL = Noise()


@dataclass(frozen=True)
class Condition:
    """One kind of table.

    Attributes:
        name: name as the command line has it.
        noise: noise of the simulation.
        layout: its windows.
        sizes: prompts and seeds; every table has one of these.
        missing: share of cells that are not there, at random.
        population: name of the real pictures that tables are drawn from; None simulates them.
    """

    name: str
    noise: Noise = USUAL
    layout: Layout = LAYOUTS[16]
    sizes: tuple[tuple[int, int], ...] = SIZES
    missing: float = 0.0
    population: str | None = None

    def tables(self, count: int, seed: int) -> Iterator[SimulatedTable]:
        """Draws tables."""
        if self.population:
            ((prompts, seeds),) = self.sizes
            found = drawn_tables(self.population, count, seed, prompts, seeds)
        else:
            found = simulated_tables(count, seed, self.noise, self.layout, self.sizes)
        for number, table in enumerate(found):
            yield _holed(table, self.missing, np.random.default_rng([seed, number, 1])) if self.missing else table


def conditions() -> dict[str, Condition]:
    """Returns all conditions by name."""
    flips = Noise(flips=0.67)
    simulated = (
        Condition("usual"),
        *(Condition(f"flips-{share}", Noise(flips=share), sizes=((8, 4),)) for share in (0.2, 0.67, 0.87)),
        Condition("flips-16x4", flips, sizes=((16, 4),)),
        Condition("many-seeds", flips, sizes=((8, 20),)),
        Condition("flips-by-seed", replace(flips, by_seed=0.28), sizes=((8, 4), (16, 4), (32, 4))),
        Condition("seeds-differ", Noise(window_seed=0.01, image=0.008), sizes=((8, 4), (16, 8))),
        Condition("unlike-prompts", replace(flips, unlike=0.5), sizes=((4, 8), (8, 4))),
        Condition("offset-margins", Noise(offset=-0.15, image=0.02), sizes=((2, 2), (4, 4), (8, 4))),
        Condition("heavy-tails", Noise(heavy=True), sizes=((8, 4),)),
        Condition("unequal", Noise(odd=3.0), sizes=((8, 4),)),
        Condition("missing", missing=0.03, sizes=((8, 4), (8, 12))),
        Condition("1-prompt", flips, sizes=((1, 12), (1, 50))),
        Condition("2-prompts", flips, sizes=((2, 2), (2, 12))),
        Condition("3-prompts", flips, sizes=((3, 4), (3, 12))),
        Condition("70-sites", layout=LAYOUTS[70], sizes=((8, 8),)),
        Condition("flips-70-sites", flips, LAYOUTS[70], sizes=((8, 8),)),
    )
    real = (
        Condition(f"{name}-{prompts}x{seeds}", sizes=((prompts, seeds),), population=name)
        for name in populations()
        for prompts, seeds in DESIGNS
    )
    return {condition.name: condition for condition in (*simulated, *real)}


def _holed(table: SimulatedTable, share: float, rng: np.random.Generator) -> SimulatedTable:
    kept = pa.array(rng.random(table.scores.num_rows) >= share)
    return replace(table, scores=table.scores.filter(kept))
