"""How the strength of an edit is chosen: by the word of the judge, or by the sign of the scorer's margin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.resolve.resolved import Resolved
from orchestrator.spec import EditSpec, SweepSpec
from orchestrator.stages.edit.plan import INVALID, PlannedEdit
from orchestrator.stages.edit.summary import EditSummary, neighbour_loss
from orchestrator.store import Store
from orchestrator.store.documents import Pinned
from orchestrator.store.layout import RESOLVED

OTHER = "other"


def latest_judge(store: Store) -> str | None:
    """Returns the judge that results were last measured by; None where that was the margin, or nobody wrote it down."""
    pinned = store.document(RESOLVED, Pinned)
    return None if pinned is None else pinned.judge


def chooser(spec: SweepSpec, resolved: Resolved) -> str:
    """Returns the name in results of what strengths are chosen by: of the judge, or of the scorer.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
    """
    wanted = (spec.edit or EditSpec()).choose_by
    return resolved.scorer.name if resolved.judge_id is None or wanted == "scorer" else resolved.judge_id


def chosen_by(
    spec: SweepSpec, resolved: Resolved, kind: str, rows: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Returns what was seen of edits as the chooser sees it.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        kind: kind of the attribute that is edited.
        rows: of ``evaluations``.
    """
    rows = list(rows)
    if resolved.judge_id is None or chooser(spec, resolved) == resolved.judge_id:
        return rows
    return by_margin(kind, rows)


def by_margin(kind: str, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns rows as they would be without a judge: one a picture, named by the sign of the scorer's margin.

    What a flip is was decided where the picture was measured, with or without a judge by one rule. Rows without that
    word, of an earlier version, go by the sign.

    Args:
        kind: kind of the attribute that is edited.
        rows: of ``evaluations``; of what a judge says of several kinds of a picture one is kept.
    """
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        names = ("model", "attribute", "edit_id", "scope", "split", "prompt_role", "prompt", "clip_text", "seed")
        said = row["clip_text"]
        before, after = (_seen(row[name], said) for name in ("margin_before", "margin_after"))
        stored = row.get("flipped_by_margin")
        flipped = None if before != said else after == OTHER if stored is None else stored
        found[tuple(row[name] for name in names)] = {
            **row, "judge": None, "judge_kind": kind, "judge_said": said, "judge_before": before, "judge_after": after,
            "flipped": flipped,
        }  # fmt: skip
    return list(found.values())


def _seen(margin: float | None, said: str) -> str:
    if margin is None:
        return INVALID
    return said if margin > 0 else OTHER


def choose(edits: Sequence[PlannedEdit], measured: Sequence[EditSummary], max_neighbour_loss: float) -> set[str]:
    """Chooses one edit of each editor and kind of targets.

    It is the most effective of those that spare the neighbours, else the most sparing. Of an edit of several attributes
    the mean share of flipped pictures counts, and the neighbours of the attribute that lose most.

    Args:
        edits: candidates, in the order of the spec.
        measured: what they did on ``select``: one of each edit, or one per attribute.
        max_neighbour_loss: share of neighbours' pictures that the edit may spoil.

    Returns:
        ids of the chosen edits.
    """
    by_id, chosen = dict[str, list[EditSummary]](), set()
    for item in measured:
        by_id.setdefault(item.edit_id, []).append(item)
    groups: dict[tuple[str, str], list[str]] = {}
    for edit in edits:
        if edit.edit_id in by_id:
            groups.setdefault((edit.settings.editor, edit.settings.targets), []).append(edit.edit_id)
    loss = {name: max(map(neighbour_loss, items)) for name, items in by_id.items()}
    flipped = {name: sum(item.flipped.value for item in items) / len(items) for name, items in by_id.items()}
    for mine in groups.values():
        sparing = [name for name in mine if loss[name] <= max_neighbour_loss]
        if sparing:
            chosen.add(max(sparing, key=lambda name: (flipped[name], -loss[name])))
        else:
            chosen.add(min(mine, key=lambda name: loss[name]))
    return chosen
