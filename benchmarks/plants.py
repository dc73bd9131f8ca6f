"""Sweeps plants by the place of parameters, and keeps the scores that ``bench-localizer`` reads; resumable.

``python -m benchmarks.plants PLANTS`` reads what ``python -m loco_core.toyworld.plants --out PLANTS`` wrote, and writes
tables and their truth to ``--tables``: ``loco-sweep bench-localizer window --planted TABLES`` holds a localizer against
them. What differs from the base is the planted rows alone, so windows are swapped in weights that no swap has trained.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.planted import COLUMNS
from loco_core.attributes import attribute
from loco_core.editing.deltas import applied, read_delta
from loco_core.face.model import load_model
from loco_core.toyworld.plants.draw import Plant, plant_from_json
from loco_core.toyworld.plants.surgery import truth_of
from loco_core.toyworld.plants.teach import named
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.spec.sweep import AttributeSpec, RecordSpec
from orchestrator.store import open_store

FIRST_SEED = 300
"""No sweep of the older planted models has it."""
BESIDE = ("attention_contribution", "causal_tracing")


def write_model(plant: Plant, delta: Path, folder: Path) -> None:
    """Writes the base with the planted rows as a pipeline folder."""
    model, rows = load_model(plant.base, device="cpu"), read_delta(delta)
    temporary = folder.with_name(f"{folder.name}.partial")
    with applied(model.loaded, rows, model.weights):
        model.loaded.pipeline.save_pretrained(temporary, safe_serialization=True)
    temporary.rename(folder)


def attribute_of(plant: Plant) -> AttributeSpec:
    """Returns the attribute of the look with the name in its prompts; donors and texts that score stay."""
    item = attribute(f"{plant.look_kind}/{plant.look}")
    records = tuple(
        RecordSpec(**{**asdict(record), "prompt": named(record.prompt, plant.look, plant.name)})
        for record in item.records
    )
    return AttributeSpec(kind=plant.look_kind, name=plant.name, mode=item.mode, records=records)


def sweep(plant: Plant, folder: Path, seeds: int, steps: int, sites: int) -> SweepSpec:
    """Returns the sweep of one plant, with the methods that trace beside the windows."""
    # Causal tracing restores sites of a UNet.
    beside = [name for name in BESIDE if name != "causal_tracing" or (folder / "unet").exists()]
    return SweepSpec.model_validate(
        {
            "name": plant.key, "models": [{"id": plant.key, "path": str(folder)}], "attributes": [attribute_of(plant)],
            "windows": {"sizes": list(range(1, sites // 4 + 1))}, "prompts": 8,
            "seeds": list(range(FIRST_SEED, FIRST_SEED + seeds)),
            "generation": {"steps": steps, "guidance_scale": 3.0, "batch_size": 62}, "controls": {"random": 0},
            "scorer": "toy-clip", "images": "none", "localize": {"compare": beside},
        },
        strict=False,
    )  # fmt: skip


def main() -> None:
    """Sweeps what is missing, and writes tables and truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plants", type=Path)
    parser.add_argument("--tables", type=Path, default=Path("results/plant-tables"))
    parser.add_argument("--work", type=Path, default=Path("results/plant-sweeps"))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    arguments.tables.mkdir(parents=True, exist_ok=True)
    arguments.work.mkdir(parents=True, exist_ok=True)
    truths: dict[str, Any] = {}
    answers: list[dict[str, Any]] = []
    for report in sorted(arguments.plants.glob("*.json")):
        if report.stem.endswith("-discarded"):
            continue
        said = json.loads(report.read_text())
        plant, root = plant_from_json(said["plant"]), arguments.work / report.stem
        folder = arguments.work / f"{plant.key}-model"
        if not folder.exists():
            write_model(plant, report.with_suffix(".safetensors"), folder)
        spec = sweep(plant, folder.resolve(), arguments.seeds, arguments.steps, said["sites"])
        run_sweep(
            spec, str(root), lambda settings: RayBackend(settings, workers=arguments.workers, threads=1),
            on_progress=lambda _: None, stop=StopSwitch(),
            on_localized=lambda found: print(found.model, found.localizer, found.outcome, found.reason, flush=True),
        )  # fmt: skip
        store = open_store(str(root))
        pq.write_table(
            store.read("scores").select(COLUMNS), arguments.tables / f"{plant.key}.parquet", compression="zstd"
        )
        truths[plant.key] = {f"{plant.look_kind}/{plant.name}": truth_of(plant, said)}
        for row in store.read("localizations").to_pylist():
            start, size = row["window_start"], row["window_size"]
            sites = [] if start is None else list(range(start, start + size))
            answers.append(
                {"plant": plant.key, "method": row["localizer"], "outcome": row["outcome"], "sites": sites,
                 "planted": list(plant.sites), "needed": said["surgery"]["needed"], "kind": plant.kind}
            )  # fmt: skip
        # After each: an interrupted run leaves tables with their truth.
        (arguments.tables / "truth.json").write_text(json.dumps(truths, indent=1) + "\n")
        (arguments.tables / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))


if __name__ == "__main__":
    main()
