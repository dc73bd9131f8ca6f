"""Score tables drawn from real pictures: sweeps of 32 prompts and 12 seeds stand for all that there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loco_core import plugins
from loco_core.errors import LocalizationError
from loco_core.localization.bench.simulate import THRESHOLD, SimulatedTable
from loco_core.localization.bench.truths import Layout
from loco_core.localization.score_table import ScoreTable, read_scores
from loco_core.statistics import Floats
from loco_core.tables import in_order


@dataclass(frozen=True)
class Population:
    """One swept (model, attribute) from which tables are drawn.

    Attributes:
        name: name of its file.
        table: its scores.
        rows: row numbers of the same images, by prompt, seed and column.
    """

    name: str
    table: ScoreTable
    rows: pa.Table

    @property
    def lost(self) -> Floats:
        """Margin that every picture lost against its clean one ``(P, S, W)``."""
        return self.table.clean.margin - self.table.swept.margin

    @property
    def full(self) -> Floats:
        """Margin that the donor's picture lost ``(P, S)``."""
        return np.asarray((self.table.clean.margin - self.table.donor.margin)[:, :, 0])


def populations() -> tuple[str, ...]:
    """Returns the names of the bundled populations."""
    return tuple(sorted(_files()))


def _files() -> dict[str, Path]:
    folders = (Path(module.POPULATIONS) for module in plugins.modules("tables") if hasattr(module, "POPULATIONS"))
    return {path.stem: path for folder in folders for path in folder.glob("*.parquet")}


def drawn_tables(name: str, count: int, seed: int, prompts: int, seeds: int) -> Iterator[SimulatedTable]:
    """Draws tables of some prompts and seeds, each independently and with replacement.

    What is true of them is counted in the whole population: effects in the drawn prompts over all its seeds, and the
    share of all its prompts in which a window holds with the drawn seeds.
    """
    population = _population(name)
    for number in range(count):
        yield _drawn(population, prompts, seeds, np.random.default_rng([seed, number]))


def _drawn(population: Population, prompts: int, seeds: int, rng: np.random.Generator) -> SimulatedTable:
    table = population.table
    at, of = rng.integers(len(table.prompts), size=prompts), rng.integers(len(table.seeds), size=seeds)
    lost, full = population.lost, population.full
    here = lost[at].mean(axis=(0, 1)) / full[at].mean()
    seen, whole = lost[:, of].mean(axis=1), full[:, of].mean(axis=1)[:, None]
    layout = Layout(table.n_sites, max(window.size for window in table.windows))
    width = population.rows.num_rows // (len(table.prompts) * len(table.seeds))
    pairs = (at[:, None] * len(table.seeds) + of).reshape(-1)
    taken = population.rows.take(pa.array((pairs[:, None] * width + np.arange(width)).reshape(-1)))
    # The same prompt may be drawn twice: it is two prompts then.
    names = np.repeat([f"p{number:02}" for number in range(prompts)], seeds * width)
    numbers = np.tile(np.repeat(np.arange(seeds), width), prompts)
    scores = taken.set_column(taken.column_names.index("prompt_id"), "prompt_id", pa.array(names))
    scores = scores.set_column(scores.column_names.index("seed"), "seed", pa.array(numbers))
    effects = lost.mean(axis=(0, 1)) / full.mean()
    return SimulatedTable(
        population.name, (), None, effects, here, ((whole > 0) & (seen >= THRESHOLD * whole)).mean(axis=0),
        int(rng.integers(len(table.windows))), True, scores, scores.slice(0, 0), layout,
    )  # fmt: skip


@cache
def _population(name: str) -> Population:
    path = _files()[name]
    try:
        rows = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise LocalizationError(f"{path}: not a readable table of a population ({error})") from error
    rows = in_order(rows, ("prompt_id", "seed", "control", "window_size", "window_start"))
    return Population(name, read_scores(rows), rows)
