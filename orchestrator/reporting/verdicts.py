"""A finding in a line, in words that claim no more than it carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from loco_core.localization.base import in_words, said
from loco_core.localization.swap_words import DONOR_PROMPT, SwapWords
from orchestrator.reporting.findings import sites
from orchestrator.reporting.windows import effect_words

State = Literal["localized", "picked", "open"]
_OPEN = {
    "multiple": "More than one place holds it.",
    "redundant": "More than one place holds it, and either will do.",
    "distributed": "No window that was swept holds it.",
    "inconclusive": "Not decided: no window is shown to hold it.",
    "absent": "The model does not draw it.",
    "no_effect": "Even {whole} does not remove it.",
    "damaging": "What removes it spoils the rest of the picture.",
    "incomplete": "Not decided: pictures are missing.",
}


def state(row: Mapping[str, Any]) -> State:
    """Says what a finding counts as: localized, picked in the pictures drawn alone, or neither.

    Args:
        row: its row of ``localizations``.
    """
    if row["window_start"] is None or row["outcome"] != "localized":
        return "open"
    return "picked" if row["about"] == "these_pictures" else "localized"


def place(row: Mapping[str, Any]) -> str:
    """Says which window a finding speaks of, and as what: "localized: sites 12–13"."""
    if row["window_start"] is not None:
        return f"{state(row)}: {sites(row['window_start'], row['window_size'])}"
    if row["best_start"] is not None:
        return f"{_candidate(row)}: {sites(row['best_start'], row['best_size'])}"
    return "no window named"


def badge(row: Mapping[str, Any]) -> str:
    """Returns the outcome in as few words as it can be said with whom it is about."""
    return said(row["outcome"], row["about"], row["n_prompts"] or 0)


def verdict(row: Mapping[str, Any], words: SwapWords = DONOR_PROMPT) -> str:
    """Returns what was found in one line.

    Args:
        row: its row of ``localizations``.
        words: what swapped sites read, in words.
    """
    effect = effect_words(row["effect"], row["ci_low"], row["ci_high"])
    if state(row) == "open":
        line = _OPEN.get(row["outcome"], f"{badge(row).capitalize()}.").format(whole=words.whole)
        if row["best_start"] is None or row["effect"] is None:
            return line
        where = sites(row["best_start"], row["best_size"])
        return f"{line} {_candidate(row).capitalize()}: {where}, which remove{_s(row['best_size'])} {effect}."
    where = sites(row["window_start"], row["window_size"]).capitalize()
    if state(row) == "picked":
        measured = "" if row["effect"] is None else f" ({effect})"
        return f"{where}{measured}: picked in the pictures drawn, which says nothing of others."
    share = in_words(row["localizer"], "SHARE")
    if share not in ("", "removed"):
        return f"{where}: {effect} {share}."
    held = ""
    if row["holds_in"] is not None and row["n_prompts"]:
        held = f", in {row['holds_in']} of {row['n_prompts']} prompts"
    return f"{where} hold{_s(row['window_size'])} it: swapping removes {effect}{held}."


def _candidate(row: Mapping[str, Any]) -> str:
    """Says what the window is that an outcome without a pick speaks of: what is decided has no candidates."""
    if row["outcome"] == "redundant":
        return "window that keeps it alone"
    return "best candidate" if row["outcome"] in ("inconclusive", "incomplete") else "strongest window"


def _s(size: int) -> str:
    return "s" if size == 1 else ""
