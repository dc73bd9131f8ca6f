"""Every localization and edit method on the same prompts and seeds; ``python benchmarks/methods.py [MODEL ...]``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from loco_core.toyworld.planting import MODELS
from orchestrator import driver
from orchestrator.backends.ray import RayBackend
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec

ATTRIBUTES = {
    "style": ("style/lumio", "style/velor", "style/sorelle"),
    "object": ("object/star", "object/circle", "object/heart"),
    "fact": ("fact/zandia", "fact/morova", "fact/kestria"),
}


def attributes(model: str) -> list[str]:
    """Returns three attributes of every kind that has a known place; two of every kind of the natural model."""
    plants = MODELS[model].plants if model in MODELS else {}
    kinds = [kind for kind in ATTRIBUTES if model not in MODELS or plants[kind].outcome != "redundant"]
    count = 3 if model in MODELS else 2
    return [name for kind in kinds for name in ATTRIBUTES[kind][:count]]


def sweep(model: str) -> SweepSpec:
    """Returns the sweep of one model."""
    return SweepSpec.model_validate(
        {
            "name": f"methods-{model}", "models": [model], "attributes": attributes(model),
            "windows": {"sizes": [1, 2, 3, 4]}, "prompts": 8, "seeds": 4,
            "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": 62}, "controls": {"random": 0},
            "scorer": "toy-clip", "images": "none",
        },
        strict=False,
    )  # fmt: skip


def main() -> None:
    """Runs the sweeps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--work", type=Path, default=Path("results/methods"))
    arguments = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    for model in arguments.models or ("toy", *MODELS):
        driver.run(
            sweep(model), str(arguments.work / model),
            lambda settings: RayBackend(settings, workers=workers, threads=1),
            on_progress=lambda _: None, stop=StopSwitch(),
            on_localized=lambda found: print(found.model, found.attribute, found.outcome, found.reason, flush=True),
        )  # fmt: skip


if __name__ == "__main__":
    main()
