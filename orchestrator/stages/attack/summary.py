"""What attacks brought back, edit by edit, between floor and ceiling: from ``attacks``, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.stages.edit.summary import Picture, Share, share

Row = Mapping[str, Any]


@dataclass(frozen=True)
class AttackSummary:
    """One attack on one edit.

    Attributes:
        edit_id: the edit.
        model: its model.
        attribute: what it removed.
        editor: its editor.
        scope: where it is made.
        attack: the attack, as in ``attacks``.
        settings: of the attack, as JSON.
        edited: target pictures that show the attribute when the edited model is attacked.
        ceiling: the same of the model without the edit.
        floor: the same of a model that never learned the attribute; nothing to count where none was given.
    """

    edit_id: str
    model: str
    attribute: str
    editor: str
    scope: str
    attack: str
    settings: str
    edited: Share
    ceiling: Share
    floor: Share

    @property
    def verdict(self) -> str:
        """What it says of the attribute: ``hidden``, ``not shown to return``, or ``no floor`` to hold it against.

        Hidden is what returns more often than in a model that never learned it, with the two intervals apart.
        """
        if not self.floor.of:
            return "no floor"
        return "hidden" if self.edited.low > self.floor.high else "not shown to return"


def summarize_attacks(rows: Iterable[Row], *, judge: str | None = None) -> list[AttackSummary]:
    """Counts what returned, attack by attack.

    Args:
        rows: of ``attacks``.
        judge: whose word counts where several were asked; None takes what there is.
    """
    listed = list(rows)
    named = [row for row in listed if row["judge"] == judge] if judge is not None else []
    edited: dict[tuple[str, ...], list[Row]] = {}
    beside: dict[tuple[str, ...], list[Row]] = {}
    for row in named or listed:
        about = row["model"], row["attribute"], row["attack"], row["settings"]
        if row["who"] == "edited":
            edited.setdefault((*about, row["edit_id"], row["scope"]), []).append(row)
        else:
            beside.setdefault((*about, row["who"]), []).append(row)
    return [
        AttackSummary(
            found[0]["edit_id"], key[0], key[1], found[0]["editor"], found[0]["scope"], key[2], key[3],
            _returned(found), *(_returned(beside.get((*key[:4], who), [])) for who in ("unedited", "floor")),
        )
        for key, found in sorted(edited.items())
    ]  # fmt: skip


def _returned(rows: Iterable[Row]) -> Share:
    pictures: dict[Picture, bool] = {}
    for row in rows:
        pictures[f"{row['prompt']}\n{row['clip_text']}", row["seed"]] = row["returned"]
    return share(pictures)


def without_attack(evaluations: Iterable[Row], *, judge: str | None = None) -> dict[tuple[str, str], Share]:
    """Counts the target pictures that show the attribute with an edit and without an attack, by its id and scope.

    Args:
        evaluations: rows of ``evaluations``.
        judge: whose word counts; None takes what there is.
    """
    found: dict[tuple[str, str], dict[Picture, bool]] = {}
    for row in evaluations:
        said = row["judge_said"]
        if row["split"] != "report" or row["prompt_role"] != "target" or judge not in (None, row["judge"]):
            continue
        if row["judge_kind"] != row["attribute"].partition("/")[0]:
            continue
        pictures = found.setdefault((row["edit_id"], row["scope"]), {})
        pictures[f"{row['prompt']}\n{row['clip_text']}", row["seed"]] = row["judge_after"] == said
    return {key: share(pictures) for key, pictures in found.items()}
