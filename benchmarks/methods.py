"""Every localization and every edit method on the same prompts and seeds, beside what they cost.

``python -m benchmarks.methods [MODEL ...]``; resumable. Writes ``benchmarks/methods.json``, a row a method,
and prints the tables from it; ``--print`` only prints. An attribute goes through one sweep with all localizers beside
each other and all editors; the sequential localizer is given, of the same scores, what it asks for.

The table of localizers has both kinds of planted models: those whose sites read captions of their own, of these sweeps,
and plants by the place of parameters, of the tables that are bundled (or ``--plants TABLES``).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.edits import NAMES, is_transformer, model_name, shares
from loco_core.errors import SpecError
from loco_core.localization.base import LocalizeSettings, rule
from loco_core.localization.bench.methods import COLUMNS as METHOD_COLUMNS
from loco_core.localization.bench.methods import MethodsReport, run_methods
from loco_core.localization.bench.planted import TRUTH_FILE, PlantedResult, PlantedTruth, pictures, truth_from
from loco_core.localization.bench.replay import Answer, ReplayedTable
from loco_core.toyworld import PLANTED_TABLES
from loco_core.toyworld.plant_set import PLANTED_TABLES as PLANT_TABLES
from loco_core.toyworld.planting import MODELS
from loco_core.tracing.methods import ALL, methods
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.resolve.lookup import resolve
from orchestrator.resolve.traceable import traceable
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


def attributes(model: str) -> list[str]:
    """Returns three attributes of every kind that has a known place; two of every kind of the natural model."""
    if model not in MODELS:
        return [name for names in ATTRIBUTES.values() for name in names[:2]]
    plants = MODELS[model].plants
    return [name for kind, names in ATTRIBUTES.items() if plants[kind].outcome != "redundant" for name in names]


def sweep(model: str) -> SweepSpec:
    """Returns the sweep of one model, with the methods that its family admits."""
    # DiffQuickFix edits a CLIP text encoder.
    editors = ["loco_edit", "neurons", "uce", *([] if is_transformer(model) else ["diff_quick_fix"])]
    spec = SweepSpec.model_validate(
        {
            "name": f"methods-{model}", "models": [model], "attributes": attributes(model),
            "prompts": 8, "seeds": 4,
            "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": 62}, "controls": {"random": 0},
            "scorer": "toy-clip", "margin": "donor", "images": "none",
            "edit": {
                "editors": editors, "targets": "paired", "lambdas": [0.01, 0.1],
                "neurons": [0.1, 0.25], "tokens": ["all"],
                "method_lambdas": {name: METHOD_LAMBDAS[name] for name in editors if name in METHOD_LAMBDAS},
            },
            "evaluate": {"prompts": 4, "seeds": 4, "neighbours": 2, "judge": "toy-judge", "windows": False},
        },
        strict=False,
    )  # fmt: skip
    return served(spec, BESIDE)


def served(spec: SweepSpec, beside: Sequence[str]) -> SweepSpec:
    """Returns a sweep of one model with those localizers beside it that serve the model, and says which do not.

    Args:
        spec: the sweep.
        beside: keys or files of localizers.

    Raises:
        SpecError: one of them is none.
    """
    (model,) = resolve(spec).models
    kept: list[str] = []
    for name in beside:
        methods([name])
        alone = spec.localize.model_copy(update={"compare": (name,)})
        try:
            # What `plan` would say.
            traceable(spec.model_copy(update={"localize": alone}), model)
        except SpecError as error:
            print(f"without {name}: {error}", flush=True)
        else:
            kept.append(name)
    return spec.model_copy(update={"localize": spec.localize.model_copy(update={"compare": tuple(kept)})})


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
            # What complements cost is counted as of plants by the place of parameters.
            found[-1] |= _drawn(_replayed(used, "window"))
            answer = _replayed(used, "sequential")
            window = answer.found.window
            sites = list(window.sites) if window else []
            said = _said(model, truths, name, "sequential", answer.found.outcome, sites, answer.scores)
            found.append(said | _drawn(answer))
    return found


def _replayed(scores: pa.Table, localizer: str) -> Answer:
    return ReplayedTable(scores).answer(rule(localizer), LocalizeSettings(localizer=localizer))


def _drawn(answer: Answer) -> dict[str, Any]:
    """Returns what an answer took: every round draws clean and donor again."""
    seconds: float = pc.sum(answer.scores["seconds"]).as_py()
    return {"images": answer.drawn, "seconds": seconds * answer.drawn / answer.images}


def _said(
    model: str,
    truths: Mapping[str, Mapping[str, Mapping[str, Any]]],
    attribute: str,
    method: str,
    outcome: str,
    sites: list[int],
    rows: pa.Table,
) -> dict[str, Any]:
    """Returns one answer beside the truth."""
    known = truths.get(model, {})
    entry = known.get(attribute, known.get(attribute.split("/")[0]))
    truth = truth_from(entry) if entry else None
    return {
        "model": model, "attribute": attribute, "method": method, "outcome": outcome, "sites": sites,
        "truth": list(truth.nearest(sites)) if truth else None, "true_outcome": truth.outcome if truth else None,
        "images": pictures(rows), "seconds": pc.sum(rows["seconds"]).as_py(),
    }  # fmt: skip


def edit_row(item: EditSummary) -> dict[str, Any]:
    """Returns what a chosen edit does to pictures that it was neither fitted nor chosen on."""
    return {
        "model": item.model, "attribute": item.attribute, "method": item.editor, "scope": item.scope,
        "sites": list(item.sites), **shares(item),
    }  # fmt: skip


def results_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[PlantedResult, ...]]:
    """Returns what every method said of planted models, of measured rows."""
    found: dict[str, tuple[PlantedResult, ...]] = {}
    for row in rows:
        if row.get("truth") is None:
            continue
        truth, sites = PlantedTruth(tuple(row["truth"]), row["true_outcome"]), tuple(row["sites"])
        one = PlantedResult(
            row["model"], row["model"], row["attribute"], truth, row["outcome"], sites, sites == truth.sites, "",
            row["images"], row["images"], row["seconds"],
        )  # fmt: skip
        found[row["method"]] = (*found.get(row["method"], ()), one)
    return found


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table as pages of the documentation have it."""
    for cells in (columns, ["---"] * len(columns), *rows):
        print("|", " | ".join(cells), "|")


def print_localizers(report: MethodsReport) -> None:
    """Prints how the localizers do on planted models."""
    print_table(METHOD_COLUMNS, report.lines())
    if report.left_out:
        print(f"\n{report.left_out}")


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
    parser.add_argument("--plants", type=Path, default=PLANT_TABLES, help="tables of plants by the place of parameters")
    parser.add_argument("--print", action="store_true", dest="only_print")
    arguments = parser.parse_args()
    rows = json.loads(TABLE.read_text()) if TABLE.exists() else []
    for model in [] if arguments.only_print else arguments.models or NAMES:
        found = measure(model, str(arguments.work / model))
        rows = [row for row in rows if row["model"] != model] + found
        TABLE.write_text(json.dumps(rows, indent=1) + "\n")
    named = results_of(rows)
    if (arguments.plants / TRUTH_FILE).exists():
        plants = run_methods([arguments.plants], methods([ALL])).results
        named = {name: (*named.get(name, ()), *plants.get(name, ())) for name in {**named, **plants}}
    print_localizers(MethodsReport(named, 0))
    print()
    print_edits(rows)


if __name__ == "__main__":
    main()
