"""Pictures per cell, of every preset and starter: ``python -m benchmarks.pictures [--before FILE] [--rounds]``.

Each sweep is planned for its models as published, without weights. ``--json`` prints the numbers; of another version of
the code they are given with ``--before``. ``--rounds`` counts what a run has planned at its end, with made-up scores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import scale
from orchestrator.backends.inline import InlineBackend
from orchestrator.resolve.lookup import outline
from orchestrator.runs.outlook import outlook
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.spec.yaml_file import load_sweep
from orchestrator.stages.sweep.plan import counted
from orchestrator.stages.sweep.stored import planned
from orchestrator.store import Store
from orchestrator.store.testing import MemoryBlobs

ROOT = Path(__file__).resolve().parents[1]
FILES = (*sorted(ROOT.glob("orchestrator/presets/locogen-*.yaml")), ROOT / "cluster" / "sweep.yaml")
STARTER = ROOT / "orchestrator" / "cli" / "starter.yaml"
SIZES = (2, 4, 8, 16)
MODELS = ("sdxl", "sd3", "flux")
"""Models that the starter is planned with as well."""


def sweeps() -> Iterator[tuple[str, SweepSpec]]:
    """Yields every sweep with its name."""
    for path in FILES:
        yield path.stem if path.parent.name == "presets" else "cluster/sweep.yaml", load_sweep(path)
    starter = load_sweep(STARTER)
    yield "init", starter
    localize = starter.localize.model_copy(update={"localizer": "sequential"})
    yield "init, sequential", starter.model_copy(update={"localize": localize})
    for model in MODELS:
        content = {
            "name": model, "models": [{"id": model, "guidance_scale": 3.5}], "attributes": ["style/van-gogh"],
            "prompts": 8, "seeds": 4, "windows": {"sizes": [1, 2, 3, 4]}, "scorer": "openai/clip-vit-large-patch14",
        }  # fmt: skip
        yield model, SweepSpec.model_validate(content, strict=False)


def pictures(spec: SweepSpec, batch: int) -> dict[str, Any]:
    """Returns what a sweep costs in batches of a size, edits aside."""
    generation = spec.generation.model_copy(update={"batch_size": batch})
    spec = spec.model_copy(update={"generation": generation, "edit": None})
    found = outlook(spec, outline(spec), None)
    most = getattr(found, "most_images_per_cell", None)
    return {"cells": found.cells, "units": found.units, "images": found.images, "most_images_per_cell": most}


def rounds(localizer: str) -> str:
    """Runs a sweep of made-up scores, and says what was planned in all, complements and later rounds included."""
    spec = scale.sweep(1).model_copy(update={"prompts": 8, "seeds": (0, 1, 2, 3)})
    spec = spec.model_copy(update={"localize": spec.localize.model_copy(update={"localizer": localizer})})
    store = Store(MemoryBlobs())
    run_sweep(
        spec, "results",
        lambda settings: InlineBackend(
            lambda model: scale.NoOpWorker(settings, model, scale.Tally(), store), threads=1
        ),
        on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch(), store=store,
        resolved=scale.resolved(),
    )  # fmt: skip
    found = counted(planned(store, spec.generation.steps))
    return f"{localizer}: {found.cells:,} cells, {found.images:,} pictures, {found.images / found.cells:.2f} per cell"


def table(now: dict[str, Any], before: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a table in Markdown."""
    yield "| sweep | " + " | ".join(f"batch {size}" for size in SIZES) + " |"
    yield "|---|" + "---|" * len(SIZES)
    for name, by_size in now.items():
        entries = []
        for size, found in by_size.items():
            old = before.get(name, {}).get(size)
            least, most = found["images"] / found["cells"], found["most_images_per_cell"]
            start = f"{old['images'] / old['cells']:.2f} → " if old else ""
            entries.append(f"{start}{least:.2f} ({most:.2f})")
        yield f"| {name} | " + " | ".join(entries) + " |"


def main() -> None:
    """Plans and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print numbers, for --before")
    parser.add_argument("--rounds", action="store_true", help="run sweeps of made-up scores to their end")
    parser.add_argument("--before", type=Path, help="what --json of another version printed")
    arguments = parser.parse_args()
    if arguments.rounds:
        print("\n".join(rounds(localizer) for localizer in ("window", "sequential")))
        return
    now = {name: {str(size): pictures(spec, size) for size in SIZES} for name, spec in sweeps()}
    if arguments.json:
        json.dump(now, sys.stdout, indent=1)
        return
    before = json.loads(arguments.before.read_text()) if arguments.before else {}
    print("\n".join(table(now, before)))


if __name__ == "__main__":
    main()
