"""Says in a sentence by what edits were chosen and by what they were graded, and where these share weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.spec import SweepSpec
from orchestrator.spec.places import name_of
from orchestrator.store.documents import Pinned


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
    # Where there are judges their word counts alone.
    graded = named or {scorer}

    def words(names: set[str]) -> str:
        return " and ".join(_in_words(name, scorer) for name in sorted(names))

    done = f"graded by {words(graded)}" if not chosen else f"chosen by {words(chosen)} and graded by {words(graded)}"
    if chosen == graded:
        done = f"chosen and graded by {words(graded)}, on other prompts and seeds: chooser and judge share weights"
    same = [name for name in sorted(chosen | graded) if _is_scorer(name, scorer, pinned)]
    if not same:
        return f"Edits were {done}; these are other weights than those of the scorer, by which they were localized."
    judges = graded & set(same)
    if judges:
        return f"Edits were {done}; it is by the same weights, the scorer's, that they were localized."
    if chosen & set(same):
        return f"Edits were {done}; localized and chosen by the same weights, they were graded by others."
    return f"Edits were {done}."


def described(pinned: Pinned) -> dict[str, str]:
    """Returns what judges were, a text by name of each: model, revision, hash of its weights and settings.

    Args:
        pinned: what names of a sweep stood for.
    """
    found = {}
    for name, said in pinned.judges.items():
        parts = [f"{key} {value}" for key, value in said.items() if key not in ("use", "is_scorer")]
        found[f"judge {name}"] = ", ".join(parts) or "as bundled"
    return found


def _in_words(name: str, scorer: str) -> str:
    return f"the margin of the scorer {name}" if name == scorer else f"the judge {name}"


def _is_scorer(name: str, scorer: str, pinned: Pinned) -> bool:
    return name == scorer or bool(pinned.judges.get(name, {}).get("is_scorer"))
