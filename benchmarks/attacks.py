"""Whether what the bundled editors remove from `toy` is gone or hidden: every attack on every editor.

``python -m benchmarks.attacks [ATTRIBUTE ...]``; resumable: what is drawn is not drawn again. Writes
``benchmarks/attacks.json`` (one row per attribute, edit and attack) and prints a table from it; ``--print`` only
prints. ``--floor MODEL`` is a model that never learned the attributes, by its name, folder or hub id; without it there
is no floor, and nothing can be called hidden. LocoEdit and neuron edits are made at the window of the edits' benchmark,
UCE and DiffQuickFix where they belong.
"""

from __future__ import annotations

import argparse
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loco_core.types import Window
from orchestrator.backends.inline import InlineBackend
from orchestrator.runs.edits import Selection, run_edits
from orchestrator.runs.session import Controls
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.stages.attack.summary import AttackSummary, summarize_attacks, without_attack
from orchestrator.stages.base import sweep_id
from orchestrator.store import Store, open_store

TABLE = Path(__file__).with_suffix(".json")
MODEL = "toy"
WINDOWS = {"style": Window(10, 4), "fact": Window(11, 4)}
"""The best windows of `toy`, see docs/benchmarks/edits.md."""
ATTRIBUTES = ("style/velor", "style/lumio", "fact/zandia", "fact/morova")
ATTACKS = ("noised_clean", "relearn", "soft_prompt", "textual_inversion")
COLUMNS = ("alone", "edited", "ceiling", "floor")


def sweep(attribute: str, floor: str | None) -> SweepSpec:
    """Returns a sweep of one attribute, with every bundled editor and attack."""
    return SweepSpec.model_validate(
        {
            "name": "attacks", "models": [MODEL], "attributes": [attribute], "windows": {"sizes": [4]}, "prompts": 8,
            "seeds": 1, "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": 32},
            "controls": {"random": 0}, "scorer": "toy-clip", "margin": "donor", "images": "none",
            "edit": {
                "editors": ["loco_edit", "neurons", "uce", "diff_quick_fix"], "targets": "paired",
                "lambdas": [0.01, 0.1], "neurons": [0.25], "tokens": ["all"],
                "method_lambdas": {"uce": [0.5, 5.0], "diff_quick_fix": [0.01, 1.0]},
            },
            "evaluate": {
                "prompts": 4, "seeds": 8, "neighbours": 0, "judge": "toy-judge", "windows": False,
                "attacks": list(ATTACKS), "floor": floor,
            },
        },
        strict=False,
    )  # fmt: skip


def measure(attribute: str, floor: str | None, root: str) -> list[dict[str, Any]]:
    """Edits and attacks one attribute; returns a row an edit and attack."""
    spec, store = sweep(attribute, floor), open_store(root)
    store.record_sweep(sweep_id(spec), spec, uuid.uuid4().hex)
    controls = Controls(lambda settings: InlineBackend(settings, threads=1), lambda _: None, StopSwitch())
    window = WINDOWS[attribute.partition("/")[0]]
    run_edits(Selection(root, MODEL, (attribute,)), controls, print, window=window, blocks=spec)
    return rows_of(store)


def rows_of(store: Store) -> list[dict[str, Any]]:
    """Returns what a results folder says of its attacks."""
    alone = without_attack(store.read("evaluations").to_pylist())
    return [row_of(item) for item in summarize_attacks(store.read("attacks").to_pylist(), alone)]


def row_of(item: AttackSummary) -> dict[str, Any]:
    """Returns what is kept of an attack: its counts with their bounds, and what they say."""
    shares = {name: getattr(item, name) for name in COLUMNS}
    counts = {
        name: {field: value for field, value in asdict(share).items() if field != "pictures"}
        for name, share in shares.items()
    }
    kept = ("model", "attribute", "editor", "scope", "edit_id", "attack", "settings")
    return {**{name: getattr(item, name) for name in kept}, "verdict": item.verdict, **counts}


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Prints one line per attribute, editor and attack: rates in percent, each with its interval."""
    print("| attribute | editor | attack | without attack | attacked | ceiling | floor | verdict |")
    print("|---" * 8 + "|")
    for row in sorted(rows, key=lambda row: (row["attribute"], row["editor"], row["attack"])):
        named = [row[name] for name in ("attribute", "editor", "attack")]
        print("|", " | ".join([*named, *(_cell(row[name]) for name in COLUMNS), row["verdict"]]), "|")


def _cell(share: dict[str, Any]) -> str:
    if not share["of"]:
        return "–"
    value, low, high = (100 * number for number in (share["hits"] / share["of"], share["low"], share["high"]))
    return f"{value:.0f} ({low:.0f}–{high:.0f})"


def main() -> None:
    """Measures what is asked for and prints all that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attributes", nargs="*", default=ATTRIBUTES)
    parser.add_argument("--floor", help="a model that never learned the attributes")
    parser.add_argument("--work", type=Path, default=Path("results/attacks"))
    parser.add_argument("--print", action="store_true", dest="only_print")
    arguments = parser.parse_args()
    rows = json.loads(TABLE.read_text()) if TABLE.exists() else []
    for attribute in [] if arguments.only_print else arguments.attributes:
        found = measure(attribute, arguments.floor, str(arguments.work / attribute.replace("/", "-")))
        rows = [row for row in rows if row["attribute"] != attribute] + found
        TABLE.write_text(json.dumps(rows, indent=1) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
