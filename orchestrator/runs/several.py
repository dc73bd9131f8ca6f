"""Edits of several attributes: what the ``show`` command prints of them, without a terminal."""

from __future__ import annotations

from orchestrator.stages.edit.chooser import latest_judge
from orchestrator.stages.edit.interference import Matrix, matrices
from orchestrator.stages.edit.summary import summarize
from orchestrator.store import Store


def matrices_of(store: Store, attribute: str, model: str | None = None) -> list[Matrix]:
    """Returns what edits did that an attribute was edited by with others; see `orchestrator.stages.edit.interference`.

    Args:
        store: the results.
        attribute: key of the attribute.
        model: the only model, where one is wanted.
    """
    edits = [row for row in store.read("edits").to_pylist() if model in (None, row["model"])]
    if not any(row["attributes"] and attribute in row["attributes"] for row in edits):
        return []
    measured = summarize(edits, store.read("evaluations").to_pylist(), judge=latest_judge(store))
    return [matrix for matrix in matrices(measured) if attribute in matrix.attributes]
