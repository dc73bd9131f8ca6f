"""The search of an edit's settings by Ray Tune against a plain grid that draws as many pictures.

``python -m benchmarks.tune``; resumable. Both choose on the ``select`` split and are judged on ``report``: the share of
pictures flipped to what the donor shows, as long as neighbours lose no more than is allowed. Writes
``benchmarks/tune.json``, one row per search, and prints the table of docs/benchmarks/tune.md from it; ``--print`` only
prints.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.edits import backend, sweep
from loco_core.editing.base import LAMBDA, TOKENS
from loco_core.toyworld.planting import MODELS
from loco_core.types import Window
from orchestrator.backends.ray.search import RayTuneSearch
from orchestrator.runs.edits import Selection, TuneResult, run_tuning
from orchestrator.runs.session import Controls
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import EditSpec
from orchestrator.stages.base import sweep_id
from orchestrator.stages.edit.summary import neighbour_loss
from orchestrator.stages.tune.stage import Request, Search, Space, objective
from orchestrator.store import open_store

TABLE = Path(__file__).with_suffix(".json")
MODEL = "toy-planted-a"
ATTRIBUTES = ("style/lumio", "fact/zandia")
SEEDS, TRIALS, CONCURRENT = (0, 1), 32, 4
EVALUATE = {"evaluate": {"prompts": 4, "seeds": 4, "neighbours": 2, "judge": "toy-judge", "windows": False}}


class Grid:
    """A search that measures a list of settings on all seeds, as the editors' lists in a sweep are.

    Args:
        space: what is searched.
        seeds: on how many each is measured.
        count: how many settings.
    """

    def __init__(self, space: Space, seeds: int, count: int) -> None:
        if space.window is None:
            # As in the report: windows of every size, side by side.
            places = [
                {"tokens": "all", "size": size, "start": start}
                for size in range(1, space.largest + 1)
                for start in range(0, space.n_sites - size + 1, size)
            ]
        else:
            places = [{"tokens": tokens} for tokens in TOKENS.choices]
        # The middle of each of so many equal parts of the range that the search has.
        each = max(1, round(count / len(places)))
        assert LAMBDA.span is not None
        low, high = map(math.log10, LAMBDA.span)
        edges = np.linspace(low, high, 2 * each + 1)
        points = [{"editor": "loco_edit", "lambda": float(10**at), **place} for place in places for at in edges[1::2]]
        self._new = [space.request(str(number), point, seeds) for number, point in enumerate(points)]
        self._open = len(points)

    def start(self) -> None:
        """Has nothing to start."""

    def take(self) -> list[Request]:
        """Returns all at first, then nothing."""
        new, self._new = self._new, []
        return new

    def answer(self, trial: str, objective: float) -> None:
        """Counts the answer."""
        self._open -= 1

    def over(self) -> bool:
        """Tells whether all are answered."""
        return not self._open

    def stop(self) -> None:
        """Has nothing to stop."""


def measure(root: str, attribute: str, window: Window | None) -> list[dict[str, Any]]:
    """Searches an attribute's edit with several seeds and then by a grid; returns a row a search."""
    settings = sweep(MODEL, EVALUATE)
    store = open_store(root)
    store.record_sweep(sweep_id(settings), settings, uuid.uuid4().hex)

    def run(name: str, seed: int, search: Callable[[Space, int], Search]) -> tuple[dict[str, Any], int]:
        result = run_tuning(
            Selection(root, MODEL, (attribute,)), Controls(backend, lambda _: None, StopSwitch()),
            window=window, editors=("loco_edit",), search=search, seed=seed,
        )  # fmt: skip
        row = {
            "attribute": attribute, "searched": "lambda, tokens" if window else "lambda, tokens, window",
            "search": name, "seed": seed, "trials": len(result.trials),
            "pictures": sum(trial.pictures for trial in result.trials), **judged(result),
        }  # fmt: skip
        print(row, flush=True)
        return row, max(trial.pictures for trial in result.trials)

    def tuned(seed: int) -> Callable[[Space, int], Search]:
        return lambda space, seeds: RayTuneSearch(space, trials=TRIALS, concurrent=CONCURRENT, seeds=seeds, seed=seed)

    rows, whole = zip(*(run("tune", seed, tuned(seed)) for seed in SEEDS), strict=True)
    count = round(statistics.mean(row["pictures"] for row in rows) / max(whole))
    return [*rows, run("grid", 0, lambda space, seeds: Grid(space, seeds, count))[0]]


def judged(result: TuneResult) -> dict[str, Any]:
    """Returns what the best edit of a search is, and what it does to pictures that it was not chosen on."""
    if result.best is None:
        return {"objective": None}
    request = result.best.request
    edit = next(item for item in result.edits.edits if item.edit_id == result.best.edit_id and item.scope == "by_hand")
    loss = neighbour_loss(edit)
    return {
        "window": [request.window.start, request.window.size], "lambda": request.settings.strength,
        "tokens": request.settings.tokens, "chosen_on": result.best.objective, "flipped": edit.flipped.value,
        "neighbour_loss": loss, "of": edit.flipped.of, "neighbours": edit.neighbours_kept.of,
        "objective": objective(edit.flipped.value, loss, EditSpec().max_neighbour_loss),
    }  # fmt: skip


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a row a search: what it chose, and what that does to held-out pictures."""
    print("| attribute | searched | search | pictures | chosen | flipped | neighbours spoiled |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        named = [row["attribute"], row["searched"], f"{row['search']} {row['seed']}", f"{row['pictures']}"]
        if row["objective"] is None:
            print("|", " | ".join([*named, "nothing", "-", "-"]), "|")
            continue
        start, size = row["window"]
        chosen = f"{start}-{start + size - 1}, {row['lambda']:.2g}, {row['tokens']}"
        lost = round(row["neighbour_loss"] * row["neighbours"])
        shares = [f"{round(row['flipped'] * row['of'])} of {row['of']}", f"{lost} of {row['neighbours']}"]
        print("|", " | ".join([*named, chosen, *shares]), "|")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("results/tune"))
    parser.add_argument("--print", action="store_true", dest="only_print")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text()) if TABLE.exists() else []
    for attribute in [] if arguments.only_print else ATTRIBUTES:
        sites = MODELS[MODEL].plants[attribute.split("/")[0]].sites
        for window in (Window(sites[0], len(sites)), None):
            root = arguments.work / f"{attribute.replace('/', '-')}-{'place' if window is None else 'strength'}"
            found = measure(str(root), attribute, window)
            searched = found[0]["searched"]
            rows = [row for row in rows if (row["attribute"], row["searched"]) != (attribute, searched)] + found
            TABLE.write_text(json.dumps(rows, indent=1) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
