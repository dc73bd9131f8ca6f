"""What a worker does with an edit: fit it, draw with and without it, and measure the difference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loco_core.diffusion.generate import generate
from loco_core.editing.base import editor_info
from loco_core.editing.deltas import WeightDelta, applied, norm, to_bytes
from loco_core.errors import EditError
from loco_core.scoring.base import Judge, margin_of
from loco_core.types import Mode, PromptRecord, Row
from orchestrator.scheduler.protocol import Attempt, Unit
from orchestrator.stages.context import Result, WorkerContext
from orchestrator.stages.edit.evaluation_index import COLUMNS
from orchestrator.stages.edit.fitting import Fitter
from orchestrator.stages.edit.measure import feature_rows, picture_rows
from orchestrator.stages.edit.plan import (
    FIRST_SEED,
    INVALID,
    KEPT,
    UNKNOWN,
    Evaluation,
    Fit,
    Part,
    PlannedEdit,
    Probe,
)
from orchestrator.stages.pictures import encode_image
from orchestrator.store import SCHEMA_VERSION, layout, make_table

if TYPE_CHECKING:
    import torch


PICTURES = 2
"""Seeds of the report split whose pictures are kept, before and after."""


def work(context: WorkerContext, unit: Unit, attempt: Attempt) -> Result:
    """Fits the edits of a unit, or measures them, as its payload says."""
    if isinstance(unit.payload, Evaluation):
        return _evaluate(context, unit, unit.payload, attempt)
    return _fit(context, unit, unit.payload)


def _fit(context: WorkerContext, unit: Unit, planned: Fit) -> Result:
    """Fits the edits of a unit; gives each candidate as a file of weights, and one row of ``fits`` per edit."""
    rows, files, fitter = [], dict[str, bytes](), Fitter(context, planned)
    for edit in planned.edits:
        delta, path, sum_ = fitter.fit(edit), None, None
        info = editor_info(edit.settings.editor)
        if edit.scope in KEPT:
            # Baselines are fitted again where they are measured: at all sites of a large model they weigh gigabytes.
            data = to_bytes(delta)
            sum_ = hashlib.sha256(data).hexdigest()
            path = layout.delta(edit.edit_id, edit.scope, sum_)
            files[path] = data
        common = {
            "sweep_id": context.sweep_id, "unit_id": unit.unit_id, "edit_id": edit.edit_id, "model": unit.model,
            "model_revision": context.info.weights, "editor": edit.settings.editor, "scope": edit.scope,
            "tokens": edit.settings.tokens,
            "targets": edit.settings.targets if info.published else None,
            "lambda_absolute": delta.ridge, **info.filled(edit.settings, delta),
            "norm": norm(context.model, delta), "chosen": None, "delta_path": path, "delta_sha256": sum_,
            "chosen_by": None, "base": edit.base or None,
            "localization": planned.localization, "attributes": list(edit.attributes) or None,
            "step": len(edit.steps) or None, "schema_version": SCHEMA_VERSION,
            "settings": json.dumps(edit.settings.model_dump(), sort_keys=True),
        }  # fmt: skip
        for part in edit.parts or (Part(planned.attribute, edit.sites),):
            window = (part.sites[0], len(part.sites)) if _in_window(edit) else (None, None)
            rows.append(
                {
                    **common, "attribute": part.attribute.key, "attribute_kind": part.attribute.kind,
                    "window_start": window[0], "window_size": window[1], "site_indices": list(part.sites),
                    "neighbours": fitter.nearest(part.attribute),
                }
            )  # fmt: skip
    fits = make_table("fits", rows)
    return Result({"fits": fits}, files, reported=fits)


def _in_window(edit: PlannedEdit) -> bool:
    info = editor_info(edit.settings.editor)
    baseline = info.baseline(edit.scope)
    return info.place is None and (baseline is None or baseline.at != "all_sites")


@dataclass(frozen=True)
class _Seen:
    """One drawn probe, measured: its picture, its CLIP scores and the text that fits it best, and names by kind."""

    picture: torch.Tensor
    valid: bool
    clip: float | None
    margin: float | None
    fits: str
    names: Mapping[str, str]


def _evaluate(context: WorkerContext, unit: Unit, planned: Evaluation, attempt: Attempt) -> Result:
    """Draws the probes of a unit without an edit and with each of its edits; gives what changed."""
    before = _draw(context, planned, None, attempt)
    fitter = Fitter(context, planned)
    rows: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = [
        _picture(unit, probe, seen, None) for probe, seen in zip(planned.probes, before, strict=True)
        if _kept(context, planned, probe, None)
    ]  # fmt: skip
    unedited = [seen.picture if seen.valid else None for seen in before]
    features, compared = feature_rows(context, unit, None, unedited, attempt), list[dict[str, Any]]()
    for edit in planned.edits:
        after = _draw(context, planned, fitter.fit(edit), attempt)
        edited = [seen.picture if seen.valid else None for seen in after]
        features += feature_rows(context, unit, edit, edited, attempt)
        compared += picture_rows(context, unit, edit, unedited, edited, attempt)
        for probe, old, new in zip(planned.probes, before, after, strict=True):
            rows += _rows(context, unit, edit, probe, (old, new), attempt)
            if _kept(context, planned, probe, edit):
                images.append(_picture(unit, probe, new, edit))
    tables = {
        "evaluations": make_table("evaluations", rows), "images": make_table("images", images),
        "features": make_table("features", features), "picture_metrics": make_table("picture_metrics", compared),
    }  # fmt: skip
    invalid = sum(row["status"] == "invalid" for row in rows)
    reported = tables["evaluations"].select(COLUMNS)
    return Result(tables, rows=len(rows) - invalid, invalid=invalid, reported=reported)


def _draw(context: WorkerContext, unit: Evaluation, delta: WeightDelta | None, attempt: Attempt) -> list[_Seen]:
    import torch

    rows = [Row(probe.record.prompt, probe.record.donor, probe.seed) for probe in unit.probes]
    pieces = [[row] for row in rows] if attempt.row_by_row else [rows]
    with applied(context.model, delta, context.info.weights) if delta else nullcontext():
        pictures = torch.cat(
            [p.images for piece in pieces for p in generate(context.model, piece, context.generation, unit.batch_size)]
        )
    embeddings = context.scorer.embed_images(pictures)
    judged = _judged(context, pictures)
    found = []
    for at, probe in enumerate(unit.probes):
        names = {kind: seen[at] for kind, seen in judged.items()}
        if not context.is_valid(pictures[at]):
            nothing = dict.fromkeys(names or [unit.attribute.kind], INVALID)
            found.append(_Seen(pictures[at], False, None, None, INVALID, nothing))
            continue
        texts = [probe.record.score_text, *probe.record.against]
        scores = context.scorer.score(embeddings[at : at + 1], texts)[0]
        here, there = margin_of(scores)
        fits = texts[0] if here > there else texts[1 + int(np.argmax(scores[1:]))]
        said = names if context.judge is not None else {unit.attribute.kind: fits}
        found.append(_Seen(pictures[at], True, here, here - there, fits, said))
    return found


def _judged(context: WorkerContext, pictures: torch.Tensor) -> dict[str, list[str]]:
    if context.judge is None:
        return {}
    embeddings = context.judge.embed_images(pictures)
    return {kind: context.judge.name(embeddings, kind) for kind in context.judge.kinds}


def _rows(
    context: WorkerContext, unit: Unit, edit: PlannedEdit, probe: Probe, seen: tuple[_Seen, _Seen], attempt: Attempt
) -> list[dict[str, Any]]:
    """Returns one row a kind that the judge sees in the picture; of other kinds than the attribute's, what stays."""
    old, new = seen
    planned: Evaluation = unit.payload
    valid = old.valid and new.valid
    distance = float((old.picture - new.picture).square().mean().sqrt()) if valid else None
    by_margin = _flipped_by_margin(probe.record, planned.attribute.mode, (old.fits, new.fits))
    common = {
        "sweep_id": context.sweep_id, "unit_id": unit.unit_id, "edit_id": edit.edit_id, "model": unit.model,
        "attribute": planned.attribute.key, "editor": edit.settings.editor, "scope": edit.scope, "split": planned.split,
        "prompt_role": probe.role, "template_id": probe.record.template_id, "content_text": probe.record.content_text,
        "prompt": probe.record.prompt, "clip_text": probe.record.score_text, "seed": probe.seed,
        "clip_before": old.clip, "clip_after": new.clip, "margin_before": old.margin, "margin_after": new.margin,
        "judge": probe.judge, "image_distance": distance, "status": "ok" if valid else "invalid",
        "scorer": context.scorer_info.name, "attempt": attempt.number, "schema_version": SCHEMA_VERSION,
        "metrics": list(probe.metrics) or None, "attributes": list(edit.attributes) or None,
        "step": len(edit.steps) or None,
        "flipped_by_margin": by_margin, "margin_texts": list(probe.record.against),
    }  # fmt: skip
    kinds = [
        kind
        for kind in (context.judge.kinds if context.judge else ())
        if kind == planned.attribute.kind
        or (context.judge and _said(context.judge, probe.record.prompt, kind) is not None)
    ]
    return [
        {
            **common,
            "judge_kind": kind,
            **_verdict(context, probe, kind, (old, new), by_margin),
        }
        for kind in kinds or [planned.attribute.kind]
    ]


def _verdict(
    context: WorkerContext, probe: Probe, kind: str, seen: tuple[_Seen, _Seen], by_margin: bool | None
) -> dict[str, Any]:
    """Says whether a picture had what its prompt says and has what its donor says now.

    Where the donor names nothing of the kind ("a shape"), any class that is sure and another will do; without a judge
    the margin decides.
    """
    old, new = (picture.names.get(kind) for picture in seen)
    if context.judge is not None:
        named, donor = (_said(context.judge, text, kind) for text in (probe.record.prompt, probe.record.donor))
        return {
            "judge_said": named, "judge_before": old, "judge_after": new, "flipped": _flipped(named, donor, (old, new))
        }  # fmt: skip
    return {
        "judge_said": probe.record.score_text, "judge_before": old, "judge_after": new, "flipped": by_margin
    }  # fmt: skip


def _flipped_by_margin(record: PromptRecord, mode: Mode, fits: tuple[str, str]) -> bool | None:
    """Says whether a picture is a flip by the texts that fit it best; any other where donors leave it out."""
    return _flipped(record.score_text, None if mode == "remove" else record.donor_text, fits)


def _flipped(said: str | None, donor: str | None, seen: tuple[str | None, str | None]) -> bool | None:
    old, new = seen
    if old is None or new is None or old != said or donor == said:
        return None
    return new == donor if donor is not None else new not in (said, *UNKNOWN)


def _said(judge: Judge, text: str, kind: str) -> str | None:
    """Returns what a prompt says of a kind.

    Raises:
        EditError: the judge gives something else than a name.
    """
    said: object = judge.said(text, kind)
    if said is None or isinstance(said, str):
        return said
    raise EditError(f"the judge says {str(said)[:40]!r} of {text!r} ({kind}); expected one name, or None")


def _kept(context: WorkerContext, unit: Evaluation, probe: Probe, edit: PlannedEdit | None) -> bool:
    shown = edit is None or edit.scope in (*KEPT, "all_sites")
    return (
        bool(context.kept_seeds) and unit.split == "report" and shown and probe.seed < FIRST_SEED["report"] + PICTURES
    )


def _picture(unit: Unit, probe: Probe, seen: _Seen, edit: PlannedEdit | None) -> dict[str, Any]:
    name = hashlib.sha256(f"{unit.unit_id} {edit and edit.edit_id} {probe}".encode()).hexdigest()
    return {
        "unit_id": unit.unit_id, "cell_id": name, "image_id": name, "model": unit.model,
        "attribute": unit.payload.attribute.key, "prompt": probe.record.prompt, "seed": probe.seed,
        "control": "before" if edit is None else "edited", "edit_id": edit.edit_id if edit else None,
        "prompt_role": probe.role, "image": encode_image(seen.picture, name),
    }  # fmt: skip
