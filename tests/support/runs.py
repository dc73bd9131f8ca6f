"""Whole runs on real pipelines in this process, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from orchestrator.backends.inline import InlineBackend
from orchestrator.runs.sweep import RunResult, run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Backend
from orchestrator.spec import SweepSpec
from orchestrator.worker import WorkerSettings

EDIT_TABLES = ("scores", "edits", "evaluations")


def localizer_of(start: int, size: int) -> str:
    """Returns the text of a localizer that names one window whatever it reads: random models hold nothing anywhere."""
    return f"""
from dataclasses import replace
from loco_core.localization.localizers.window import localize as honest

def localize(scores, settings, site_names=()):
    return replace(honest(scores, settings, site_names), outcome="localized", window_start={start},
                   window_size={size}, wants=())
"""


def inline(settings: WorkerSettings) -> Backend:
    """Returns a backend of one thread in this process."""
    return InlineBackend(settings, threads=1)


def run(
    spec: SweepSpec, root: Path, make: Callable[[WorkerSettings], Backend] = inline, *, retry: bool = False
) -> RunResult:
    """Runs a sweep into a folder, in silence."""
    return run_sweep(
        spec, str(root), make, on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch(), retry=retry
    )


def edit_tables(root: Path) -> dict[str, pd.DataFrame]:
    """Reads scores, edits and evaluations of a results folder, in a fixed order and without what differs by run."""
    moving = ["attempt", "seconds", "device", "torch_version"]
    found = {name: pd.read_parquet(root / name) for name in EDIT_TABLES}
    return {
        name: frame.drop(columns=[c for c in moving if c in frame]).sort_values(list(frame.columns[:3]) + [
            c for c in ("prompt", "judge_kind", "control", "window_start", "cell_id") if c in frame
        ]).reset_index(drop=True)
        for name, frame in found.items()
    }  # fmt: skip
