"""What a worker does with an edit: fit it, store it, draw with and without it, and measure the difference."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from loco_core.deltas import WeightDelta, applied, norm, placebo, to_bytes
from loco_core.editors import Concept, EditSettings, Target, editor_code, fit_edit, method, published
from loco_core.editors.neurons import random_neurons
from loco_core.errors import SpecError
from loco_core.generate import generate
from loco_core.models import LoadedModel
from loco_core.scorers import Scorer
from loco_core.types import Attribute, Generation, PromptRecord, Row
from orchestrator.edit_candidates import alike
from orchestrator.edit_plan import (
    CANDIDATES,
    FIRST_SEED,
    INVALID,
    UNKNOWN,
    EvaluateUnit,
    FitUnit,
    PlannedEdit,
    Probe,
)
from orchestrator.resolve import ResolvedModel
from orchestrator.scheduler.protocol import UnitReport
from orchestrator.splits import splits
from orchestrator.store import SCHEMA_VERSION, Store, layout, make_table
from orchestrator.worker_images import encode_image, is_valid

if TYPE_CHECKING:
    import torch

    from loco_core.scorers.judge import Verdict

NEIGHBOURS_KEPT = 16
"""How many of the nearest attributes a fit writes down; an evaluation takes the first few."""
PICTURES = 2
"""Seeds of the report split whose pictures are kept, before and after."""


class Judge(Protocol):
    """A scorer that also names what it sees; see :class:`loco_core.scorers.judge.Scorer`."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attributes that it sees."""

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """See :class:`loco_core.scorers.Scorer`."""

    def verdict(self, embeddings: np.ndarray, kind: str) -> Verdict:
        """Names what is seen of one kind."""

    def said(self, text: str, kind: str) -> str | None:
        """Returns what a prompt says of a kind, None where it says nothing."""


@dataclass(frozen=True)
class Bench:
    """What fitting and measuring need: a loaded model with its names, scorers, and where results go."""

    model: LoadedModel
    info: ResolvedModel
    scorer: Scorer
    scorer_name: str
    judge: Judge | None
    generation: Generation
    store: Store
    sweep_id: str
    attributes: tuple[Attribute, ...]
    keep_pictures: bool


def fit(bench: Bench, unit: FitUnit, attempt: int) -> UnitReport:
    """Fits the edits of a unit, stores each as a delta, and commits their rows."""
    began = time.monotonic()
    rows = []
    neighbours = nearest(bench.model, bench.attributes, unit.attribute)
    for edit in unit.edits:
        delta, path, sum_ = _fitted(bench, unit, edit, neighbours), None, None
        neurons = edit.settings.editor == "neurons"
        if edit.scope in CANDIDATES:
            # Baselines are fitted again where they are measured: at all sites of a large model they weigh gigabytes.
            path, data = layout.delta(edit.edit_id, edit.scope), to_bytes(delta)
            bench.store.blobs.replace(path, data)
            sum_ = hashlib.sha256(data).hexdigest()
        rows.append(
            {
                "sweep_id": bench.sweep_id, "unit_id": unit.unit_id, "edit_id": edit.edit_id, "model": unit.model,
                "model_revision": bench.info.weights, "attribute": unit.attribute.key,
                "attribute_kind": unit.attribute.kind, "editor": edit.settings.editor, "scope": edit.scope,
                "window_start": edit.sites[0] if _in_window(edit) else None,
                "window_size": len(edit.sites) if _in_window(edit) else None,
                "site_indices": list(edit.sites), "tokens": edit.settings.tokens,
                "targets": edit.settings.targets if published(edit.settings.editor) else None,
                "lambda": None if neurons or _is_absolute(edit.settings) else edit.settings.strength,
                "lambda_absolute": delta.ridge,
                "neurons": _count(delta) if neurons else None,
                "guidance_half": edit.settings.guidance_half if neurons else None,
                "norm": norm(bench.model, delta), "chosen": None, "delta_path": path, "delta_sha256": sum_,
                "base": edit.base or None,
                "localization": unit.localization, "neighbours": neighbours,
                "settings": json.dumps(edit.settings.model_dump(), sort_keys=True), "schema_version": SCHEMA_VERSION,
            }
        )  # fmt: skip
    outcome = bench.store.commit_unit(unit.unit_id, {"fits": make_table("fits", rows)}, uuid.uuid4().hex)
    return UnitReport(
        unit.unit_id, attempt, "committed" if outcome == "won" else "already", seconds=time.monotonic() - began
    )


def _in_window(edit: PlannedEdit) -> bool:
    return edit.scope != "all_sites" and method(edit.settings.editor) is None


def _is_absolute(settings: EditSettings) -> bool:
    return settings.targets == "published" or method(settings.editor) is not None


def _fitted(bench: Bench, unit: FitUnit | EvaluateUnit, edit: PlannedEdit, neighbours: Sequence[str]) -> WeightDelta:
    settings, known = edit.settings, alike(bench.attributes, unit.attribute)
    if editor_code(settings.editor) != edit.code:
        raise SpecError(
            f"the editor {settings.editor} is not the one that this edit was planned with; leave its file alone while "
            "edits are made, and start the command again"
        )
    kept = [known[name] for name in neighbours[: settings.preserve]]
    if settings.targets == "published":
        records = unit.attribute.published_records(settings.editor)
        preserve = [record for item in kept for record in item.published_records(settings.editor)]
    else:
        records = unit.records
        preserve = [record for item in kept for record in _fit_records(item, unit.prompts)]
    concept = Concept(unit.attribute.key, records)
    target = Target(bench.info.id, bench.info.weights, edit.sites, (concept,), tuple(preserve), unit.localization)
    delta = fit_edit(bench.model, target, settings)
    seed = int(edit.edit_id[:8], 16)
    if edit.scope == "placebo":
        return placebo(bench.model, delta, seed)
    if edit.scope == "random":
        return random_neurons(bench.model, target, settings, delta, seed)
    return delta


def _fit_records(attribute: Attribute, prompts: int) -> tuple[PromptRecord, ...]:
    """Returns what an attribute may be preserved on: what its own edits would be fitted on."""
    try:
        return splits(attribute, prompts)["fit"]
    except SpecError:
        # It has too few contents to be measured on, so that all of them may be used.
        return attribute.records


def _count(delta: WeightDelta) -> int:
    return sum(len(change.rows) for change in delta.changes)


def nearest(model: LoadedModel, swept: Sequence[Attribute], attribute: Attribute) -> list[str]:
    """Returns the keys of other attributes of the same kind, nearest first by what the denoiser reads.

    They are those of the sweep, and those that are bundled in the same file. The distance is the cosine between mean
    embeddings of the words of the attributes' score texts, as encoded for the denoiser.
    """
    others = list(alike(swept, attribute).values())
    if not others:
        return []
    encoded = model.family.encode(model.pipeline, [item.records[0].score_text for item in (attribute, *others)])
    means = np.stack(
        [row[words].double().mean(0).cpu().numpy() for row, words in zip(encoded.embeds, encoded.words, strict=True)]
    )
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    order = np.argsort(-(means[1:] @ means[0]), kind="stable")
    return [others[i].key for i in order[:NEIGHBOURS_KEPT]]


@dataclass(frozen=True)
class _Seen:
    """One drawn probe, measured: its picture, CLIP scores of both texts, and what the judge names, by kind."""

    picture: torch.Tensor
    valid: bool
    clip: float | None
    margin: float | None
    names: Mapping[str, str]


def evaluate(bench: Bench, unit: EvaluateUnit, attempt: int, row_by_row: bool) -> UnitReport:
    """Draws the probes of a unit without an edit and with each of its edits, and commits what changed."""
    began = time.monotonic()
    before = _draw(bench, unit, None, row_by_row)
    neighbours = (
        nearest(bench.model, bench.attributes, unit.attribute)
        if any(edit.settings.preserve for edit in unit.edits)
        else []
    )
    rows: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = [
        _picture(unit, probe, seen, None) for probe, seen in zip(unit.probes, before, strict=True)
        if _kept(bench, unit, probe, None)
    ]  # fmt: skip
    for edit in unit.edits:
        after = _draw(bench, unit, _fitted(bench, unit, edit, neighbours), row_by_row)
        for probe, old, new in zip(unit.probes, before, after, strict=True):
            rows += _rows(bench, unit, edit, probe, (old, new), attempt)
            if _kept(bench, unit, probe, edit):
                images.append(_picture(unit, probe, new, edit))
    tables = {"evaluations": make_table("evaluations", rows), "images": make_table("images", images)}
    outcome = bench.store.commit_unit(unit.unit_id, tables, uuid.uuid4().hex)
    invalid = sum(row["status"] == "invalid" for row in rows)
    return UnitReport(
        unit.unit_id, attempt, "committed" if outcome == "won" else "already", rows=len(rows) - invalid,
        invalid=invalid, seconds=time.monotonic() - began,
    )  # fmt: skip


def _draw(bench: Bench, unit: EvaluateUnit, delta: WeightDelta | None, row_by_row: bool) -> list[_Seen]:
    import torch

    rows = [Row(probe.record.prompt, probe.record.donor, probe.seed) for probe in unit.probes]
    pieces = [[row] for row in rows] if row_by_row else [rows]
    with applied(bench.model, delta, bench.info.weights) if delta else nullcontext():
        pictures = torch.cat(
            [p.images for piece in pieces for p in generate(bench.model, piece, bench.generation, unit.batch_size)]
        )
    embeddings = bench.scorer.embed_images(pictures)
    judged = _judged(bench, pictures)
    found = []
    for at, probe in enumerate(unit.probes):
        names = {kind: seen[at] for kind, seen in judged.items()}
        if not is_valid(pictures[at], bench.generation, bench.model.enlargement):
            nothing = dict.fromkeys(names or [unit.attribute.kind], INVALID)
            found.append(_Seen(pictures[at], False, None, None, nothing))
            continue
        texts = [probe.record.score_text, probe.record.donor_text]
        here, there = (float(value) for value in bench.scorer.score(embeddings[at : at + 1], texts)[0])
        if bench.judge is None:
            names = {unit.attribute.kind: texts[0] if here > there else texts[1]}
        found.append(_Seen(pictures[at], True, here, here - there, names))
    return found


def _judged(bench: Bench, pictures: torch.Tensor) -> dict[str, list[str]]:
    if bench.judge is None:
        return {}
    embeddings = bench.judge.embed_images(pictures)
    return {kind: bench.judge.verdict(embeddings, kind).names for kind in bench.judge.kinds}


def _rows(
    bench: Bench, unit: EvaluateUnit, edit: PlannedEdit, probe: Probe, seen: tuple[_Seen, _Seen], attempt: int
) -> list[dict[str, Any]]:
    """Returns one row a kind that the judge sees in the picture; of other kinds than the attribute's, what stays."""
    old, new = seen
    valid = old.valid and new.valid
    distance = float((old.picture - new.picture).square().mean().sqrt()) if valid else None
    common = {
        "sweep_id": bench.sweep_id, "unit_id": unit.unit_id, "edit_id": edit.edit_id, "model": unit.model,
        "attribute": unit.attribute.key, "editor": edit.settings.editor, "scope": edit.scope, "split": unit.split,
        "prompt_role": probe.role, "template_id": probe.record.template_id, "content_text": probe.record.content_text,
        "prompt": probe.record.prompt, "clip_text": probe.record.score_text, "seed": probe.seed,
        "clip_before": old.clip, "clip_after": new.clip, "margin_before": old.margin, "margin_after": new.margin,
        "judge": probe.judge, "image_distance": distance, "status": "ok" if valid else "invalid",
        "scorer": bench.scorer_name, "attempt": attempt, "schema_version": SCHEMA_VERSION,
    }  # fmt: skip
    kinds = [
        kind
        for kind in (bench.judge.kinds if bench.judge else ())
        if kind == unit.attribute.kind or (bench.judge and bench.judge.said(probe.record.prompt, kind) is not None)
    ]
    return [
        {**common, "judge_kind": kind, **_verdict(bench, probe, kind, old.names.get(kind), new.names.get(kind))}
        for kind in kinds or [unit.attribute.kind]
    ]


def _verdict(bench: Bench, probe: Probe, kind: str, old: str | None, new: str | None) -> dict[str, Any]:
    """Says whether a picture had what its prompt says and has what its donor says now.

    Where the donor names nothing of the kind ("a shape"), any class that is sure and another will do.
    """
    record = probe.record
    said: str | None = record.score_text
    donor: str | None = record.donor_text
    if bench.judge is not None:
        said, donor = bench.judge.said(record.prompt, kind), bench.judge.said(record.donor, kind)
    flipped = None
    if old is not None and new is not None and old == said and donor != said:
        flipped = new == donor if donor is not None else new not in (said, *UNKNOWN)
    return {"judge_said": said, "judge_before": old, "judge_after": new, "flipped": flipped}


def _kept(bench: Bench, unit: EvaluateUnit, probe: Probe, edit: PlannedEdit | None) -> bool:
    shown = edit is None or edit.scope in (*CANDIDATES, "all_sites")
    return bench.keep_pictures and unit.split == "report" and shown and probe.seed < FIRST_SEED["report"] + PICTURES


def _picture(unit: EvaluateUnit, probe: Probe, seen: _Seen, edit: PlannedEdit | None) -> dict[str, Any]:
    name = hashlib.sha256(f"{unit.unit_id} {edit and edit.edit_id} {probe}".encode()).hexdigest()
    return {
        "unit_id": unit.unit_id, "cell_id": name, "image_id": name, "model": unit.model,
        "attribute": unit.attribute.key, "prompt": probe.record.prompt, "seed": probe.seed,
        "control": "before" if edit is None else "edited", "edit_id": edit.edit_id if edit else None,
        "prompt_role": probe.role, "image": encode_image(seen.picture, name),
    }  # fmt: skip
