"""Paired edits of every style and fact of the bundled models, on 200 held-out pictures each, beside their baselines.

A kind of a planted model is edited at the sites where the localizer finds its example in the bundled score tables; of
a natural model at the best window of a sweep of the examples, localized or not.

``python benchmarks/edits.py [MODEL ...]``; resumable. Writes ``benchmarks/edits.json`` (one row per edit) and
prints the tables of docs/benchmarks/edits.md from it; ``--print`` only prints. ``--curve`` measures LocoEdit of the
examples at every strength and token set instead, and writes ``benchmarks/curve.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from loco_core.localization.base import LocalizeSettings
from loco_core.localization.localizers.window import localize
from loco_core.toyworld import PLANTED_TABLES
from loco_core.toyworld.planting import MODELS
from loco_core.toyworld.world import COUNTRY_NAMES, PLAIN, STYLE_NAMES
from loco_core.types import Window
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.runs.edits import Selection, run_edits, run_evaluation
from orchestrator.runs.session import Controls
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Backend
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import sweep_id
from orchestrator.stages.edit.comparison import comparisons
from orchestrator.stages.edit.plan import CANDIDATES
from orchestrator.stages.edit.summary import EditSummary, Share, summarize
from orchestrator.stages.localize import main_rows
from orchestrator.store import open_store
from orchestrator.worker import WorkerSettings

TABLE, CURVE_TABLE = Path(__file__).with_suffix(".json"), Path(__file__).with_name("curve.json")
NAMES = tuple(dict.fromkeys((*(model.start for model in MODELS.values()), *MODELS)))
EXAMPLES = {"style": "style/lumio", "fact": "fact/zandia"}
"""On these every strength, token set and window is tried; the other attributes take the shorter list."""
FEW: dict[str, dict[str, Any]] = {
    "edit": {
        "targets": "paired",
        "lambdas": [0.01, 0.1, 1.0],
        "neurons": [0.1, 0.25],
        "tokens": ["last_subject", "all"],
    },
    "evaluate": {"prompts": 4, "seeds": 4, "neighbours": 2, "judge": "toy-judge", "windows": False},
}
QUICK = {
    **FEW,
    "edit": {
        "editors": ["loco_edit"], "targets": "paired", "lambdas": [0.01, 0.1], "tokens": ["last_subject", "all"],
    },
}  # fmt: skip
MANY = {
    "edit": {
        "targets": "paired", "lambdas": [0.0001, 0.001, 0.01, 0.1, 1.0], "neurons": [0.1, 0.25, 0.5],
        "tokens": ["last_subject", "subject", "all"],
    },
    "evaluate": {**FEW["evaluate"], "windows": True},
}  # fmt: skip
# The paper's lambda, 0.01, is about 1e-4 of the mean squared norm of the keys of these models.
CURVE = {
    "edit": {
        "editors": ["loco_edit"], "targets": "paired", "lambdas": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0],
        "tokens": ["last_subject", "subject", "all"],
    },
    "evaluate": FEW["evaluate"],
}  # fmt: skip
# A planted transformer: which tokens are to be edited where every word has read every other.
SHORT = {
    "edit": {
        "editors": ["loco_edit"],
        "targets": "paired",
        "lambdas": [0.001, 0.01, 0.1],
        "tokens": ["last_subject", "subject", "all"],
    },
    "evaluate": FEW["evaluate"],
}
# Held-out prompts are 8 of a style and 4 of a fact, and as many paraphrases: 208 pictures of each attribute.
REPORT = {"style": {"prompts": 8, "seeds": 13}, "fact": {"prompts": 8, "seeds": 26}}


def sweep(model: str, blocks: Mapping[str, Any]) -> SweepSpec:
    """Returns the sweep of one model over all of its styles and facts."""
    hidden = MODELS[model].undrawable if model in MODELS else None
    styles = [name for number, name in enumerate(STYLE_NAMES) if number not in (PLAIN, hidden)]
    return SweepSpec.model_validate(
        {
            "name": f"edits-{model}", "models": [model],
            "attributes": [f"style/{name}" for name in styles] + [f"fact/{name}" for name in COUNTRY_NAMES],
            "windows": {"sizes": [1, 2, 3, 4]}, "prompts": 8, "seeds": 4,
            "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": 62}, "controls": {"random": 0},
            "scorer": "toy-clip", "margin": "donor", "images": "none", **blocks,
        },
        strict=False,
    )  # fmt: skip


def backend(settings: WorkerSettings) -> Backend:
    """Starts a worker a core."""
    return RayBackend(settings, workers=len(os.sched_getaffinity(0)), threads=1)


def is_transformer(model: str) -> bool:
    """Tells whether a model is a bundled transformer, natural or planted, and no UNet."""
    return "toy-dit" in (model, MODELS[model].start if model in MODELS else "")


def localized(model: str, kind: str, root: str) -> Window | None:
    """Returns where a kind is edited; None if nowhere.

    Args:
        model: the model.
        kind: ``style`` or ``fact``.
        root: where the natural model is swept.
    """
    if model in MODELS:
        table = PLANTED_TABLES / f"{model}-{EXAMPLES[kind].replace('/', '-')}-0.parquet"
        return localize(pq.read_table(table), LocalizeSettings()).window
    spec = sweep(model, {"attributes": list(EXAMPLES.values()), "seeds": 6})
    run_sweep(
        spec, f"{root}-sweep", backend, on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch()
    )
    for row in main_rows(open_store(f"{root}-sweep").read("localizations")).to_pylist():
        if row["attribute"] == EXAMPLES[kind] and row["best_start"] is not None:
            return Window(row["best_start"], row["best_size"])
    return None


def measure(model: str, root: str, *, quick: bool) -> list[dict[str, Any]]:
    """Edits and evaluates one model; returns a row an edit."""
    controls = Controls(backend, lambda _: None, StopSwitch())
    few = sweep(model, QUICK if quick else FEW)
    store = open_store(root)
    store.record_sweep(sweep_id(few), few, uuid.uuid4().hex)
    for kind, example in EXAMPLES.items():
        window = localized(model, kind, root)
        print(model, kind, window, flush=True)
        if window is None:
            continue
        names = tuple(str(name) for name in few.attributes if str(name).startswith(kind))
        everyone, one = Selection(root, model, names), Selection(root, model, (example,))
        run_edits(everyone, controls, print, window=window, blocks=few)
        if not quick:
            run_edits(one, controls, print, window=window, blocks=sweep(model, MANY))
        changes = {**REPORT[kind], "windows": False}
        run_evaluation(everyone, controls, print, changes, only_chosen=True)
    edits = store.read("edits").to_pylist()
    settings = {(row["edit_id"], row["scope"]): row for row in edits}
    found = summarize(edits, store.read("evaluations").to_pylist())
    return [row_of(item, found, settings[item.edit_id, item.scope]) for item in found]


def measure_curve(model: str, root: str) -> list[dict[str, Any]]:
    """Measures LocoEdit of the examples of one model at strengths and token sets; returns a row an edit."""
    controls = Controls(backend, lambda _: None, StopSwitch())
    blocks, store = sweep(model, SHORT if is_transformer(model) else CURVE), open_store(root)
    store.record_sweep(sweep_id(blocks), blocks, uuid.uuid4().hex)
    for kind, example in EXAMPLES.items():
        window = localized(model, kind, root)
        if window is None:
            continue
        one = Selection(root, model, (example,))
        run_edits(one, controls, print, window=window, blocks=blocks)
        run_evaluation(one, controls, print, {**REPORT[kind], "windows": False})
    edits = store.read("edits").to_pylist()
    settings = {(row["edit_id"], row["scope"]): row for row in edits}
    found = summarize(edits, store.read("evaluations").to_pylist())
    return [row_of(item, found, settings[item.edit_id, item.scope]) for item in found]


def row_of(item: EditSummary, every: Iterable[EditSummary], row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is kept of an edit: settings, counts with bounds, and how it stands beside its baselines."""
    kept = {
        name: row[name]
        for name in ("attribute", "chosen", "edit_id", "editor", "lambda", "lambda_absolute", "localization", "model",
                     "neurons", "norm", "scope", "settings", "site_indices", "tokens")
    }  # fmt: skip
    beside = [asdict(verdict) for verdict in comparisons(item, every)] if item.chosen else []
    return {**kept, **shares(item), "verdicts": beside}


def shares(item: EditSummary) -> dict[str, dict[str, float]]:
    """Returns the counts of an edit with their bounds, by name."""
    return {
        name: {field: getattr(share, field) for field in ("hits", "of", "low", "high")}
        for name, share in vars(item).items() if isinstance(share, Share)
    }  # fmt: skip


def rate(row: Mapping[str, Any], name: str) -> float | None:
    """Returns a share, None where there was nothing to count."""
    share = row[name]
    return share["hits"] / share["of"] if share["of"] else None


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Prints, a model, kind and editor, median and worst of the chosen edits and of their baselines."""
    columns = ("flipped", "paraphrased", "content_kept", "neighbours_kept", "unrelated_kept", "ceiling")
    print("| model | kind | editor | edit | attributes |", " | ".join(columns).replace("_", " "), "|")
    print("|---|---|---|---|---|" + "---|" * len(columns))
    chosen = {(r["model"], r["attribute"], r["editor"]): r for r in rows if r["chosen"]}
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        own = chosen.get((row["model"], row["attribute"], row["editor"]))
        if own and row["settings"] == own["settings"] and row["scope"] != "window":
            if row["scope"] in CANDIDATES and not row["chosen"]:
                continue
            key = (row["model"], row["attribute"].split("/")[0], row["editor"], row["scope"])
            groups.setdefault(key, []).append(row)
    for key, some in sorted(groups.items()):
        cells = []
        for name in columns:
            rates = [value for row in some if (value := rate(row, name)) is not None]
            cells.append(f"{100 * statistics.median(rates):.0f} ({100 * min(rates):.0f})" if rates else "-")
        count = len({row["attribute"] for row in some})
        print("|", " | ".join([*key, str(count), *cells]), "|")


def print_curve(rows: list[dict[str, Any]]) -> None:
    """Prints what LocoEdit does at every strength, in percent with the ends of its interval."""
    columns = ("flipped", "paraphrased", "content_kept", "neighbours_kept", "unrelated_kept")
    print("| model | attribute | tokens | where | lambda | absolute lambda |", " | ".join(columns), "|")
    print("|---|---|---|---|---|---|" + "---|" * len(columns))
    for row in sorted(
        rows, key=lambda row: (row["model"], row["attribute"], row["tokens"], row["scope"], row["lambda"])
    ):
        if row["scope"] not in (*CANDIDATES, "all_sites"):
            continue
        shares = [row[name] for name in columns]
        cells = [
            f"{100 * s['hits'] / s['of']:.0f} ({100 * s['low']:.0f}-{100 * s['high']:.0f})" if s["of"] else "-"
            for s in shares
        ]
        named = [row["model"], row["attribute"], row["tokens"], row["scope"], f"{row['lambda']:g}"]
        print("|", " | ".join([*named, f"{row['lambda_absolute']:.2g}", *cells]), "|")


def model_name(value: str) -> str:
    """Returns a model's name. As ``choices`` argparse would refuse to be given none."""
    if value not in NAMES:
        raise argparse.ArgumentTypeError(f"{value!r} is wrong; expected one of {', '.join(NAMES)}")
    return value


def main() -> None:
    """Measures what is asked for and prints all that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=model_name)
    parser.add_argument("--work", type=Path, default=Path("results/edits"))
    parser.add_argument("--quick", action="store_true", help="LocoEdit only, and no longer list for the examples")
    parser.add_argument("--curve", action="store_true", help="the examples at every strength and token set")
    parser.add_argument("--print", action="store_true", dest="only_print")
    arguments = parser.parse_args()
    table = CURVE_TABLE if arguments.curve else TABLE
    rows = json.loads(table.read_text()) if table.exists() else []
    for model in [] if arguments.only_print else arguments.models or NAMES:
        root = str(arguments.work / f"{model}{'-curve' if arguments.curve else ''}")
        found = measure_curve(model, root) if arguments.curve else measure(model, root, quick=arguments.quick)
        rows = [row for row in rows if row["model"] != model] + found
        table.write_text(json.dumps(rows, indent=1) + "\n")
    (print_curve if arguments.curve else print_tables)(rows)


if __name__ == "__main__":
    main()
