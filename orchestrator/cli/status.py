"""``status``: how far a sweep is, from its results alone."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loco_core.errors import printable
from orchestrator.cli.options import JsonOption, ResultsOrCluster, is_cluster_file

if TYPE_CHECKING:
    from orchestrator.spec import ClusterSpec
    from orchestrator.stages.status import SweepStatus


def status(
    results: ResultsOrCluster,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew until all is done.")] = False,
    every: Annotated[float, typer.Option("--every", min=1, help="Seconds between two looks.")] = 15.0,
) -> None:
    """Show what is done, failed and left, how fast, at what cost, and what was localized."""
    from orchestrator.stages.status import survey
    from orchestrator.store import open_store

    cluster = None
    if is_cluster_file(results):
        from orchestrator.submit import load_cluster

        cluster = load_cluster(results).spec
    store = open_store(cluster.results if cluster else results, create=False)
    while True:
        # A job that was just submitted has written nothing yet.
        if not watch or store.sweep() is not None:
            found = survey(store)
            _show(found, cluster, results, as_json=as_json)
            left = found.progress["left"] if found.progress else 0
            if not watch or (found.units_done == found.units and not left):
                return
        time.sleep(every)


def costs(found: SweepStatus, cluster: ClusterSpec | None) -> dict[str, float]:
    """Returns GPU hours and cost, so far and at the end; empty without a cluster file that names a price."""
    if cluster is None or not cluster.cost.per_gpu_hour:
        return {}
    gpus, price = max(1, cluster.workers.gpus), cluster.cost.per_gpu_hour
    so_far, at_end = gpus * found.worker_hours, gpus * (found.worker_hours_at_end or 0.0)
    return {
        "gpu_hours_so_far": so_far, "cost_so_far": so_far * price,
        "gpu_hours_at_end": at_end, "cost_at_end": at_end * price,
    }  # fmt: skip


def _show(found: SweepStatus, cluster: ClusterSpec | None, results: str, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print(json.dumps({**asdict(found), **costs(found, cluster)}), flush=True)
        return
    from rich.table import Table

    from orchestrator.cli.terminal import console
    from orchestrator.stages.failures import advice

    table = Table(title=f"{printable(found.name)}: {found.units_done} of {found.units} units")
    for name in ("model", "attribute", "units", "cells", "invalid", "failed", "outcome", "sites"):
        table.add_column(name, justify="right" if name in ("units", "cells", "invalid", "failed") else "left",
                         overflow="fold")  # fmt: skip
    for row in found.blocks:
        sites = "-" if row.window_start is None or row.window_size is None else ", ".join(
            str(site) for site in range(row.window_start, row.window_start + row.window_size)
        )  # fmt: skip
        table.add_row(
            printable(row.model), printable(row.attribute),
            f"{row.units_done}/{row.units}", str(row.ok), str(row.invalid), str(row.failed),
            printable(row.outcome or "-"), sites,
        )  # fmt: skip
    console().print(table)
    for line in advice(found.failed, results):
        print(printable(line))
    if found.progress is not None:
        print(_pace(found.progress))
    if money := costs(found, cluster):
        print(
            f"{money['gpu_hours_so_far']:.2f} GPU hours in units so far, {money['gpu_hours_at_end']:.2f} at the end; "
            f"cost {money['cost_so_far']:.2f}, {money['cost_at_end']:.2f} at the end"
        )


def _pace(progress: dict[str, Any]) -> str:
    from orchestrator.cli.progress import duration

    parts = [f"{progress['workers']} workers at work, {progress['pending']} starting"]
    if progress["rate"]:
        parts.append(f"{progress['rate']:.1f} images/s")
    if progress["left"] and progress["eta_seconds"] is not None:
        parts.append(f"about {duration(progress['eta_seconds'])} left")
    parts.append(f"{progress['retries']} attempts failed, {progress['losses']} workers lost with their machine")
    return f"the driver at {progress['written_at']}: {', '.join(parts)}"
