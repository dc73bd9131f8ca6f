"""What metrics say of edits, with intervals: from ``edits``, ``picture_metrics`` and ``features``, without torch."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from loco_core.scoring.set_distance import distance_code, set_distance
from loco_core.statistics import crossed_means
from orchestrator.store import SCHEMA_VERSION

CONFIDENCE = 0.95
_ABOUT = ("edit_id", "scope", "attribute", "metric", "prompt_role")
About = tuple[str, str, str, str, str]
"""The columns `_ABOUT` of a row."""
SHOWN_ROLES = ("target", "unrelated")
"""Roles whose metrics people are shown: how much an edit changes what it is about, and what it should leave alone."""
Row = Mapping[str, Any]
_Key = tuple[str, str, str]
_FOUND = ("value", "ci_low", "ci_high", "note")


def metric_rows(
    edits: Sequence[Row],
    pictures: pa.Table,
    features: pa.Table,
    sources: Mapping[str, str],
    before: Iterable[Row] = (),
) -> list[dict[str, Any]]:
    """Returns rows of ``metrics``: one per edit, attribute, metric and role of prompts.

    Distances of sets take long, so that those are kept whose ``inputs`` are as they were.

    Args:
        edits: rows of ``edits``.
        pictures: ``picture_metrics``.
        features: ``features``.
        sources: keys and files of the metrics of sets, by their ids; distances of others are left out.
        before: rows of ``metrics`` as they were.
    """
    known: dict[_Key, Row] = {}
    for edit in edits:
        known.setdefault((edit["edit_id"], edit["scope"], edit["attribute"]), edit)
    rows = []
    for about, values in _by_edit(pictures.to_pylist(), known).items():
        rows.append(_row(known[about[:3]], about, _mean(values), values))
    # A distance without a value is tried again: what was in the way, such as too little memory, may have passed.
    there = {row["inputs"]: row for row in before if row["inputs"] and row["value"] is not None}
    rows += _sets(known, features, sources, lambda inputs: there.get(inputs))
    return sorted(rows, key=lambda row: (row["model"], row["attribute"], *_about(row)))


def in_words(row: Row) -> str:
    """Returns a value of ``metrics`` with its interval; a dash where there is none, a star where something is wrong."""
    if row["value"] is None:
        return "–"
    if row["ci_low"] is None:
        return f"{row['value']:.3g} *"
    return f"{row['value']:.3g} [{row['ci_low']:.3g}, {row['ci_high']:.3g}]"


def _about(row: Row) -> About:
    edit_id, scope, attribute, metric, role = (row[name] for name in _ABOUT)
    return edit_id, scope, attribute, metric, role


def _by_edit(rows: Iterable[Row], known: Mapping[_Key, Row]) -> dict[About, list[Row]]:
    """Groups rows by edit, scope, metric and role; of a picture that was measured twice the last one counts."""
    found: dict[About, dict[tuple[str, int], Row]] = defaultdict(dict)
    for row in rows:
        about = _about(row)
        if about[:3] in known:
            found[about][row["prompt"], row["seed"]] = row
    return {about: list(values.values()) for about, values in found.items()}


def _row(edit: Row, about: About, result: Mapping[str, Any], values: Sequence[Row]) -> dict[str, Any]:
    like = values[0]
    return {
        "sweep_id": like["sweep_id"], "model": edit["model"],
        "editor": edit["editor"], **dict(zip(_ABOUT, about, strict=True)), "weights": like["weights"],
        "weights_hash": like["weights_hash"], **result, "pictures": len(values),
        "prompts": len({row["prompt"] for row in values}), "schema_version": SCHEMA_VERSION,
        "inputs": result.get("inputs"),
    }  # fmt: skip


def _mean(values: Sequence[Row]) -> dict[str, Any]:
    """Means over prompts and seeds, both taken as random."""
    if odd := sum(not np.isfinite(row["value"]) for row in values):
        note = f"no value: that of {odd} of {len(values)} pictures is not finite"
        return {"value": None, "ci_low": None, "ci_high": None, "note": note}
    prompts, seeds = ({name: n for n, name in enumerate(dict.fromkeys(names))} for names in (
        [row["prompt"] for row in values], [row["seed"] for row in values]
    ))  # fmt: skip
    grid = np.zeros((len(prompts), len(seeds), 1))
    present = np.zeros(grid.shape, dtype=bool)
    for row in values:
        at = prompts[row["prompt"]], seeds[row["seed"]]
        grid[at], present[at] = row["value"], True
    means = crossed_means(grid, present)
    low, high = (float(end[0]) for end in (means.low((1 + CONFIDENCE) / 2), means.high((1 + CONFIDENCE) / 2)))
    if not np.isfinite(low):
        return {"value": float(means.value[0]), "ci_low": None, "ci_high": None, "note": "no interval: one picture"}
    return {"value": float(means.value[0]), "ci_low": low, "ci_high": high, "note": ""}


def _sets(
    known: Mapping[_Key, Row],
    features: pa.Table,
    sources: Mapping[str, str],
    kept: Callable[[str], Row | None],
) -> list[dict[str, Any]]:
    # Thousands of numbers a picture: they stay in Arrow's memory.
    listed = features.drop_columns(["features"]).to_pylist()
    for number, row in enumerate(listed):
        row["number"] = number
    vectors = _vectors(features["features"])
    before = {
        (row["unit_id"], row["metric"], row["prompt"], row["seed"]): row for row in listed if row["edit_id"] is None
    }
    rows, codes = [], {metric: distance_code(source) for metric, source in sources.items()}
    for about, values in _by_edit(listed, known).items():
        pairs = [
            (before[key], row)
            for row in values
            if (key := (row["unit_id"], row["metric"], row["prompt"], row["seed"])) in before
        ]
        if not pairs or about[3] not in sources:
            continue
        sets = [np.stack([vectors[pair[side]["number"]] for pair in pairs]) for side in (0, 1)]
        prompts = [row["prompt"] for _, row in pairs]
        inputs = _inputs(about, codes[about[3]], sets, prompts)
        if (old := kept(inputs)) is not None:
            result = {name: old[name] for name in _FOUND}
        else:
            olds, news = (each.astype(np.float64) for each in sets)
            found = set_distance(sources[about[3]], olds, news, prompts, CONFIDENCE)
            result = dict(zip(_FOUND, (found.value, found.low, found.high, found.note), strict=True))
        rows.append(_row(known[about[:3]], about, {**result, "inputs": inputs}, [row for _, row in pairs]))
    return rows


def _vectors(column: pa.ChunkedArray[Any]) -> list[np.ndarray]:
    """Returns the lists of a column, as views."""
    found: list[np.ndarray] = []
    # Arrow's types do not tell arrays of lists from others.
    chunks: list[Any] = column.chunks
    for chunk in chunks:
        flat, ends = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        found += [flat[start:end] for start, end in pairwise(ends)]
    return found


def _inputs(about: About, code: str, sets: Sequence[np.ndarray], prompts: Sequence[str]) -> str:
    """Returns a hash of all that a distance follows from."""
    digest = hashlib.sha256("\n".join((*about, code, str(CONFIDENCE), str(sets[0].shape), *prompts)).encode())
    for each in sets:
        digest.update(np.ascontiguousarray(each, np.float32).tobytes())
    return digest.hexdigest()
