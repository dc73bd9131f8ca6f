"""What a report says: read from the tables of a results root, put into sentences, nothing drawn yet."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.attributes import attribute
from loco_core.editing.base import info_of_results
from loco_core.editing.splits import contents_were_swept
from loco_core.errors import StoreError
from loco_core.localization.base import in_words
from loco_core.localization.swap_words import SwapWords, swap_words
from loco_core.scoring.metric import text_of_results
from loco_core.tables import distinct, where
from orchestrator import __version__
from orchestrator.reporting.judging import described, judging
from orchestrator.reporting.methods import Comparison, compare, effects_by_window
from orchestrator.reporting.metrics import Key, metric_weights, metrics_by_edit
from orchestrator.runs.certificates import known_certificates, of_model, status_of
from orchestrator.runs.failures import FailureKind, failure_kinds
from orchestrator.spec import EditSpec, SweepSpec
from orchestrator.stages.edit.comparison import BaselineComparison, comparisons
from orchestrator.stages.edit.interference import Matrix, matrices
from orchestrator.stages.edit.summary import EditSummary, Share, summarize
from orchestrator.stages.localize import main_rows
from orchestrator.stages.sweep.rows import CELL_KEY
from orchestrator.stages.sweep.stored import planned
from orchestrator.store import MissingFileError, Store, check_whole
from orchestrator.store.documents import Pinned
from orchestrator.store.layout import RESOLVED
from orchestrator.store.schemas import TABLES

Block = tuple[str, str]  # model, attribute


@dataclass(frozen=True)
class MeasuredEdit:
    """An edit, its settings, and what it did on the ``report`` split.

    Attributes:
        summary: summary of what it did.
        row: its row of ``edits``.
        comparisons: comparisons on a chosen edit, beside its baselines.
    """

    summary: EditSummary
    row: Mapping[str, Any]
    comparisons: Sequence[BaselineComparison] = ()

    @property
    def place(self) -> str:
        """Editor and place in words."""
        row = self.row
        baseline = info_of_results(row["editor"]).baseline(row["scope"])
        place = baseline.short if baseline else ""
        others = self.summary.others
        if row["scope"] == "method" or (others and info_of_results(row["editor"]).place):
            place = _method_place(row["site_indices"])
        comma = "," if self.summary.targets else ""
        beside = f", together with {' and '.join(others)}" if others else ""
        return f"{self.summary.name}{comma} at {place or sites(row['window_start'], row['window_size'])}{beside}"

    @property
    def label(self) -> str:
        """Editor, place and settings in words."""
        row = self.row
        if row["neurons"] is not None:
            half = {"conditional": ", conditional half", "both": ", both halves"}.get(row["guidance_half"], "")
            return f"{self.place}, {row['neurons']} neurons, {row['tokens']}{half}"
        # Of published edits and methods lambda is absolute.
        strength = f"λ {row['lambda']:g}" if row["lambda"] is not None else f"absolute λ {row['lambda_absolute']:g}"
        return f"{self.place}, {strength}, {row['tokens']}"


@dataclass(frozen=True)
class Editing:
    """How edits were measured.

    Attributes:
        editors: names of those that edit where something was localized, or where they were asked to.
        methods: published methods that edit a place of their own, with that place, in words.
        judges: judges that named what is seen; empty where only the sign of the CLIP margin did.
        judging: sentence on what chose and what graded edits, and where they share weights.
        seeds: seeds of the ``report`` split.
        max_neighbour_loss: share of the neighbours' pictures that a chosen edit may spoil.
        texts: what editors say of their method.
        metrics: what metrics say of theirs.
        seen: attributes whose contents were all swept, so that edits were measured on contents they were found on.
    """

    editors: Sequence[str]
    methods: Sequence[str]
    judges: Sequence[str]
    judging: str
    seeds: int
    max_neighbour_loss: float
    seen: Sequence[str]
    texts: Sequence[str]
    metrics: Sequence[str]

    @property
    def has_published(self) -> bool:
        """Whether any was fitted as its authors do."""
        return any("as published" in name for name in (*self.editors, *self.methods))


@dataclass(frozen=True)
class Finding:
    """One attribute of one model.

    Attributes:
        row: its row of ``localizations``.
        sentence: sentence on what was found.
        edits: every edit that was measured, baselines included.
        edit_sentences: sentences on what the chosen edits did.
        comparison: comparison with other localizers; None without any.
    """

    row: Mapping[str, Any]
    sentence: str
    edits: tuple[MeasuredEdit, ...]
    edit_sentences: tuple[str, ...]
    comparison: Comparison | None = None

    @property
    def block(self) -> Block:
        """Model and attribute."""
        return self.row["model"], self.row["attribute"]

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """Its rows of ``localizations``, those of other localizers last."""
        return [line.row for line in self.comparison.lines] if self.comparison else [self.row]

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
        items: one entry per model and attribute, localized ones first.
        evaluated: units that measured edits on the ``report`` split, by model and attribute; they hold pictures.
        effects: columns of ``effects``, by name, of the localizer that edits follow.
        outcomes: number of attributes with each outcome, the most frequent first.
        cells: scored, failed, and invalid.
        failed: reasons why cells have no score.
        editing: note on how edits were measured; None where none was.
        siblings: whether margins were taken against siblings' texts, too, of any attribute.
        metrics: rows of ``metrics``, by the key of the edit.
        matrices: what edits of several attributes did, group by group.
        provenance: versions and hashes of what was used, by name.
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
    failed: tuple[FailureKind, ...]
    editing: Editing | None
    siblings: bool
    metrics: Mapping[Key, Sequence[Mapping[str, Any]]]
    matrices: Sequence[Matrix]
    provenance: Mapping[str, str]

    @property
    def words(self) -> SwapWords:
        """What swapped sites read, in words."""
        return swap_words(self.spec.interventions[0].source)

    @property
    def sizes(self) -> list[int]:
        """Window sizes that were swept in any of the models."""
        return sorted({size for names in self.sites.values() for size in self.spec.sizes(len(names))})


def read_findings(store: Store) -> Findings:
    """Reads what there is so far.

    Raises:
        StoreError: the root holds no sweep, or one of its files is damaged.
    """
    spec, sweep_id = store.sweep(), store.sweep_id()
    if spec is None or sweep_id is None:
        raise StoreError(f"{store.root}: holds no sweep")
    check_whole(store)
    pinned = store.document(RESOLVED, Pinned)
    if pinned is None:
        raise MissingFileError(
            f"{store.root}/{RESOLVED}: missing; `loco-sweep run` with the sweep file writes it again"
        )
    edits = store.read("edits").to_pylist()
    evaluations = store.read("evaluations").to_pylist()
    measured = summarize(edits, evaluations, judge=pinned.judge)
    rows = {(row["edit_id"], row["scope"], row["localization"], row["attribute"]): row for row in edits}
    report = [row for row in evaluations if row["split"] == "report"]
    evaluated: dict[Block, set[str]] = {}
    for row in report:
        evaluated.setdefault((row["model"], row["attribute"]), set()).add(row["unit_id"])
    alike: dict[Block, list[EditSummary]] = {}
    for item in measured:
        alike.setdefault((item.model, item.attribute), []).append(item)
    by_block: dict[Block, list[MeasuredEdit]] = {}
    # Edits one after the other stand in their matrix.
    for item in (item for item in measured if item.step is None):
        row = rows[item.edit_id, item.scope, item.localization, item.attribute]
        beside = comparisons(item, alike[item.model, item.attribute]) if item.chosen else ()
        by_block.setdefault((item.model, item.attribute), []).append(MeasuredEdit(item, row, beside))
    listed, effects = store.read("localizations").to_pylist(), store.read("effects")
    unknown = sorted({str(row["model"]) for row in (*listed, *edits)} - pinned.sites.keys())
    if unknown:
        raise StoreError(
            f"{store.root}: tables name the model {unknown[0][:80]!r}, which {RESOLVED} does not; run the sweep with "
            f"it, or write the tables again (`loco-sweep localize {store.root} --write`)"
        )
    localized = [row for row in listed if not row["compared"]]
    others: dict[Block, list[Mapping[str, Any]]] = {}
    for row in listed:
        if row["compared"]:
            others.setdefault((row["model"], row["attribute"]), []).append(row)
    by_window = effects_by_window(effects.to_pylist()) if others else {}
    found = {(row["model"], row["attribute"]) for row in localized}
    localized += [_unlocalized(*block) for block in sorted(by_block.keys() - found)]
    localized.sort(key=lambda row: (row["outcome"] != "localized", row["model"], row["attribute"]))
    scores = store.read_columns("scores", ["device", "torch_version", "status"])
    used = {name: distinct(scores, name) for name in ("device", "torch_version")}
    status = Counter(scores["status"].to_pylist())
    failures = store.read("failures")
    failed = failure_kinds(store.read_columns("scores", CELL_KEY), failures) if failures.num_rows else ()
    cells = {"scored": len(scores), "invalid": status["invalid"], "failed": sum(kind.cells for kind in failed)}
    certificates, metrics = known_certificates(), metrics_by_edit(store)
    return Findings(
        spec=spec,
        sweep_id=sweep_id,
        sites=pinned.sites,
        weights=pinned.models,
        items=tuple(
            _finding(row, by_block.get(block, []), compare(row, others.get(block, []), by_window))
            for row in localized
            for block in [(row["model"], row["attribute"])]
        ),
        evaluated=evaluated,
        effects=_of_sites(main_rows(effects)).to_pydict(),
        outcomes=dict(Counter(row["outcome"] for row in localized).most_common()),
        cells=cells,
        failed=failed,
        editing=_editing(spec, measured, report, judging(spec, pinned, edits, report)),
        siblings=any(prompt.record.siblings for prompt in planned(store, spec.generation.steps).prompts),
        metrics=metrics,
        matrices=matrices(measured),
        provenance={
            "sweep": sweep_id,
            **{f"weights of {name}": digest for name, digest in pinned.models.items()},
            **{f"check of {name}": status_of(of_model(certificates, weights=w)) for name, w in pinned.models.items()},
            **{f"second stage of {m.id}": str(m.super_resolution) for m in spec.models if m.super_resolution},
            **{f"donor of {m.id}": str(m.donor) for m in spec.models if m.donor},
            **{f"configuration of {m.id}": m.config for m in spec.models if m.config},
            **{f"variant of {m.id}": m.variant for m in spec.models if m.variant},
            **{f"LoRAs of {m.id}": ", ".join(map(str, m.loras)) for m in spec.models if m.loras},
            **{
                f"words of {m.id}": ", ".join(map(str, m.textual_inversions))
                for m in spec.models
                if m.textual_inversions
            },
            "weights of the scorer": pinned.scorer,
            **described(pinned),
            **metric_weights(metrics),
            **{f"file {name}": digest for name, digest in pinned.code.items()},
            "devices": ", ".join(used["device"]),
            "torch": ", ".join(used["torch_version"]),
            **{name: version(name) for name in ("diffusers", "transformers")},
            # On a cluster the packages travel with the job and are not installed.
            "loco-sweep": __version__,
            "python": platform.python_version(),
        },
    )


def _editing(
    spec: SweepSpec, measured: Sequence[EditSummary], rows: Sequence[Mapping[str, Any]], judged: str
) -> Editing | None:
    if not measured:
        return None
    inline = {item.label: item.attribute for item in spec.attributes if not isinstance(item, str)}
    edited = sorted({item.attribute for item in measured})
    elsewhere = [item for item in measured if item.scope == "method"]
    return Editing(
        editors=sorted({item.name for item in measured} - {item.name for item in elsewhere}),
        methods=sorted({f"{item.name} ({_method_place(item.sites)})" for item in elsewhere}),
        judges=sorted({row["judge"] for row in rows if row["judge"] is not None}),
        judging=judged,
        seeds=len({row["seed"] for row in rows}),
        max_neighbour_loss=(spec.edit or EditSpec()).max_neighbour_loss,
        seen=[key for key in edited if contents_were_swept(inline.get(key) or attribute(key), spec.prompts)],
        texts=[text for name in sorted({item.editor for item in measured}) if (text := info_of_results(name).methods)],
        metrics=list(filter(None, map(text_of_results, dict.fromkeys(spec.evaluate.metric_names)))),
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


def _of_sites(effects: pa.Table) -> pa.Table:
    return effects.filter(pc.field("component").is_null() | where(component="denoiser"))


def _finding(row: Mapping[str, Any], edits: Sequence[MeasuredEdit], comparison: Comparison | None) -> Finding:
    chosen = [edit for edit in edits if edit.summary.chosen]
    return Finding(
        row=row,
        sentence=_sentence(row),
        edits=tuple(edits),
        edit_sentences=tuple(_edit_sentence(edit) for edit in chosen),
        comparison=comparison,
    )


def _method_place(edited: Sequence[int]) -> str:
    return "all sites" if edited else "the text encoder"


def _unlocalized(model: str, attribute: str) -> dict[str, Any]:
    """Stands for an attribute that was edited by hand before its sweep is complete."""
    known = {"model": model, "attribute": attribute, "outcome": "incomplete"}
    return {**dict.fromkeys(TABLES["localizations"].names), **known, "reason": "cells of its sweep are missing"}


def _sentence(row: Mapping[str, Any]) -> str:
    name = f"{row['attribute']} in {row['model']}"
    if row["outcome"] != "localized":
        return f"{name} is {row['outcome'].replace('_', ' ')}{_among(row)}: {row['reason']}"
    where = sites(row["window_start"], row["window_size"])
    if in_words(row["localizer"], "SHARE") not in ("", "removed"):
        return f"{name}{_among(row)}: {where}: {row['reason']}."
    if row["about"] == "these_pictures":
        return f"{name}: in the pictures drawn the pick is {where}; it says nothing of others: {row['reason']}."
    effect = ""
    if row["effect"] is not None:
        effect = f": swapping {'it' if row['window_size'] == 1 else 'them'} removes {row['effect']:.0%}"
        if row["ci_low"] is not None and row["ci_high"] is not None:
            effect += f" [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"
        effect += " of what swapping the whole prompt removes"
    return f"{name} sits at {where}{_among(row)}{effect}{_held(row)}."


def _among(row: Mapping[str, Any]) -> str:
    """Says whom an outcome is about."""
    if row["about"] == "these_pictures" or not row["n_prompts"]:
        return " in these pictures" if row["n_prompts"] else ""
    return " in this one prompt" if row["n_prompts"] == 1 else f" in these {row['n_prompts']} prompts"


def _held(row: Mapping[str, Any]) -> str:
    """Says in how many prompts a window holds, and what that shows of others."""
    if row["holds_in"] is None or row["prompt_share_low"] is None:
        return ""
    if row["n_prompts"] == 1:
        return "; one prompt shows nothing of others"
    seen = f"; the window holds in {row['holds_in']} of them, which shows {row['prompt_share_low']:.0%} or more"
    few = "" if row["about"] == "prompts_like_these" else ", and so nothing of most"
    return f"{seen} of prompts like these{few}"


def _edit_sentence(edit: MeasuredEdit) -> str:
    item = edit.summary
    ceiling = f"; the donor prompt itself shows it in {percent(item.ceiling)}" if item.ceiling.of else ""
    return (
        f"{edit.label}: of the pictures that had the attribute {percent(item.flipped)} show the donor's class instead"
        f" (on reworded prompts {percent(item.paraphrased)}{ceiling}); neighbours keep theirs in"
        f" {percent(item.neighbours_kept)}, unrelated prompts in {percent(item.unrelated_kept)}, the same pictures keep"
        f" all that they show beside it in {percent(item.content_kept)}."
    )
