"""The driver's side is light: no module of it loads torch, or what only some of its commands need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator

HEAVY = ("torch", "diffusers", "transformers", "ray", "matplotlib", "scipy", "pandas")
ROOMS = ("spec", "resolve", "store", "scheduler", "runs", "cli", "face", "reporting", "viewing")
# A localizer is loaded by its name.
SAY = (
    "import importlib, json, sys; names, heavy = json.loads(sys.argv[1]);"
    "[importlib.import_module(name) for name in names];"
    "print(json.dumps([name for name in heavy if name in sys.modules]))"
)


def modules() -> list[str]:
    """All modules of the driver's side."""
    root = Path(orchestrator.__file__).parent
    rooms = [file for room in ROOMS for file in (root / room).rglob("*.py")]
    stages = [*root.glob("stages/*.py"), *root.glob("stages/*/plan.py"), *root.glob("stages/*/stage.py")]
    # What makes fake storage for tests runs in them, and what a worker is given in workers.
    beside = {root / "store" / "testing.py", root / "stages" / "context.py"}
    files = [file for file in (*rooms, *stages) if file not in beside]
    return ["orchestrator." + ".".join(file.relative_to(root).with_suffix("").parts) for file in files]


def loaded_by(names: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SAY, json.dumps([names, HEAVY])], capture_output=True, text=True, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_no_module_of_the_driver_loads_torch() -> None:
    names = modules()
    assert len(names) > 80
    assert loaded_by(names) == []


@pytest.mark.parametrize("name", ["loco_core.editing.ridge"])
def test_what_loads_torch_is_found(name: str) -> None:
    assert loaded_by([name])[0] == "torch"
