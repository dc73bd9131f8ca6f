"""Sweeps the planted models and keeps the scores that ``bench-localizer`` reads: three disjoint sets of seeds a kind.

``python benchmarks/planted.py [MODEL ...]``; resumable.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loco_core.attributes import attribute
from loco_core.toyworld import PLANTED_TABLES, WEIGHTS
from loco_core.toyworld.measure import example, needed
from loco_core.toyworld.planting import MODELS
from loco_core.toyworld.world import STYLE_NAMES
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.spec.attributes import AttributeSpec, RecordSpec
from orchestrator.store import open_store

FIRST_SEEDS = (0, 100, 200)


@dataclass(frozen=True)
class Budget:
    """What a kind is swept with.

    Attributes:
        steps: denoising steps.
        seeds: how many in each set.
        sizes: of windows.
    """

    # With six seeds a kind, four of thirty intervals were too wide to tell a window from one that is a site larger.
    steps: int = 8
    seeds: int = 12
    sizes: tuple[int, ...] = (1, 2, 3, 4)


BUDGETS = {
    # These are told apart by six; a quarter of twelve sites is three.
    **{("toy-dit-planted", kind): Budget(seeds=6, sizes=(1, 2, 3)) for kind in ("style", "object", "fact")},
    **{("toy-planted-a", kind): Budget(seeds=6) for kind in ("style", "object", "fact")},
    ("toy-planted-c", "object"): Budget(seeds=6),
    # In eight steps one of the scattered sites removes 0.6 alone (0.4 in twenty), and a picture has the style or has it
    # not: with twelve seeds upper bounds reach 0.8. Single sites and the largest windows tell whether any holds it.
    ("toy-planted-c", "style"): Budget(steps=20, seeds=24, sizes=(1, 4)),
}
# What a localizer may look at; the rest is provenance that would weigh megabytes.
COLUMNS = [
    "model", "family", "attribute", "attribute_kind", "mode", "prompt_id", "template_id", "seed", "control",
    "window_start", "window_size", "site_indices", "clip_score", "clip_score_donor", "clip_score_content",
    "clip_score_unrelated", "margin_clean", "status",
]  # fmt: skip


def attributes(model: str, budget: Budget) -> list[str | AttributeSpec]:
    """Returns one attribute a planted kind that takes a budget, and the style that the model cannot draw."""
    planted = MODELS[model]
    found: list[str | AttributeSpec] = []
    for kind, plant in planted.plants.items():
        if BUDGETS.get((model, kind), Budget()) != budget:
            continue
        item = example(kind, plant)
        records = tuple(
            RecordSpec(**{name: getattr(record, name) for name in RecordSpec.model_fields}) for record in item.records
        )
        bundled = item == attribute(item.key)
        found.append(item.key if bundled else AttributeSpec(kind=kind, name=item.name, mode=item.mode, records=records))
    if planted.undrawable is not None and budget == Budget():
        found.append(f"style/{STYLE_NAMES[planted.undrawable]}")
    return found


def sweep(model: str, first_seed: int, budget: Budget) -> SweepSpec:
    """Returns the sweep of one model with one set of seeds and one budget."""
    return SweepSpec.model_validate(
        {
            "name": f"planted-{model}", "models": [model], "attributes": attributes(model, budget),
            "windows": {"sizes": list(budget.sizes)}, "prompts": 8,
            "seeds": list(range(first_seed, first_seed + budget.seeds)),
            "generation": {"steps": budget.steps, "guidance_scale": 3.0, "batch_size": 62}, "controls": {"random": 0},
            "scorer": "toy-clip", "margin": "donor", "images": "none",
        },
        strict=False,
    )  # fmt: skip


def main() -> None:
    """Runs the sweeps and writes tables and truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--work", type=Path, default=Path("results/planted"))
    arguments = parser.parse_args()
    PLANTED_TABLES.mkdir(exist_ok=True)
    # Workers of one thread each: measured on two cores, 1.3 times as fast as one worker of two threads.
    workers, budgets = len(os.sched_getaffinity(0)), tuple(dict.fromkeys((Budget(), *BUDGETS.values())))
    for number, first_seed in enumerate(FIRST_SEEDS):
        for model, budget in itertools.product(arguments.models or MODELS, budgets):
            if not attributes(model, budget):
                continue
            root = str(arguments.work / f"{model}-{budget.steps}-{budget.seeds}-{number}")
            run_sweep(
                sweep(model, first_seed, budget), root,
                lambda settings: RayBackend(settings, workers=workers, threads=1),
                on_progress=lambda _: None, stop=StopSwitch(),
                on_localized=lambda found: print(found.model, found.attribute, found.outcome, found.reason, flush=True),
            )  # fmt: skip
            scores = open_store(root).read("scores").select(COLUMNS)
            for key in map(str, pc.unique(scores["attribute"]).to_pylist()):
                table = scores.filter(pc.equal(scores["attribute"], pa.scalar(key)))
                name = f"{model}-{key.replace('/', '-')}-{number}.parquet"
                pq.write_table(table, PLANTED_TABLES / name, compression="zstd")
    (PLANTED_TABLES / "truth.json").write_text(json.dumps(truth(), indent=1) + "\n")


def truth() -> dict[str, dict[str, object]]:
    """Returns what a localizer must find, by model and kind, an attribute before its kind; from the oracle's tables."""
    tables, found = json.loads((WEIGHTS / "oracle.json").read_text()), {}
    for name, planted in MODELS.items():
        kinds: dict[str, object] = {}
        for kind, table in tables[name].items():
            sites = needed(table, planted.sites)
            kinds[kind] = {"sites": sites, "outcome": "localized" if sites else planted.plants[kind].outcome}
        if planted.undrawable is not None:
            kinds[f"style/{STYLE_NAMES[planted.undrawable]}"] = {"sites": [], "outcome": "absent"}
        found[name] = kinds
    return found


if __name__ == "__main__":
    main()
