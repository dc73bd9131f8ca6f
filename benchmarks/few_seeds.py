"""The localizers on the bundled planted tables at the size of a usual sweep: 8 prompts and the first four seeds.

``python -m benchmarks.few_seeds``: prints a row a localizer.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loco_core.localization.base import LocalizeSettings, rule
from loco_core.localization.bench.methods import counted
from loco_core.localization.bench.replay import ReplayedTable
from loco_core.toyworld import PLANTED_TABLES

SEEDS = 4
RESAMPLES = 2000


def tables() -> list[pa.Table]:
    """Returns every planted table with its first seeds; identity swaps decide nothing."""
    found = []
    for path in sorted(PLANTED_TABLES.glob("*.parquet")):
        table = pq.read_table(path)
        first = pa.array(np.unique(table["seed"].to_numpy())[:SEEDS])
        decides = pc.not_equal(table["control"].cast(pa.string()), pa.scalar("identity"))
        found.append(table.filter(pc.and_(pc.is_in(table["seed"], first), decides)))
    return found


def ratio(pairs: Sequence[tuple[int, int]]) -> str:
    """Returns a ratio of sums in percent, with a bootstrap interval over the pairs of model and attribute."""
    hits, of = np.array(pairs, dtype=float).reshape(-1, 2).T
    if not of.sum():
        return "-"
    drawn = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    sums = of[drawn].sum(1)
    low, high = np.quantile(hits[drawn].sum(1)[sums > 0] / sums[sums > 0], [0.025, 0.975])
    return f"{100 * hits.sum() / of.sum():.0f} ({100 * low:.0f}-{100 * high:.0f})"


def main() -> None:
    """Prints how many planted sites each localizer names, and how many of those that it names are planted."""
    truths, every = json.loads((PLANTED_TABLES / "truth.json").read_text()), tables()
    print(
        "| method | named sites that are right | planted sites that are named | exact set | named where none | images |"
    )
    print("|---|---|---|---|---|---|")
    for name in ("window", "sequential", "argmin"):
        right, named, exact, nowhere, images = [], [], [], [], []
        for table in every:
            answer = ReplayedTable(table).answer(rule(name), LocalizeSettings())
            found, kinds = answer.found, truths[answer.found.model]
            truth = kinds.get(found.attribute, kinds.get(found.attribute_kind))
            sites = list(found.window.sites) if found.window else []
            images.append(answer.drawn)
            if truth["outcome"] != "localized":
                nowhere.append(bool(sites))
                continue
            hits = len(set(sites) & set(truth["sites"]))
            right.append((hits, len(sites)))
            named.append((hits, len(truth["sites"])))
            exact.append(sites == truth["sites"])
        print(
            f"| {name} | {ratio(right)} | {ratio(named)} | {counted(sum(exact), len(exact))} "
            f"| {counted(sum(nowhere), len(nowhere))} | {statistics.median(images):.0f} |"
        )


if __name__ == "__main__":
    main()
