"""``demo``: the whole chain on the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import BackendName, BackendOption, WorkersOption

SWEEP = Path(__file__).parent / "demo.yaml"


def demo(
    results: Annotated[str, typer.Option("--results", help="Results folder.")] = "demo-results",
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
) -> None:
    """Try the whole chain on bundled toy models.

    It finds the layers of a style and of a fact in two models, one of them with known layers, and edits them.
    """
    from orchestrator.cli.outcome import execute
    from orchestrator.spec import load_sweep
    from orchestrator.spec.places import anchored

    print(f"running {SWEEP}; Ctrl-C stops, the same command resumes")
    execute(load_sweep(SWEEP), anchored(results), backend, workers, None, None, None)
