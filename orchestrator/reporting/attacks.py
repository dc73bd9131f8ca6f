"""The table of attacks: what each brought back of what an edit removed, between floor and ceiling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loco_core import plugins
from loco_core.attacking.base import attack_info
from orchestrator.reporting.findings import Findings, MeasuredEdit, percent
from orchestrator.stages.attack.summary import AttackSummary, Verdict, summarize_attacks, without_attack
from orchestrator.store import Store

_VERDICTS: Mapping[Verdict, str] = {
    "hidden": "hidden: it returns", "not removed": "not removed: it shows without an attack",
    "too weak": "attack too weak to tell", "not shown to return": "not shown to return", "no floor": "no floor",
}  # fmt: skip
_EVALUATED = (
    "edit_id", "scope", "attribute", "split", "prompt_role", "prompt", "clip_text", "seed", "judge",
    "judge_kind", "judge_said", "judge_after",
)  # fmt: skip


@dataclass(frozen=True)
class AttackLine:
    """A line of the table.

    Attributes:
        model: the model.
        attribute: what was edited.
        edit: the edit, in words.
        attack: the attack.
        settings: its settings, in words.
        alone: target pictures of the edited model that show the attribute without an attack.
        edited: the same with it.
        ceiling: the same of the model without the edit.
        floor: the same of a model that never learned it; a dash where none was given.
        verdict: what that says.
        against: id of the floor.
    """

    model: str
    attribute: str
    edit: str
    attack: str
    settings: str
    alone: str
    edited: str
    ceiling: str
    floor: str
    verdict: str
    against: str


def attack_lines(store: Store, findings: Findings, judge: str | None) -> tuple[AttackLine, ...]:
    """Returns the lines of a report.

    Args:
        store: the results.
        findings: what the report is about.
        judge: whose word counts, as in ``attacks``.
    """
    rows = store.read("attacks").to_pylist()
    if not rows:
        return ()
    alone = without_attack(store.read_columns("evaluations", _EVALUATED).to_pylist(), judge=judge)
    edits = {(edit.summary.edit_id, edit.summary.scope): edit for item in findings.items for edit in item.edits}
    return tuple(_line(item, edits) for item in summarize_attacks(rows, alone, judge=judge))


def attack_words(lines: Sequence[AttackLine]) -> tuple[str, ...]:
    """Returns what each attack does, a sentence each; of attacks that are not here, nothing."""
    known = set(plugins.keys("attacks"))
    names = dict.fromkeys(line.attack for line in lines)
    return tuple(f"{name} {attack_info(name).words}." for name in names if name in known and attack_info(name).words)


def _line(item: AttackSummary, edits: Mapping[tuple[str, str], MeasuredEdit]) -> AttackLine:
    edit = edits.get((item.edit_id, item.scope))
    alone, edited, ceiling, floor = (
        percent(each) if each.of else "–" for each in (item.alone, item.edited, item.ceiling, item.floor)
    )
    return AttackLine(
        item.model, item.attribute, edit.label if edit else Path(item.editor).name, item.attack, _said(item.settings),
        alone, edited, ceiling, floor, _VERDICTS[item.verdict], item.against,
    )  # fmt: skip


def _said(settings: str) -> str:
    values: dict[str, Any] = json.loads(settings)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
