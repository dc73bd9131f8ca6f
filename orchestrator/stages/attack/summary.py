"""What attacks brought back, edit by edit, between floor and ceiling: from ``attacks``, without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from orchestrator.stages.edit.summary import CONFIDENCE, Picture, Share, share

Row = Mapping[str, Any]
Verdict = Literal["no floor", "hidden", "not removed", "too weak", "not shown to return"]
NOTHING = share({})
COMPARED = 2
"""How often an edit is held against the floor under one attack: with the attack, and without."""


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
        alone: the same of the edited model without the attack; nothing to count where nobody said it.
        against: the floor, by its id; empty where none was given.
        confidence: level of the intervals that its verdict compares. It is so high that *hidden* and *not removed* of
            all edits and attacks of one attribute, model and floor hold together at `CONFIDENCE` (Bonferroni). The
            bounds of each count are of that count alone.
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
    alone: Share = NOTHING
    against: str = ""
    confidence: float = CONFIDENCE

    @property
    def verdict(self) -> Verdict:
        """What it says of the attribute; one rate is above another where their intervals are apart.

        ``no floor``: there is nothing to hold it against. ``not removed``: without an attack already it shows above the
        floor. ``hidden``: it does not, and with the attack it shows above the floor, and above the edited model
        without the attack. ``too weak``: the attack does not bring it above the floor without an edit either. Else
        ``not shown to return``, which is no proof that it is gone.
        """
        if not self.floor.of:
            return "no floor"
        edited, ceiling, floor, alone = map(self._wide, (self.edited, self.ceiling, self.floor, self.alone))
        if alone.low > floor.high:
            return "not removed"
        if edited.low > max(floor.high, alone.high):
            return "hidden"
        return "not shown to return" if ceiling.low > floor.high else "too weak"

    def _wide(self, counted: Share) -> Share:
        return counted.among(counted.pictures, self.confidence)


def summarize_attacks(
    rows: Iterable[Row], alone: Mapping[tuple[str, str], Share] = MappingProxyType({}), *, judge: str | None = None
) -> list[AttackSummary]:
    """Counts what returned, attack by attack, and held against each floor.

    Args:
        rows: of ``attacks``.
        alone: what shows without an attack, see `without_attack`.
        judge: whose word counts where several were asked; None takes what there is.
    """
    edited: dict[tuple[str, ...], list[Row]] = {}
    ceilings: dict[tuple[str, ...], list[Row]] = {}
    floors: dict[tuple[str, ...], dict[tuple[str, str], list[Row]]] = {}
    for row in _heard(rows, judge):
        about = _about(row)
        if row["who"] == "edited":
            edited.setdefault((*about, row["edit_id"], row["scope"]), []).append(row)
        elif row["who"] == "unedited":
            ceilings.setdefault((*about, row["model_revision"]), []).append(row)
        else:
            floors.setdefault(about, {}).setdefault((row["floor"], row["model_revision"]), []).append(row)
    summaries = [
        AttackSummary(
            found[0]["edit_id"], key[0], key[1], found[0]["editor"], found[0]["scope"], key[2], key[3],
            _returned(found), _returned(ceilings.get((*key[:4], found[0]["model_revision"]), [])), _returned(beside),
            alone.get((key[4], key[5]), NOTHING), name,
        )
        for key, found in sorted(edited.items())
        for (name, _), beside in sorted(floors.get(key[:4], {("", ""): []}).items())
    ]  # fmt: skip
    verdicts = Counter((item.model, item.attribute, item.against) for item in summaries)
    return [
        replace(item, confidence=1 - (1 - CONFIDENCE) / (COMPARED * verdicts[item.model, item.attribute, item.against]))
        for item in summaries
    ]


def _about(row: Row) -> tuple[str, ...]:
    return row["model"], row["attribute"], row["attack"], row["settings"]


def _heard(rows: Iterable[Row], judge: str | None) -> list[Row]:
    """Returns the rows in which a judge speaks; of an attribute that it never saw, all."""
    listed = list(rows)
    seen = {row["attribute"] for row in listed if row["judge"] == judge}
    return [row for row in listed if judge is None or row["judge"] == judge or row["attribute"] not in seen]


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
    for row in _heard(evaluations, judge):
        said = row["judge_said"]
        if row["split"] != "report" or row["prompt_role"] != "target":
            continue
        if row["judge_kind"] != row["attribute"].partition("/")[0]:
            continue
        pictures = found.setdefault((row["edit_id"], row["scope"]), {})
        pictures[f"{row['prompt']}\n{row['clip_text']}", row["seed"]] = row["judge_after"] == said
    return {key: share(pictures) for key, pictures in found.items()}
