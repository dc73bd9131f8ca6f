"""The localizers on the bundled planted tables at the size of a usual sweep: 8 prompts and the first four seeds.

``python -m benchmarks.few_seeds``: prints a row a localizer.
"""

from __future__ import annotations

import json
import statistics

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.methods import counted, ratio
from loco_core.localization.base import LocalizeSettings, rule
from loco_core.localization.bench.replay import ReplayedTable
from loco_core.toyworld import PLANTED_TABLES

SEEDS = 4


def tables() -> list[pa.Table]:
    """Returns every planted table with its first seeds; identity swaps decide nothing."""
    found = []
    for path in sorted(PLANTED_TABLES.glob("*.parquet")):
        table = pq.read_table(path)
        first = pa.array(sorted(set(table["seed"].to_pylist()))[:SEEDS])
        kept = pc.and_(pc.is_in(table["seed"], first), pc.not_equal(table["control"].cast(pa.string()), "identity"))
        found.append(table.filter(kept))
    return found


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
            f"| {name} | {ratio(right)} | {ratio(named)} | {counted(exact)} | {counted(nowhere)} "
            f"| {statistics.median(images):.0f} |"
        )


if __name__ == "__main__":
    main()
