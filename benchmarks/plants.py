"""Sweeps plants by the place of parameters, and keeps what ``bench-localizer`` reads; resumable.

``python -m benchmarks.plants PLANTS --tables TABLES`` reads what ``python -m loco_core.toyworld.plants --out PLANTS``
wrote, and keeps scores, traces, truth and report of every plant: ``loco-sweep bench-localizer all --planted TABLES``
holds the localizers against them. What differs from the base is the planted rows alone, so windows are swapped in
weights that no swap has trained. ``--beside mine.py`` sweeps what a localizer of others reads beside the bundled ones.

``--unknown`` sweeps the windows once more with a name that nobody knows in the donors' place: a word that the model
knows can push itself in at sites that hold nothing. The last table holds surgery on weights beside both.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.agreement import print_agreement, unknown_donor
from benchmarks.methods import BESIDE, print_localizers, print_table, served
from benchmarks.planted import COLUMNS
from loco_core.attributes import attribute
from loco_core.editing.deltas import applied, read_delta
from loco_core.face.model import load_model
from loco_core.localization.bench.methods import run_methods
from loco_core.localization.bench.planted import REPORTS, TRACES, TRUTH_FILE, UNKNOWN_DONOR, write_card
from loco_core.toyworld.plants.draw import Plant, plant_from_json
from loco_core.toyworld.plants.kept import write_whole
from loco_core.toyworld.plants.surgery import truth_of
from loco_core.toyworld.plants.teach import named
from loco_core.tracing.methods import methods
from orchestrator.backends.choice import backend_maker
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.spec.attributes import AttributeSpec, RecordSpec
from orchestrator.spec.places import key_or_file
from orchestrator.store import Store, open_store

FIRST_SEED = 300
"""No sweep of the older planted models has it."""
DISCARDED = "-discarded"
SCORE_COLUMNS = [*COLUMNS, "seconds"]
TRACE_COLUMNS = [
    "model", "attribute", "attribute_kind", "mode", "method", "control", "component", "layer", "layer_name",
    "prompt_id", "template_id", "seed", "value", "scorer", "status", "seconds",
]  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """What a plant is swept with.

    Attributes:
        prompts: how many.
        seeds: how many.
        steps: denoising steps.
        workers: processes that draw; 0 draws in this one.
    """

    prompts: int = 8
    seeds: int = 4
    steps: int = 8
    workers: int = 0


def write_model(plant: Plant, delta: Path, folder: Path) -> None:
    """Writes the base with the planted rows as a pipeline folder."""
    model, rows = load_model(plant.base, device="cpu"), read_delta(delta)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
    with applied(model.loaded, rows, model.weights):
        model.loaded.pipeline.save_pretrained(temporary, safe_serialization=True)
    temporary.rename(folder)


def attribute_of(plant: Plant, donor: str = "") -> AttributeSpec:
    """Returns the attribute of the look with the name in its prompts; texts that score stay.

    Args:
        plant: the plant.
        donor: word that stands in the donors where the name stands in the prompts; empty keeps the bundled donors.
    """
    item = attribute(f"{plant.look_kind}/{plant.look}")
    records = []
    for record in item.records:
        said = {name: value for name, value in asdict(record).items() if name in RecordSpec.model_fields}
        said["prompt"] = named(record.prompt, plant.look, plant.name)
        if donor:
            said["donor"] = named(record.prompt, plant.look, donor)
        records.append(RecordSpec(**said))
    return AttributeSpec(kind=plant.look_kind, name=plant.name, mode=item.mode, records=tuple(records))


def sweep(plant: Plant, folder: Path, budget: Budget, sites: int, donor: str = "") -> SweepSpec:
    """Returns the sweep of one plant's windows."""
    return SweepSpec.model_validate(
        {
            "name": plant.key, "models": [{"id": plant.key, "path": str(folder)}],
            "attributes": [attribute_of(plant, donor)], "windows": {"sizes": list(range(1, sites // 4 + 1))},
            "prompts": budget.prompts, "seeds": list(range(FIRST_SEED, FIRST_SEED + budget.seeds)),
            "generation": {"steps": budget.steps, "guidance_scale": 3.0, "batch_size": 62},
            # An identity swap decides nothing.
            "controls": {"random": 0, "identity": False}, "scorer": "toy-clip", "images": "none",
        },
        strict=False,
    )  # fmt: skip


def swept(spec: SweepSpec, root: Path, budget: Budget) -> tuple[Store, float]:
    """Runs what is missing of a sweep; returns its results, and which share of the time this process computed.

    A machine that does something else, too, draws more slowly by the clock: times of pictures are multiplied by the
    share, which makes them seconds of CPU. It is kept beside the sweep by the run that draws all of it. Where a sweep
    was resumed, and of workers of Ray, which are other processes, it is 1: times stay those of the clock.
    """
    kind, workers = ("ray", budget.workers) if budget.workers else ("inline", None)
    kept, resumed = root.with_name(f"{root.name}-share.json"), root.exists()
    clock, computed = time.monotonic(), time.process_time()
    run_sweep(
        spec, str(root), backend_maker(kind, workers, threads=1), on_progress=lambda _: None, stop=StopSwitch(),
        on_localized=lambda found: print(found.model, found.localizer, found.outcome, found.reason, flush=True),
    )  # fmt: skip
    if not resumed:
        share = min(1.0, (time.process_time() - computed) / (time.monotonic() - clock))
        _write_json(kept, 1.0 if budget.workers else share)
    return open_store(str(root)), json.loads(kept.read_text()) if kept.exists() else 1.0


def measure(report: Path, tables: Path, work: Path, budget: Budget, beside: Sequence[str]) -> None:
    """Sweeps one plant with all methods that serve it, and keeps scores, traces, report and truth."""
    said = json.loads(report.read_text())
    plant = plant_from_json(said["plant"])
    place = _place(plant, report, work)
    spec = served(sweep(plant, place / "model", budget, said["sites"]), beside)
    store, share = swept(spec, place / "sweep", budget)
    # That of a plant of this name that was drawn otherwise.
    (tables / UNKNOWN_DONOR / f"{plant.key}.parquet").unlink(missing_ok=True)
    _keep(tables / TRACES / f"{plant.key}.parquet", store.read("traces").select(TRACE_COLUMNS), share)
    _keep(tables / f"{plant.key}.parquet", store.read("scores").select(SCORE_COLUMNS), share)
    path = tables / TRUTH_FILE
    truths: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    truths[plant.key] = {f"{plant.look_kind}/{plant.name}": truth_of(plant, said)}
    _write_json(path, dict(sorted(truths.items())))
    # Last of all: it tells that the plant is measured.
    _write_json(tables / REPORTS / f"{plant.key}.json", said)


def measure_unknown(report: Path, tables: Path, work: Path, budget: Budget) -> None:
    """Sweeps the windows of one plant with an unknown name as the donor, and keeps the scores apart."""
    said = json.loads(report.read_text())
    plant = plant_from_json(said["plant"])
    donor, _ = unknown_donor(said)
    place = _place(plant, report, work)
    spec = sweep(plant, place / "model", budget, said["sites"], donor)
    store, share = swept(spec, place / "unknown", budget)
    _keep(tables / UNKNOWN_DONOR / f"{plant.key}.parquet", store.read("scores").select(SCORE_COLUMNS), share)


def reports_of(plants: Path) -> list[Path]:
    """Returns the reports of the plants that took."""
    return [path for path in sorted(plants.glob("*.json")) if not path.stem.endswith(DISCARDED)]


def is_measured(report: Path, tables: Path) -> bool:
    """Tells whether tables are there of this very plant, not of one that was drawn otherwise under its name."""
    kept = tables / REPORTS / report.name
    return kept.exists() and json.loads(kept.read_text()) == json.loads(report.read_text())


def _place(plant: Plant, report: Path, work: Path) -> Path:
    """Returns the folder of a plant's sweeps, with its model in it."""
    delta = report.with_suffix(".safetensors")
    place = (work / f"{plant.key}-{hashlib.sha256(delta.read_bytes()).hexdigest()[:8]}").resolve()
    place.mkdir(exist_ok=True)
    if not (place / "model").exists():
        write_model(plant, delta, place / "model")
    return place


def _keep(path: Path, rows: pa.Table, share: float) -> None:
    place = rows.column_names.index("seconds")
    rows = rows.set_column(place, "seconds", pc.cast(pc.multiply(rows["seconds"], share), pa.float32()))
    written = io.BytesIO()
    pq.write_table(rows, written, compression="zstd")
    write_whole(path, written.getvalue())


def _write_json(path: Path, said: Any) -> None:
    write_whole(path, (json.dumps(said, indent=1) + "\n").encode())


def print_methods(tables: Path, beside: Sequence[str]) -> None:
    """Prints how the methods do on the plants of each base, and on all."""
    held = run_methods([tables], methods(tuple(dict.fromkeys(("window", "sequential", *beside)))))
    bases = {path.stem: json.loads(path.read_text())["plant"]["base"] for path in (tables / REPORTS).glob("*.json")}
    for base in sorted({*bases.values()}):
        some = {
            name: tuple(result for result in results if bases.get(result.model) == base)
            for name, results in held.results.items()
        }
        print(f"\n{base}\n")
        print_localizers(replace(held, results=some, tables=sum(there == base for there in bases.values())))
    print("\nall\n")
    print_localizers(held)


def print_discarded(tables: Path) -> None:
    """Prints how many draws of the places that have a plant were discarded, by base and reason."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in (tables / REPORTS).glob("*.json"):
        said = json.loads(path.read_text())
        # The figures behind a reason are those of one draw.
        counts.update((said["plant"]["base"], draw["reason"].partition(" (")[0]) for draw in said.get("discarded", ()))
    rows = sorted(counts.items(), key=lambda item: (item[0][0], -item[1]))
    print_table(("base", "draws that were discarded", "why"), ((base, str(count), why) for (base, why), count in rows))


def main(words: Sequence[str] | None = None) -> None:
    """Sweeps what is missing, writes tables and truth, and prints how the methods do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plants", type=Path)
    parser.add_argument("--tables", type=Path, default=Path("results/plant-tables"))
    parser.add_argument("--work", type=Path, default=Path("results/plant-sweeps"))
    parser.add_argument("--beside", nargs="*", default=list(BESIDE), help="localizers beside window and sequential")
    parser.add_argument("--prompts", type=int, default=Budget().prompts)
    parser.add_argument("--seeds", type=int, default=Budget().seeds)
    parser.add_argument("--steps", type=int, default=Budget().steps)
    parser.add_argument("--workers", type=int, default=0, help="processes of Ray that draw; 0 draws in this one")
    parser.add_argument("--unknown", action="store_true", help="sweep windows with an unknown name as the donor, too")
    parser.add_argument("--card", nargs=2, metavar=("NAME", "VERSION"), help="what the set is to be cited by")
    parser.add_argument("--print", action="store_true", dest="only_print")
    arguments = parser.parse_args(words)
    tables, work = arguments.tables, arguments.work
    tables.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    budget = Budget(arguments.prompts, arguments.seeds, arguments.steps, arguments.workers)
    beside = [key_or_file(name) for name in arguments.beside]
    if not arguments.only_print:
        # More may have been drawn meanwhile.
        while left := [path for path in reports_of(arguments.plants) if not is_measured(path, tables)]:
            measure(left[0], tables, work, budget, beside)
    if arguments.unknown and not arguments.only_print:
        for report in reports_of(arguments.plants):
            if not (tables / UNKNOWN_DONOR / f"{report.stem}.parquet").exists():
                measure_unknown(report, tables, work, budget)
    if arguments.card:
        write_card(tables, arguments.card[0], int(arguments.card[1]))
    print_methods(tables, beside)
    print()
    print_agreement(tables)
    print()
    print_discarded(tables)


if __name__ == "__main__":
    main()
