"""Two results side by side: outcomes, effects with intervals of the difference, and what differs in the spec."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from loco_core.editing.base import named
from loco_core.errors import LocalizationError
from loco_core.localization.base import Localization
from loco_core.localization.difference import EffectDifference, effect_difference
from loco_core.localization.score_table import read_scores as read_table
from loco_core.tables import rows_where
from loco_core.types import Window
from orchestrator.runs.localize import ScoreSource, localize_results, read_scores, site_names
from orchestrator.stages.edit.metrics import SHOWN_ROLES, in_words
from orchestrator.stages.localize import under
from orchestrator.store.documents import Pinned
from orchestrator.store.keyed import BY_HAND, SEQUENCE, TOGETHER
from orchestrator.store.layout import RESOLVED

JUDGES = "judges of edits"
"""Stands for the judges beside the keys of the sweep."""


@dataclass(frozen=True)
class Outcome:
    """What was found of one attribute in one of the results.

    Attributes:
        outcome: the outcome in words.
        window: the window that it speaks of; None where it speaks of none.
    """

    outcome: str
    window: Window | None


@dataclass(frozen=True)
class Compared:
    """One attribute of one model in both results.

    Attributes:
        model: id of the model.
        attribute: key of the attribute.
        first: what the first results say; None where they do not have it.
        second: what the second say.
        differences: differences of effect, at the window that the first results name and at that of the second where
            it is another. Windows that only one of them swept have none.
    """

    model: str
    attribute: str
    first: Outcome | None
    second: Outcome | None
    differences: tuple[EffectDifference, ...]


@dataclass(frozen=True)
class ComparedMetric:
    """What a metric says of the chosen edits of an attribute, in both results.

    Attributes:
        model: id of the model.
        attribute: key of the attribute.
        edit: editor, and where it edits, in words.
        metric: id of the metric: the same in both, or they are two metrics.
        role: role of the prompts.
        first: value with its interval, in words; None where the first results do not have it.
        second: the same of the second.
    """

    model: str
    attribute: str
    edit: str
    metric: str
    role: str
    first: str | None
    second: str | None


@dataclass(frozen=True)
class Comparison:
    """Two results side by side.

    Attributes:
        attributes: one per model and attribute of either.
        metrics: one per chosen edit, metric and role of prompts of either.
        spec: keys of the sweep that differ, with the first and the second value, as JSON; absent keys are None. Judges
            of edits stand among them by the names that they have in ``evaluations``, which tell their weights and
            settings. None where one of them is a table without a sweep.
    """

    attributes: tuple[Compared, ...]
    metrics: tuple[ComparedMetric, ...]
    spec: tuple[tuple[str, str | None, str | None], ...] | None


def compare_results(first: str, second: str) -> Comparison:
    """Compares two results; each is localized as its own sweep says.

    Args:
        first: results root, or any Parquet with the columns of scores.
        second: the other one.

    Raises:
        LocoError: one of them cannot be read or localized.
    """
    sources = [read_scores(root) for root in (first, second)]
    found = [{(item.model, item.attribute): item for item in localize_results(source, {})[0]} for source in sources]
    keys = sorted(found[0].keys() | found[1].keys())
    specs = [_flat(source) for source in sources]
    differing = sorted(key for key in specs[0].keys() | specs[1].keys() if specs[0].get(key) != specs[1].get(key))
    return Comparison(
        tuple(_compared(key, sources, [of.get(key) for of in found]) for key in keys),
        _metrics(*(_of_chosen(source) for source in sources)),
        tuple((key, specs[0].get(key), specs[1].get(key)) for key in differing) if all(specs) else None,
    )


_MetricKey = tuple[str, str, str, str, str]


def _of_chosen(source: ScoreSource) -> dict[_MetricKey, str]:
    """Returns what metrics say of chosen edits, by all that tells them apart."""
    if source.store is None:
        return {}
    chosen = {
        (row["edit_id"], row["scope"], row["attribute"]): f"{named(row['editor'], row['targets'])} ({_where(row)})"
        for row in source.store.read("edits").to_pylist()
        if row["chosen"]
    }
    return {
        (row["model"], row["attribute"], edit, row["metric"], row["prompt_role"]): in_words(row)
        for row in source.store.read("metrics").to_pylist()
        if row["prompt_role"] in SHOWN_ROLES
        and (edit := chosen.get((row["edit_id"], row["scope"], row["attribute"]))) is not None
    }


def _where(edit: Mapping[str, Any]) -> str:
    """Says where an edit is; of those by hand there may be several in one attribute."""
    scope, localization = str(edit["scope"]).replace("_", " "), str(edit["localization"] or "")
    if not localization.startswith((BY_HAND, TOGETHER, SEQUENCE)):
        return scope
    return localization if localization.startswith(scope) else f"{scope}, {localization}"


def _metrics(first: Mapping[_MetricKey, str], second: Mapping[_MetricKey, str]) -> tuple[ComparedMetric, ...]:
    keys = sorted(first.keys() | second.keys())
    return tuple(ComparedMetric(*key, first.get(key), second.get(key)) for key in keys)


def _compared(key: tuple[str, str], sources: list[ScoreSource], found: list[Localization | None]) -> Compared:
    model, attribute = key
    outcomes = [None if item is None else Outcome(item.words, _window(item)) for item in found]
    windows = list(dict.fromkeys(item.window for item in outcomes if item is not None and item.window is not None))
    differences: list[EffectDifference] = []
    if all(item is not None for item in found) and windows:
        settings = sources[0].settings
        # Of an attribute that one of them could not score there are outcomes, and nothing to take a difference of.
        with suppress(LocalizationError):
            tables = [read_table(_scores(source, model, attribute), site_names(source, model)) for source in sources]
            every = (effect_difference(tables[0], tables[1], window, settings) for window in windows)
            differences = [item for item in every if item is not None]
    return Compared(model, attribute, outcomes[0], outcomes[1], tuple(differences))


def _window(found: Localization) -> Window | None:
    if found.best_start is None or found.best_size is None:
        return None
    return Window(found.best_start, found.best_size)


def _scores(source: ScoreSource, model: str, attribute: str) -> pa.Table:
    return under(rows_where(source.scores, model=model, attribute=attribute), source.intervention)


def _flat(source: ScoreSource) -> dict[str, str]:
    """Returns the keys of a sweep with their values as JSON; of lists of models and the like as a whole."""
    if source.spec is None:
        return {}
    pinned = source.store.document(RESOLVED, Pinned) if source.store else None
    judges = {JUDGES: json.dumps(sorted(pinned.judges))} if pinned and pinned.judges else {}
    return {**dict(_leaves("", source.spec.model_dump(mode="json", exclude={"results"}))), **judges}


def _leaves(above: str, content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(f"{above}{name}.", value)
        else:
            yield f"{above}{name}", json.dumps(value, ensure_ascii=False)
