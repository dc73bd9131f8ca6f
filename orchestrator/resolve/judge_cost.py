"""What a judge takes: memory beside the pipeline on every worker, and time per picture. Without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from loco_core import plugins
from loco_core.diffusion.folders import scorer_files
from loco_core.diffusion.headers import SUFFIX, read_header
from loco_core.diffusion.hub import SCORER, cached_folder, on_hub, outlined
from loco_core.errors import ModelError
from loco_core.scoring.base import judge_task
from loco_core.scoring.classes import classes_of
from orchestrator.resolve.resolved import Resolved

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_PER_SECOND = 1e13
"""Operations a second that are assumed of a GPU: half of what an A100 does in float32."""
_TOKENS = 300
"""Tokens that are assumed of a picture and what is asked of it."""


@dataclass(frozen=True)
class JudgeCost:
    """What a judge takes.

    Attributes:
        judge: what it is called in results.
        bytes: its weights in memory; None where nobody knows before it is loaded.
        seconds_per_image: assumed of one picture on a GPU; None where its weights are not known.
    """

    judge: str
    bytes: int | None
    seconds_per_image: float | None


def judge_cost(resolved: Resolved) -> JudgeCost | None:
    """Returns what the judge of a sweep takes; None where it has none.

    A pass of a model takes two operations for each parameter and token; a judge says how many passes it makes of a
    picture by ``passes(task)``, without that it is one.

    Args:
        resolved: the sweep with its names looked up.
    """
    judge = resolved.judge
    if judge is None:
        return None
    module = plugins.load("judges", judge.use)
    task = judge_task(judge.choice, classes_of(resolved.attributes))
    path = judge.model or str(getattr(module, "WEIGHTS", ""))
    if not path:
        return JudgeCost(judge.id, None, None)
    found = _numbers(path, judge.revision)
    if found is None:
        return JudgeCost(judge.id, None, None)
    numbers, stored = found
    each = _BYTES.get(str(getattr(task.settings if task else None, "dtype", "float32")))
    passes = int(module.passes(task)) if task is not None and hasattr(module, "passes") else 1
    return JudgeCost(judge.id, numbers * each if each else stored, passes * 2 * numbers * _TOKENS / _PER_SECOND)


def _numbers(path: str, revision: str | None) -> tuple[int, int] | None:
    """Returns how many numbers the weights at a place are, and their bytes as stored; None where nobody knows."""
    folder = cached_folder(path, revision, "config.json")
    if folder is not None and (found := _in_folder(folder)) is not None:
        return found
    if not on_hub(path):
        return None
    try:
        stored = sum(file.size for file in outlined(path, revision, SCORER) if Path(file.name).suffix == SUFFIX)
    except ModelError:
        # The hub is out of reach. Looking up the weights says so.
        return None
    # The hub says no format before a file is here; most judges are published in float32.
    return (stored // 4, stored) if stored else None


def _in_folder(folder: Path) -> tuple[int, int] | None:
    """Returns the same of a folder; None of half a download."""
    try:
        files = [file for file in scorer_files(folder) if file.suffix == SUFFIX]
        entries = [entry for file in files for entry in read_header(file).values()]
    except ModelError:
        return None
    sizes = sum(file.stat().st_size for file in files)
    return (sum(math.prod(entry.shape) for entry in entries), sizes) if entries else None
