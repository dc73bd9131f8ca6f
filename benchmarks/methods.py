"""Every localization and every edit method on the same prompts and seeds, beside what they cost.

``python -m benchmarks.methods [MODEL ...]``; resumable. Writes ``benchmarks/methods.json``, a row a method,
and prints the tables from it; ``--print`` only prints. An attribute goes through one sweep with all localizers beside
each other and all editors; the sequential localizer is given, of the same scores, what it asks for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import binomtest

from benchmarks.edits import NAMES, is_transformer, model_name, shares
from loco_core.localization.base import LocalizeSettings, rule
from loco_core.localization.bench.planted import pictures, truth_from
from loco_core.localization.bench.replay import ReplayedTable
from loco_core.toyworld import PLANTED_TABLES
from loco_core.toyworld.planting import MODELS
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit.summary import EditSummary, summarize
from orchestrator.store import Store, open_store

TABLE = Path(__file__).with_suffix(".json")
ATTRIBUTES = {
    "style": ("style/lumio", "style/velor", "style/sorelle"),
    "object": ("object/star", "object/circle", "object/heart"),
    "fact": ("fact/zandia", "fact/morova", "fact/kestria"),
}
BESIDE = ("argmin", "attention_contribution", "causal_tracing")
METHOD_LAMBDAS = {"uce": [0.5, 5.0, 50.0], "diff_quick_fix": [0.01, 0.1, 1.0, 10.0]}
"""The published lambdas, 0.5 and 0.01, and larger ones: they are absolute, and this text is narrow."""
SHARES = ("flipped", "paraphrased", "content_kept", "neighbours_kept", "unrelated_kept")
RESAMPLES = 2000


def attributes(model: str) -> list[str]:
    """Returns three attributes of every kind that has a known place; two of every kind of the natural model."""
    if model not in MODELS:
        return [name for names in ATTRIBUTES.values() for name in names[:2]]
    plants = MODELS[model].plants
    return [name for kind, names in ATTRIBUTES.items() if plants[kind].outcome != "redundant" for name in names]


def sweep(model: str) -> SweepSpec:
    """Returns the sweep of one model, with the methods that its family admits."""
    transformer = is_transformer(model)
    # Causal tracing restores sites of a UNet; DiffQuickFix edits a CLIP text encoder. Neither is here.
    beside = [name for name in BESIDE if not (transformer and name == "causal_tracing")]
    editors = ["loco_edit", "neurons", "uce", *([] if transformer else ["diff_quick_fix"])]
    return SweepSpec.model_validate(
        {
            "name": f"methods-{model}", "models": [model], "attributes": attributes(model),
            "prompts": 8, "seeds": 4,
            "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": 62}, "controls": {"random": 0},
            "scorer": "toy-clip", "margin": "donor", "images": "none", "localize": {"compare": beside},
            "edit": {
                "editors": editors, "targets": "paired", "lambdas": [0.01, 0.1],
                "neurons": [0.1, 0.25], "tokens": ["all"],
                "method_lambdas": {name: METHOD_LAMBDAS[name] for name in editors if name in METHOD_LAMBDAS},
            },
            "evaluate": {"prompts": 4, "seeds": 4, "neighbours": 2, "judge": "toy-judge", "windows": False},
        },
        strict=False,
    )  # fmt: skip


def measure(model: str, root: str) -> list[dict[str, Any]]:
    """Sweeps, localizes and edits one model; returns a row an attribute and method."""
    workers = len(os.sched_getaffinity(0))
    run_sweep(
        sweep(model), root, lambda settings: RayBackend(settings, workers=workers, threads=1),
        on_progress=lambda _: None, stop=StopSwitch(),
        on_localized=lambda found: print(model, found.attribute, found.localizer, found.outcome, flush=True),
    )  # fmt: skip
    store = open_store(root)
    edits = summarize(store.read("edits").to_pylist(), store.read("evaluations").to_pylist(), "report")
    truths = json.loads((PLANTED_TABLES / "truth.json").read_text())
    return [*localizations(model, store, truths), *(edit_row(item) for item in edits if item.chosen)]


def localizations(model: str, store: Store, truths: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what every localizer says of every attribute, with what it took, beside what is true."""
    scores, traces = store.read("scores"), store.read("traces")
    found = []
    for row in store.read("localizations").to_pylist():
        name, method = row["attribute"], row["localizer"]
        mine = scores.filter(pc.equal(scores["attribute"], name))
        read = traces.filter(pc.and_(pc.equal(traces["attribute"], name), pc.equal(traces["method"], method)))
        start, size = row["window_start"], row["window_size"]
        picked = [] if start is None else list(range(start, start + size))
        # Identity swaps decide nothing; complements are asked for by the windows' rules alone.
        unused = ["identity"] if method == "window" else ["identity", "complement"]
        used = mine.filter(pc.invert(pc.is_in(mine["control"], pa.array(unused))))
        found.append(_said(model, truths, name, method, row["outcome"], picked, read if len(read) else used))
        if method == "window":
            settings = LocalizeSettings(localizer="sequential")
            answer = ReplayedTable(mine).answer(rule("sequential"), settings)
            window = answer.found.window
            sites = list(window.sites) if window else []
            said = _said(model, truths, name, "sequential", answer.found.outcome, sites, answer.scores)
            # Every round draws clean and donor again.
            again = answer.drawn / said["images"]
            found.append({**said, "images": answer.drawn, "seconds": said["seconds"] * again})
    return found


def _said(
    model: str,
    truths: Mapping[str, Mapping[str, Mapping[str, Any]]],
    attribute: str,
    method: str,
    outcome: str,
    sites: list[int],
    rows: pa.Table,
) -> dict[str, Any]:
    """Returns one answer beside the truth; an image's seconds stand in every row that is about it."""
    known = truths.get(model, {})
    entry = known.get(attribute, known.get(attribute.split("/")[0]))
    truth = truth_from(entry) if entry else None
    images = pictures(rows)
    return {
        "model": model, "attribute": attribute, "method": method, "outcome": outcome, "sites": sites,
        "truth": list(truth.nearest(sites)) if truth else None, "true_outcome": truth.outcome if truth else None,
        "images": images, "seconds": pc.sum(rows["seconds"]).as_py() * (images / len(rows)),
    }  # fmt: skip


def edit_row(item: EditSummary) -> dict[str, Any]:
    """Returns what a chosen edit does to pictures that it was neither fitted nor chosen on."""
    return {
        "model": item.model, "attribute": item.attribute, "method": item.editor, "scope": item.scope,
        "sites": list(item.sites), **shares(item),
    }  # fmt: skip


def ratio(pairs: Sequence[tuple[int, int]]) -> str:
    """Returns a ratio of sums in percent, with a bootstrap interval over the pairs of model and attribute."""
    hits, of = np.array(pairs, dtype=float).reshape(-1, 2).T
    if not of.sum():
        return "-"
    drawn = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    sums = of[drawn].sum(1)
    low, high = np.quantile(hits[drawn].sum(1)[sums > 0] / sums[sums > 0], [0.025, 0.975])
    return f"{100 * hits.sum() / of.sum():.0f} ({100 * low:.0f}-{100 * high:.0f})"


def counted(right: Sequence[bool]) -> str:
    """Returns a count with the Wilson interval of its share in percent."""
    if not right:
        return "-"
    bounds = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return f"{sum(right)} of {len(right)} ({100 * bounds.low:.0f}-{100 * bounds.high:.0f})"


def print_localizers(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints how the localizers do on planted models."""
    print("| method | sites right, precision | recall | exact set | named where none holds it | images | seconds |")
    print("|---|---|---|---|---|---|---|")
    for method in dict.fromkeys(row["method"] for row in rows if "outcome" in row):
        mine = [row for row in rows if row["method"] == method and row["truth"] is not None]
        if not mine:
            continue
        placed = [row for row in mine if row["true_outcome"] == "localized"]
        both = [(len(set(row["sites"]) & set(row["truth"])), row) for row in placed]
        print(
            f"| {method} | {ratio([(hits, len(row['sites'])) for hits, row in both])} "
            f"| {ratio([(hits, len(row['truth'])) for hits, row in both])} "
            f"| {counted([row['sites'] == row['truth'] for row in placed])} "
            f"| {counted([bool(row['sites']) for row in mine if row['true_outcome'] != 'localized'])} "
            f"| {statistics.median(row['images'] for row in mine):.0f} "
            f"| {statistics.median(row['seconds'] for row in mine):.1f} |"
        )


def print_edits(rows: Iterable[Mapping[str, Any]]) -> None:
    """Prints, a model and editor, median and worst attribute of every share in percent."""
    print("| model | method | attributes |", " | ".join((*SHARES, "ceiling")).replace("_", " "), "|")
    print("|---|---|---|" + "---|" * (len(SHARES) + 1))
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if "outcome" not in row:
            groups.setdefault((row["model"], row["method"]), []).append(row)
    for key, some in sorted(groups.items()):
        cells = []
        for name in (*SHARES, "ceiling"):
            rates = [100 * row[name]["hits"] / row[name]["of"] for row in some if row[name]["of"]]
            cells.append(f"{statistics.median(rates):.0f} ({min(rates):.0f})" if rates else "-")
        print("|", " | ".join([*key, str(len(some)), *cells]), "|")


def main() -> None:
    """Measures what is asked for and prints all that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=model_name)
    parser.add_argument("--work", type=Path, default=Path("results/methods"))
    parser.add_argument("--print", action="store_true", dest="only_print")
    arguments = parser.parse_args()
    rows = json.loads(TABLE.read_text()) if TABLE.exists() else []
    for model in [] if arguments.only_print else arguments.models or NAMES:
        found = measure(model, str(arguments.work / model))
        rows = [row for row in rows if row["model"] != model] + found
        TABLE.write_text(json.dumps(rows, indent=1) + "\n")
    print_localizers(rows)
    print()
    print_edits(rows)


if __name__ == "__main__":
    main()
