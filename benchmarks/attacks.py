"""Whether what the bundled editors remove from `toy` is gone or hidden: every attack on every editor.

``python -m benchmarks.attacks [ATTRIBUTE ...]``; resumable: what is drawn is not drawn again. Writes
``benchmarks/attacks.json`` (one row per attribute, edit and attack) and prints a table from it; ``--print`` only
prints. ``--floor MODEL`` is a model that never learned the attributes, by its name, folder or hub id; without it there
is no floor, and nothing can be called hidden. LocoEdit and neuron edits are made at the window of the edits' benchmark,
the others where they belong. Attacks are short, as the model is small.
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
WINDOWS = {"style": Window(10, 4), "object": Window(10, 4), "fact": Window(11, 4)}
"""The best windows of `toy`, see docs/benchmarks/edits.md; nobody looked for one of objects."""
ATTRIBUTES = ("style/lumio", "object/star", "fact/zandia", "style/velor", "object/moon", "fact/morova")
EDITORS = ("loco_edit", "neurons", "uce", "speed", "rece", "diff_quick_fix")
ATTACKS = (
    {"use": "noised_clean"},
    {"use": "relearn", "steps": 20, "batch_size": 8, "learning_rate": 1e-3},
    {"use": "soft_prompt", "tokens": 2, "steps": 40, "batch_size": 4, "learning_rate": 0.3},
    {"use": "textual_inversion", "steps": 40, "batch_size": 4, "learning_rate": 0.3},
)
MARKS = {"hidden": " **h**", "not removed": " n", "too weak": " w"}
"""Verdicts in the table; what was not shown to return has none."""
COLUMNS = ("alone", "edited", "ceiling", "floor")


def sweep(attribute: str, floor: str | None) -> SweepSpec:
    """Returns a sweep of one attribute, with every bundled editor and attack."""
    return SweepSpec.model_validate(
        {
            "name": "attacks", "models": [MODEL], "attributes": [attribute], "windows": {"sizes": [4]}, "prompts": 8,
            "seeds": 1, "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": 32},
            "controls": {"random": 0}, "scorer": "toy-clip", "margin": "donor", "images": "none",
            "edit": {
                "editors": list(EDITORS), "targets": "paired", "lambdas": [0.1], "neurons": [0.25], "tokens": ["all"],
                "method_lambdas": {"uce": [0.5], "diff_quick_fix": [0.01]},
            },
            "evaluate": {
                "prompts": 4, "seeds": 4, "neighbours": 0, "judge": "toy-judge", "windows": False,
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
    """Prints a line per attribute and editor, below ceiling and floor: percent, with intervals and verdicts."""
    attacks = [item["use"] for item in ATTACKS]
    print("| attribute | editor | without attack |", " | ".join(f"`{name}`" for name in attacks), "|")
    print("|---" * (3 + len(attacks)) + "|")
    found = {(row["attribute"], row["editor"], row["attack"]): row for row in rows}
    for attribute in dict.fromkeys(row["attribute"] for row in rows):
        of = {editor: [found.get((attribute, editor, name)) for name in attacks] for editor in EDITORS}
        held = [next((line[i] for line in of.values() if line[i]), None) for i in range(len(attacks))]
        for name in ("ceiling", "floor"):
            print(f"| {attribute} | {name} | |", " | ".join(_cell(row and row[name]) for row in held), "|")
        for editor, line in of.items():
            if any(line):
                alone = next(row["alone"] for row in line if row)
                cells = [
                    f"{_cell(row and row['edited'])}{MARKS.get(row['verdict'], '') if row else ''}" for row in line
                ]
                print(f"| {attribute} | `{editor}` | {_cell(alone)} |", " | ".join(cells), "|")


def _cell(share: dict[str, Any] | None) -> str:
    if not share or not share["of"]:
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
