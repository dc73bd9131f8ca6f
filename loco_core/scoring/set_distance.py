"""The distance of two sets of pictures with an interval, from features alone: no torch, and no pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loco_core import plugins
from loco_core.scoring.metric import metric_info
from loco_core.statistics import Floats

RESAMPLES = 500
LEAST_PROMPTS, LEAST_FOR_INTERVAL = 2, 4
"""Prompts without which there is no distance, and no interval: two cannot tell how much prompts differ."""


@dataclass(frozen=True)
class SetDistance:
    """The distance of two sets, about prompts like these and these seeds.

    Attributes:
        value: the metric's estimate; None where there are too few pictures for one.
        low: lower end of the interval of what the value would be with very many prompts; None without one.
        high: upper end.
        note: why there is no value, no interval, or what is wrong with the value; empty where nothing is.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


def distance_code(name: str) -> str:
    """Returns a hash of the code that computes a distance and its interval; another version may compute another.

    Args:
        name: a key of the plug-in group ``metrics``, or a Python file.

    Raises:
        SpecError: there is no such metric.
    """
    code = plugins.source("metrics", name) or Path(str(plugins.load("metrics", name).__file__)).read_bytes()
    return hashlib.sha256(Path(__file__).read_bytes() + code).hexdigest()


def set_distance(
    name: str, before: Floats, after: Floats, prompts: Sequence[str], confidence: float = 0.95
) -> SetDistance:
    """Compares two sets of pictures that are paired by prompt and seed.

    The interval comes from resampled prompts, both sets together (Efron and Tibshirani 1993, chapters 8 and 10):
    Student's, with the bootstrap's standard error, times the root of n / (n - 1) as it is too small by that for n
    prompts, around the value less the bootstrap's bias. So of an estimate that is biased in small sets, as FID is, the
    value itself may lie above the interval. Where a resample holds too few pictures for the metric there is none: of as
    many prompts as there are, about 63 % are drawn.

    Args:
        name: a key of the plug-in group ``metrics``, or a Python file.
        before: ``(n, width)`` features of pictures without the edit.
        after: ``(n, width)`` of those with it.
        prompts: prompt of each picture.
        confidence: of the two-sided interval.

    Raises:
        SpecError: the metric is none of sets.
    """
    from scipy import special

    names, numbers = np.unique(np.asarray(prompts, dtype=object).astype(str), return_inverse=True)
    count = len(names)
    if count < LEAST_PROMPTS:
        return SetDistance(None, note=f"too few pictures: of {count} prompts, expected {LEAST_PROMPTS} or more")
    distances, draws = plugins.function("metrics", name, "distances"), np.random.default_rng(0)
    drawn = draws.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
    sets = before.astype(np.float64), after.astype(np.float64), numbers
    if odd := int((~np.isfinite(np.hstack(sets[:2]))).any(1).sum()):
        return SetDistance(None, note=f"no value: features of {odd} of {len(before)} pictures are not finite")
    try:
        value = float(distances(*sets, np.ones((1, count)))[0])
        found = np.asarray(distances(*sets, drawn)) if count >= LEAST_FOR_INTERVAL else np.empty(0)
    except Exception as error:  # a plug-in may raise anything, and the run that it measures is done
        return SetDistance(None, note=f"no value: {Path(name).name} ended with {type(error).__name__}")
    if not np.isfinite(value):
        return SetDistance(None, note=f"no value: the distance of {len(before)} pictures is {value}")
    info, width = metric_info(name), before.shape[1]
    if note := info.lacks(len(before), width):
        return SetDistance(value, note=note)
    if count < LEAST_FOR_INTERVAL:
        return SetDistance(value, note=f"no interval: {count} prompts, expected {LEAST_FOR_INTERVAL} or more")
    fewest = int(((drawn > 0) @ np.bincount(numbers)).min())
    if note := info.lacks(fewest, width):
        return SetDistance(value, note=f"no interval, as resamples would be {note}")
    found = found[np.isfinite(found)]
    half = special.stdtrit(count - 1, (1 + confidence) / 2) * found.std(ddof=1) * (count / (count - 1)) ** 0.5
    centre = 2 * value - found.mean()
    return SetDistance(value, float(max(centre - half, info.least)), float(max(centre + half, info.least)))
