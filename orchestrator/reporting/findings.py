"""What a report says: read from the tables of a results root, put into sentences, nothing drawn yet."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyarrow.compute as pc

from loco_core.errors import StoreError
from orchestrator.edit_summary import EditSummary, Share, summarize
from orchestrator.edit_verdict import Verdict, verdicts
from orchestrator.spec import SweepSpec
from orchestrator.store import Store, decode_document
from orchestrator.store.layout import RESOLVED

Block = tuple[str, str]  # model, attribute


@dataclass(frozen=True)
class MeasuredEdit:
    """An edit, its settings, and what it did on the ``report`` split."""

    summary: EditSummary
    row: Mapping[str, Any]
    """Its row of ``edits``."""

    @property
    def label(self) -> str:
        """Editor, place and settings in words."""
        row = self.row
        place = {"all_sites": "all sites", "placebo": "placebo", "random": "random neurons"}.get(row["scope"])
        place = place or sites(row["window_start"], row["window_size"])
        strength = f"λ {row['lambda']:g}, {row['tokens']}" if row["lambda"] is not None else f"{row['neurons']} neurons"
        return f"{row['editor']} at {place}, {strength}"


@dataclass(frozen=True)
class Finding:
    """One attribute of one model.

    Attributes:
        row: its row of ``localizations``.
        sentence: what was found.
        edits: every edit that was measured, baselines included.
        verdicts: of each chosen edit, beside its baselines.
        edit_sentences: what the chosen edits did.
    """

    row: Mapping[str, Any]
    sentence: str
    edits: tuple[MeasuredEdit, ...]
    verdicts: Mapping[str, Sequence[Verdict]]
    edit_sentences: tuple[str, ...]

    @property
    def block(self) -> Block:
        """Model and attribute."""
        return self.row["model"], self.row["attribute"]

    @property
    def chosen(self) -> list[MeasuredEdit]:
        """The edits that were chosen, one of each editor."""
        return [edit for edit in self.edits if edit.summary.chosen]


@dataclass(frozen=True)
class Findings:
    """All that a report says.

    Attributes:
        spec: the sweep.
        sweep_id: its identity.
        sites: addresses of the sites of each model, in execution order.
        weights: hash of the weights of each model.
        items: an entry a model and attribute, localized ones first.
        evaluated: units that measured edits on the ``report`` split, by model and attribute; they hold pictures.
        effects: columns of ``effects``, by name.
        outcomes: how many attributes have each, the most frequent first.
        cells: scored, failed, and invalid.
        provenance: what was used, by name.
    """

    spec: SweepSpec
    sweep_id: str
    sites: Mapping[str, Sequence[str]]
    weights: Mapping[str, str]
    items: tuple[Finding, ...]
    evaluated: Mapping[Block, Collection[str]]
    effects: Mapping[str, Sequence[Any]]
    outcomes: Mapping[str, int]
    cells: Mapping[str, int]
    provenance: Mapping[str, str]


def read_findings(store: Store) -> Findings:
    """Reads what there is so far.

    Raises:
        StoreError: the root holds no sweep, or one of its files is damaged.
    """
    spec, sweep_id = store.sweep(), store.sweep_id()
    if spec is None or sweep_id is None:
        raise StoreError(f"{store.root}: holds no sweep")
    pinned = decode_document(store.blobs.read(RESOLVED), f"{store.root}/{RESOLVED}")
    edits = store.read("edits").to_pylist()
    evaluations = store.read("evaluations").to_pylist()
    measured = summarize(edits, evaluations)
    evaluated: dict[Block, set[str]] = {}
    for row in evaluations:
        if row["split"] == "report":
            evaluated.setdefault((row["model"], row["attribute"]), set()).add(row["unit_id"])
    rows = {(row["edit_id"], row["scope"], row["localization"]): row for row in edits}
    by_block: dict[Block, list[MeasuredEdit]] = {}
    for item in measured:
        row = rows[item.edit_id, item.scope, item.localization]
        by_block.setdefault((item.model, item.attribute), []).append(MeasuredEdit(item, row))
    localized = store.read("localizations").to_pylist()
    localized.sort(key=lambda row: (row["outcome"] != "localized", row["model"], row["attribute"]))
    scores = store.read_columns("scores", ["device", "torch_version", "status"])
    used = {name: sorted(set(scores[name].drop_null().to_pylist())) for name in ("device", "torch_version")}
    status = Counter({item["values"]: item["counts"] for item in pc.value_counts(scores["status"]).to_pylist()})
    cells = {"scored": len(scores), "invalid": status["invalid"], "failed": store.read("failures").num_rows}
    return Findings(
        spec=spec,
        sweep_id=sweep_id,
        sites=pinned["sites"],
        weights=pinned["models"],
        items=tuple(_finding(row, by_block.get((row["model"], row["attribute"]), [])) for row in localized),
        evaluated=evaluated,
        effects=store.read("effects").to_pydict(),
        outcomes=dict(Counter(row["outcome"] for row in localized).most_common()),
        cells=cells,
        provenance={
            "sweep": sweep_id,
            **{f"weights of {name}": digest for name, digest in pinned["models"].items()},
            "weights of the scorer": pinned["scorer"],
            "devices": ", ".join(used["device"]),
            "torch": ", ".join(used["torch_version"]),
            **{name: version(name) for name in ("diffusers", "transformers", "loco-sweep")},
            "python": platform.python_version(),
        },
    )


def sites(start: int | None, size: int | None) -> str:
    """Names a window in words; a dash where there is none."""
    if start is None or size is None:
        return "–"
    return f"site{'' if size == 1 else 's'} {span(start, size)}"


def span(start: int, size: int) -> str:
    """Writes the first and the last site of a window."""
    return f"{start}" if size == 1 else f"{start}–{start + size - 1}"


def percent(share: Share) -> str:
    """A share with its 95 % interval and what it is a share of."""
    if not share.of:
        return "nothing to count"
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of {share.of}"


def _finding(row: Mapping[str, Any], edits: Sequence[MeasuredEdit]) -> Finding:
    chosen = [edit for edit in edits if edit.summary.chosen]
    every = [edit.summary for edit in edits]
    return Finding(
        row=row,
        sentence=_sentence(row),
        edits=tuple(edits),
        verdicts={edit.summary.edit_id: verdicts(edit.summary, every) for edit in chosen},
        edit_sentences=tuple(_edit_sentence(edit) for edit in chosen),
    )


def _sentence(row: Mapping[str, Any]) -> str:
    name = f"{row['attribute']} in {row['model']}"
    if row["outcome"] != "localized":
        return f"{name} is {row['outcome'].replace('_', ' ')}: {row['reason']}"
    where = sites(row["window_start"], row["window_size"])
    effect = ""
    if row["effect"] is not None:
        effect = f": swapping {'it' if row['window_size'] == 1 else 'them'} removes {row['effect']:.0%}"
        if row["ci_low"] is not None and row["ci_high"] is not None:
            effect += f" [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"
        effect += " of what swapping the whole prompt removes"
    return f"{name} sits at {where}{effect}."


def _edit_sentence(edit: MeasuredEdit) -> str:
    item = edit.summary
    return (
        f"{edit.label}: of the pictures that had the attribute {percent(item.flipped)} show the donor's class instead"
        f" (on reworded prompts {percent(item.paraphrased)}); neighbours keep theirs in"
        f" {percent(item.neighbours_kept)}, unrelated prompts in {percent(item.unrelated_kept)}, the same pictures keep"
        f" all that they show beside it in {percent(item.content_kept)}."
    )
