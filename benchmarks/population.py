"""Sweeps bundled models on 32 prompts x 12 seeds: the real populations that ``bench-localizer`` draws its tables from.

``python -m benchmarks.population``; resumable.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loco_core.toyworld import POPULATIONS
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.store import open_store

PROMPTS, SEEDS = 32, 12
# Windows that work for most prompts and not for some (toy), and windows that were planted (toy-planted-a).
SWEPT = (
    ("toy", "style/lumio"),
    ("toy-planted-a", "style/lumio"),
    ("toy", "object/star"),
)
DECIMALS = 4
"""To which cosines are rounded: another batch shape changes them in the sixth decimal."""


def sweep(model: str, attribute: str) -> SweepSpec:
    """Returns the sweep of one population."""
    return SweepSpec.model_validate(
        {
            "name": f"population-{model}", "models": [model], "attributes": [attribute],
            "windows": {"sizes": [1, 2, 3, 4]}, "prompts": PROMPTS, "seeds": SEEDS,
            "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": 62},
            "controls": {"random": 0, "identity": False}, "scorer": "toy-clip", "margin": "donor", "images": "none",
        },
        strict=False,
    )  # fmt: skip


def small(scores: pa.Table) -> pa.Table:
    """Returns what a localizer reads of the scores, as few bytes as it takes."""
    kept = scores.filter(pa.compute.is_in(scores["control"], pa.array(["clean", "donor", "all_sites", "window"])))
    rounded = {
        name: np.round(kept[name].cast(pa.float64()).to_numpy(zero_copy_only=False), DECIMALS).astype(np.float32)
        for name in ("clip_score", "clip_score_donor", "clip_score_content", "clip_score_unrelated")
    }
    names = ("model", "attribute", "attribute_kind", "mode", "prompt_id", "seed", "control", "window_start",
             "window_size", "site_indices", "status")  # fmt: skip
    table = kept.select(names)
    for name, values in rounded.items():
        table = table.append_column(name, pa.array(values, from_pandas=True))
    order = ("control", "window_size", "window_start", "prompt_id", "seed")
    return table.sort_by([(name, "ascending") for name in order])


def main() -> None:
    """Runs the sweeps and writes a table each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("results/population"))
    arguments = parser.parse_args()
    POPULATIONS.mkdir(exist_ok=True)
    workers = len(os.sched_getaffinity(0))
    for model, attribute in SWEPT:
        name = f"{model}-{attribute.replace('/', '-')}"
        run_sweep(
            sweep(model, attribute), str(arguments.work / name),
            lambda settings: RayBackend(settings, workers=workers, threads=1),
            on_progress=lambda _: None, stop=StopSwitch(),
            on_localized=lambda found: print(found.model, found.attribute, found.outcome, found.reason, flush=True),
        )  # fmt: skip
        scores = open_store(str(arguments.work / name)).read("scores")
        pq.write_table(small(scores), POPULATIONS / f"{name}.parquet", compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()
