"""Writes ``metrics``: what the metrics of a sweep say of each edit, from what workers have committed."""

from __future__ import annotations

from orchestrator.resolve.resolved import Resolved
from orchestrator.stages.edit.metrics import metric_rows
from orchestrator.store import Store, make_table, write_derived


def write_metrics(store: Store, resolved: Resolved) -> None:
    """Writes ``metrics`` of the models and metrics that a command is about; the caller holds the lease.

    Args:
        store: the results, published.
        resolved: the sweep with its names looked up.

    Raises:
        LocoError: the results cannot be read or written.
    """
    if not resolved.metrics:
        return
    pictures, features = store.read("picture_metrics"), store.read("features")
    if not pictures.num_rows and not features.num_rows:
        return
    sources = {item.id: item.source for item in resolved.metrics if item.sets}
    models = {item.id for item in resolved.models}
    edits = [row for row in store.read("edits").to_pylist() if row["model"] in models]
    before = store.read("metrics").to_pylist()
    if rows := metric_rows(edits, pictures, features, sources, before):
        write_derived(store, {"metrics": make_table("metrics", rows)})
