"""The small table of metrics on a card: what pictures with an edit are beside those without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.stages.edit.metrics import SHOWN_ROLES, in_words
from orchestrator.store import Store

Key = tuple[str, str, str]
"""Id and scope of an edit, and the attribute that is asked about."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class MetricColumn:
    """A column of the table.

    Attributes:
        title: metric and role of its prompts.
        about: id of the metric, and its weights.
    """

    title: str
    about: str


@dataclass(frozen=True)
class MetricCell:
    """A value.

    Attributes:
        text: the value with its interval; a dash where there is none.
        note: pictures and prompts that it is of, and what is wrong with it.
    """

    text: str
    note: str


@dataclass(frozen=True)
class MetricTable:
    """The table.

    Attributes:
        columns: one per metric and role of prompts.
        lines: cells of each edit in the order of the columns, by its key.
    """

    columns: tuple[MetricColumn, ...]
    lines: Mapping[Key, tuple[MetricCell, ...]]


def metrics_by_edit(store: Store) -> dict[Key, list[Row]]:
    """Returns the rows of ``metrics`` by the key of the edit."""
    found = dict[Key, list[Row]]()
    for row in store.read("metrics").to_pylist():
        found.setdefault((row["edit_id"], row["scope"], row["attribute"]), []).append(row)
    return found


def metric_weights(rows: Mapping[Key, Sequence[Row]]) -> dict[str, str]:
    """Returns the hashes of the weights that metrics read, by what a report calls them."""
    listed = (row for each in rows.values() for row in each if row["weights_hash"])
    return {f"weights of {row['metric']}": row["weights_hash"] for row in listed}


def metric_table(edits: Sequence[Key], rows: Mapping[Key, Sequence[Row]]) -> MetricTable | None:
    """Returns the table of some edits; None where no metric says anything of them.

    Args:
        edits: keys of the edits.
        rows: rows of ``metrics`` by these.
    """
    found = {edit: {_about(row): row for row in rows.get(edit, ())} for edit in dict.fromkeys(edits)}
    listed = [row for each in found.values() for row in each.values() if row["prompt_role"] in SHOWN_ROLES]
    abouts = {_about(row): row for row in listed}
    if not abouts:
        return None
    names = Counter(metric.partition("@")[0] for metric in {metric for metric, _ in abouts})
    columns = tuple(_column(row, names) for _, row in sorted(abouts.items()))
    return MetricTable(
        columns, {edit: tuple(_cell(each.get(about)) for about in sorted(abouts)) for edit, each in found.items()}
    )


def _about(row: Row) -> tuple[str, str]:
    return row["metric"], row["prompt_role"]


def _column(row: Row, names: Mapping[str, int]) -> MetricColumn:
    own = row["metric"].partition("@")[0]
    title = own if names[own] == 1 else row["metric"]
    return MetricColumn(f"{title}, {row['prompt_role']}", " on ".join(filter(None, (row["metric"], row["weights"]))))


def _cell(row: Row | None) -> MetricCell:
    if row is None:
        return MetricCell("–", "not measured")
    note = f"; {row['note']}" if row["note"] else ""
    return MetricCell(in_words(row), f"{row['pictures']} pictures of {row['prompts']} prompts{note}")
