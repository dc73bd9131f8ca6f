"""Sweeps plants by the place of parameters, and keeps what ``bench-localizer`` reads; resumable.

``python -m benchmarks.plants PLANTS`` reads what ``python -m loco_core.toyworld.plants --out PLANTS`` wrote, and writes
scores, traces and their truth to ``--tables``: ``loco-sweep bench-localizer window --planted TABLES`` holds a localizer
against them. What differs from the base is the planted rows alone, so windows are swapped in weights that no swap has
trained. It prints a table of all methods, a base model at a time (``--print`` only prints): also of localizers of
others, by ``--beside mine.py``, on plants that nobody has seen.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.methods import BESIDE, localizations, print_localizers
from benchmarks.planted import COLUMNS
from loco_core.attributes import attribute
from loco_core.editing.deltas import applied, read_delta
from loco_core.face.model import load_model
from loco_core.localization.base import LocalizeSettings, rule
from loco_core.localization.bench.planted import TRACES, TRUTH_FILE, write_card
from loco_core.localization.bench.replay import ReplayedTable
from loco_core.toyworld.plants.draw import Plant, plant_from_json
from loco_core.toyworld.plants.surgery import truth_of
from loco_core.toyworld.plants.teach import named
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.spec.attributes import AttributeSpec, RecordSpec
from orchestrator.store import Store, open_store

FIRST_SEED = 300
"""No sweep of the older planted models has it."""
TRACE_COLUMNS = [
    "model", "attribute", "attribute_kind", "mode", "method", "control", "component", "layer", "layer_name",
    "prompt_id", "template_id", "seed", "value", "scorer", "status",
]  # fmt: skip


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
    records = []
    for record in item.records:
        said = {name: value for name, value in asdict(record).items() if name in RecordSpec.model_fields}
        records.append(RecordSpec(**{**said, "prompt": named(record.prompt, plant.look, plant.name)}))
    return AttributeSpec(kind=plant.look_kind, name=plant.name, mode=item.mode, records=tuple(records))


def sweep(plant: Plant, folder: Path, seeds: int, steps: int, sites: int, beside: Sequence[str]) -> SweepSpec:
    """Returns the sweep of one plant, with other methods beside the windows."""
    # Causal tracing restores sites of a UNet.
    beside = [name for name in beside if name != "causal_tracing" or (folder / "unet").exists()]
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


def keep(name: str, store: Store, tables: Path) -> None:
    """Writes scores and traces of one plant as the benchmark reads them."""
    scores = store.read("scores").select(COLUMNS)
    pq.write_table(scores, tables / f"{name}.parquet", compression="zstd")
    (tables / TRACES).mkdir(exist_ok=True)
    traces = store.read("traces")
    pq.write_table(traces.select(TRACE_COLUMNS), tables / TRACES / f"{name}.parquet", compression="zstd")


def measure(report: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Sweeps one plant; returns its truth and what every method says of it."""
    said = json.loads(report.read_text())
    plant, root = plant_from_json(said["plant"]), arguments.work / report.stem
    folder = arguments.work / f"{plant.key}-model"
    if not folder.exists():
        write_model(plant, report.with_suffix(".safetensors"), folder)
    run_sweep(
        sweep(plant, folder.resolve(), arguments.seeds, arguments.steps, said["sites"], arguments.beside), str(root),
        lambda settings: RayBackend(settings, workers=arguments.workers, threads=1),
        on_progress=lambda _: None, stop=StopSwitch(),
        on_localized=lambda found: print(found.model, found.localizer, found.outcome, found.reason, flush=True),
    )  # fmt: skip
    store = open_store(str(root))
    keep(plant.key, store, arguments.tables)
    truth = {f"{plant.look_kind}/{plant.name}": truth_of(plant, said)}
    rows = localizations(plant.key, store, {plant.key: truth})
    return truth, [{**row, "base": plant.base, "kind": plant.kind, "changed": list(plant.sites)} for row in rows]


def print_surgery(plants: Path, tables: Path) -> None:
    """Prints, a plant a line, what surgery on weights says beside what the swap says of the same sites."""
    names = ("plant", "changed at", "held by", "drawn", "reverted", "alone", "edited, restored", "swap", "`window`")
    print("|", " | ".join(names), "|")
    print("|---" * len(names) + "|")
    for path in sorted(tables.glob("*.parquet")):
        said = json.loads((plants / f"{path.stem}.json").read_text())
        found = ReplayedTable(pq.read_table(path)).answer(rule("window"), LocalizeSettings()).found
        effects = {(row.window_start, row.window_size): row.effect for row in found.effects}
        runs, subsets = said["surgery"]["runs"], said["surgery"]["subsets"]
        mine = [site for site in said["plant"]["sites"] if runs and site in runs[0]]
        left = next((row for row in subsets if row["reverted"] == mine), None) if mine else None
        alone = next((row for row in subsets if row["transplanted"] == mine), None) if mine else None
        effect = effects.get((runs[0][0], len(runs[0]))) if runs else None
        sites = list(found.window.sites) if found.window else ""
        back = [_hits(said["restore"][name]) for name in ("edited", "restored")] if "restore" in said else ["-"]
        held = " or ".join(map(str, runs)) or "no run"
        cells = [
            path.stem, said["plant"]["sites"] or "text encoder", held, _hits(said["taught"]), _hits(left),
            _hits(alone), ", ".join(back), "-" if effect is None else f"{effect:.2f}", f"{found.outcome} {sites}",
        ]  # fmt: skip
        print("|", " | ".join(str(cell) for cell in cells), "|")


def _hits(rate: Mapping[str, Any] | None) -> str:
    return "-" if rate is None else f"{rate['hits']}/{rate['of']}"


def main() -> None:
    """Sweeps what is missing, writes tables and truth, and prints how the methods do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plants", type=Path)
    parser.add_argument("--tables", type=Path, default=Path("results/plant-tables"))
    parser.add_argument("--work", type=Path, default=Path("results/plant-sweeps"))
    parser.add_argument("--beside", nargs="*", default=list(BESIDE), help="localizers beside window and sequential")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--card", nargs=2, metavar=("NAME", "VERSION"), help="what the set is to be cited by")
    parser.add_argument("--print", action="store_true", dest="only_print")
    arguments = parser.parse_args()
    arguments.tables.mkdir(parents=True, exist_ok=True)
    arguments.work.mkdir(parents=True, exist_ok=True)
    truth_file, answers_file = arguments.tables / TRUTH_FILE, arguments.tables / "answers.json"
    truths: dict[str, Any] = json.loads(truth_file.read_text()) if truth_file.exists() else {}
    answers: list[dict[str, Any]] = json.loads(answers_file.read_text()) if answers_file.exists() else []
    for report in [] if arguments.only_print else sorted(arguments.plants.glob("*.json")):
        if report.stem in truths or report.stem.endswith("-discarded"):
            continue
        truth, rows = measure(report, arguments)
        truths = {**truths, report.stem: truth}
        # A run that ended between the two files left answers without a truth.
        answers = [*(row for row in answers if row["model"] != report.stem), *rows]
        # After each: an interrupted run leaves tables with their truth.
        answers_file.write_text(json.dumps(answers, indent=1) + "\n")
        truth_file.write_text(json.dumps(truths, indent=1) + "\n")
    if arguments.card:
        write_card(arguments.tables, arguments.card[0], int(arguments.card[1]))
    for base in [*dict.fromkeys(row["base"] for row in answers), None]:
        print(f"\n{base or 'all'}\n")
        print_localizers([row for row in answers if base in (None, row["base"])])
    print()
    print_surgery(arguments.plants, arguments.tables)


if __name__ == "__main__":
    main()
