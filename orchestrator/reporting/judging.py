"""Says in a sentence by what edits were chosen and by what they were graded, and where these share weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.spec import SweepSpec
from orchestrator.spec.places import name_of
from orchestrator.store.documents import Pinned

_SCORER = "of the scorer"


def judging(
    spec: SweepSpec, pinned: Pinned, edits: Iterable[Mapping[str, Any]], evaluations: Iterable[Mapping[str, Any]]
) -> str:
    """Returns the sentence.

    Args:
        spec: the sweep.
        pinned: what its names stood for.
        edits: rows of ``edits``.
        evaluations: rows of ``evaluations`` of the ``report`` split.
    """
    scorer = name_of(spec.scorer)
    chosen = {str(row["chosen_by"]) for row in edits if row["chosen"] and row["chosen_by"] is not None}
    named = {str(row["judge"]) for row in evaluations if row["judge"] is not None}
    # Where there are judges their word counts alone, and of several the last one's.
    graded = {pinned.judge} if pinned.judge in named else named or {scorer}

    def words(names: set[str]) -> str:
        return " and ".join(_in_words(name, scorer) for name in sorted(names))

    done = f"graded by {words(graded)}" if not chosen else f"chosen by {words(chosen)} and graded by {words(graded)}"
    if chosen == graded:
        done = f"chosen and graded by {words(graded)}, on other prompts and seeds"
    weights = {name: _weights(name, scorer, pinned) for name in chosen | graded}
    if "" in weights.values():
        return f"Edits were {done}; whether by the weights of the scorer, by which they were localized, is not known."
    chooser, grader = ({weights[name] for name in names} for names in (chosen, graded))
    if _SCORER in grader:
        return f"Edits were {done}; it is by the same weights, the scorer's, that they were localized."
    if _SCORER in chooser:
        return f"Edits were {done}; localized and chosen by the same weights, they were graded by others."
    shared = ", but chooser and judge share theirs" if chooser & grader else ""
    return f"Edits were {done}; these are other weights than those of the scorer, by which they were localized{shared}."


def described(pinned: Pinned) -> dict[str, str]:
    """Returns what judges were, a text by name of each: model, revision, hash of its weights and settings.

    Args:
        pinned: what names of a sweep stood for.
    """
    found = {}
    for name, said in pinned.judges.items():
        parts = [f"{key} {value}" for key, value in said.items() if key not in ("use", "is_scorer", "asked")]
        found[f"judge {name}"] = ", ".join(parts) or "as bundled"
    return found


def _in_words(name: str, scorer: str) -> str:
    return f"the margin of the scorer {name}" if name == scorer else f"the judge {name}"


def _weights(name: str, scorer: str, pinned: Pinned) -> str:
    """Returns what tells the weights of a judge or of the scorer from others; empty where nothing does."""
    said = pinned.judges.get(name, {})
    if name == scorer or said.get("is_scorer"):
        return _SCORER
    return str(said.get("weights") or "")
