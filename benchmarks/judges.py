"""How often the sign of the CLIP margin and a judge disagree on whether an edit flipped a picture.

``python -m benchmarks.judges RESULTS [RESULTS ...]`` reads the ``evaluations`` of results whose edits a judge graded,
and prints a row per judge, split and attribute: of pictures of prompts with the attribute that both count, how many
each says flipped, and the share on which they disagree, with a 95 % Wilson interval. A picture counts once per edit
that it is drawn with. The interval is that of the effective number of pictures: prompts, each with its edit, are
crossed with seeds; that several edits share a prompt is not in it.

``--make`` first makes such results in a few minutes on the CPU: one style and one object of ``toy-planted-a``, edited
at the sites where they are planted, graded by the bundled judge.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from loco_core.toyworld.planting import MODELS
from loco_core.types import Window
from orchestrator.backends.inline import InlineBackend
from orchestrator.runs.edits import Selection, run_edits
from orchestrator.runs.session import Controls
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit.chooser import by_margin
from orchestrator.stages.edit.summary import Share, share
from orchestrator.store import open_store

SWEEP: dict[str, Any] = {
    "name": "judges", "models": ["toy-planted-a"], "attributes": ["style/lumio", "object/heart"], "scorer": "toy-clip",
    "prompts": 2, "seeds": 1, "windows": {"sizes": [2], "stride": 14}, "controls": {"random": 0}, "images": "none",
    "generation": {"steps": 20, "batch_size": 32},
    "edit": {"editors": ["loco_edit"], "targets": "paired", "lambdas": [0.01, 1.0], "tokens": ["all"]},
    "evaluate": {"prompts": 3, "seeds": 4, "neighbours": 1, "judge": "toy-judge", "windows": False},
}  # fmt: skip


@dataclass(frozen=True)
class Disagreement:
    """What two measures say of the same pictures.

    Attributes:
        by_margin: pictures that the sign of the margin says flipped.
        by_judge: pictures that the judge says flipped.
        disagree: pictures on which they differ.
        only_one: pictures that only one of them counts, as the other saw nothing to flip before the edit.
    """

    by_margin: Share
    by_judge: Share
    disagree: Share
    only_one: int


def disagreement(kind: str, rows: Iterable[Mapping[str, Any]]) -> Disagreement:
    """Compares the two on rows of ``evaluations`` of one attribute.

    Args:
        kind: kind of the attribute.
        rows: rows of the table; those of other roles than ``target`` and ``paraphrase`` are passed over.
    """
    mine = [r for r in rows if r["prompt_role"] in ("target", "paraphrase") and r["judge_kind"] == kind]
    pictures = {(f"{r['edit_id']} {r['scope']} {r['prompt']}", r["seed"]): r["flipped"] for r in mine}
    margin = {(f"{r['edit_id']} {r['scope']} {r['prompt']}", r["seed"]): r["flipped"] for r in by_margin(kind, mine)}
    both = [name for name, said in pictures.items() if said is not None and margin[name] is not None]
    one = sum((said is None) != (margin[name] is None) for name, said in pictures.items())
    return Disagreement(
        share({name: margin[name] for name in both}),
        share({name: pictures[name] for name in both}),
        share({name: margin[name] != pictures[name] for name in both}),
        one,
    )


def table(evaluations: pa.Table) -> list[tuple[str, ...]]:
    """Returns a row per judge, split and attribute, in words."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in evaluations.to_pylist():
        if row["judge"] is not None:
            groups[row["judge"], row["split"], row["attribute"]].append(row)
    found: list[tuple[str, ...]] = []
    for (judge, split, attribute), rows in sorted(groups.items()):
        said = disagreement(attribute.partition("/")[0], rows)
        cells = (_of(said.by_margin), _of(said.by_judge), _percent(said.disagree), str(said.only_one))
        found.append((judge, split, attribute, *cells))
    return found


def _of(item: Share) -> str:
    return f"{item.hits}/{item.of}"


def _percent(item: Share) -> str:
    return f"{item.value:.0%} [{item.low:.0%}, {item.high:.0%}]" if item.of else "nothing to count"


def make(root: Path, sites: Mapping[str, Window]) -> None:
    """Edits both attributes at their sites, whatever a localizer says.

    Args:
        root: results folder.
        sites: window by attribute.
    """
    spec = SweepSpec.model_validate({**SWEEP, "edit": None}, strict=False)
    run_sweep(
        spec, str(root), lambda settings: InlineBackend(settings, threads=1), on_progress=lambda _: None,
        on_localized=lambda _: None, stop=StopSwitch(),
    )  # fmt: skip
    blocks = SweepSpec.model_validate(SWEEP, strict=False)
    for attribute, window in sites.items():
        controls = Controls(lambda settings: InlineBackend(settings, threads=1), lambda _: None, StopSwitch())
        run_edits(Selection(str(root), attributes=(attribute,)), controls, print, window=window, blocks=blocks)


def planted() -> dict[str, Window]:
    """Returns the window that each attribute of the sweep is planted at."""
    (model,) = SWEEP["models"]
    found = {}
    for attribute in SWEEP["attributes"]:
        sites = MODELS[model].plants[attribute.partition("/")[0]].sites
        found[attribute] = Window(sites[0], len(sites))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--make", action="store_true", help="make the first results before they are read")
    arguments = parser.parse_args()
    if arguments.make:
        make(Path(arguments.results[0]), planted())
    columns = ("judge", "split", "attribute", "margin", "judge says", "disagree", "only one counts")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for root in arguments.results:
        for row in table(open_store(root, create=False).read("evaluations")):
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
