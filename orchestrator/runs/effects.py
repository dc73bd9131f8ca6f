"""The effects of one attribute by window size: what the ``show`` command prints, without a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loco_core.errors import StoreError, did_you_mean
from orchestrator.stages.localize import main_rows
from orchestrator.store import Store


@dataclass(frozen=True)
class Profile:
    """The effects of all windows of one size.

    Attributes:
        model: id of the model.
        attribute: key of the attribute.
        size: size of the windows.
        starts: their starts, in order.
        effects: their effects; None where nothing is known.
        best: start of the one with the largest effect; None where no effect is known.
        effect: its effect.
        low: lower end of its two-sided interval, about the prompts of the sweep.
        high: upper end of that interval.
        outcome: what was found, if it was found at a window of this size; else None.
    """

    model: str
    attribute: str
    size: int
    starts: tuple[int, ...]
    effects: tuple[float | None, ...]
    best: int | None
    effect: float | None
    low: float | None
    high: float | None
    outcome: str | None


def profiles(store: Store, attribute: str, model: str | None = None) -> list[Profile]:
    """Returns the effects of an attribute, one profile per model and window size.

    Args:
        store: the results.
        attribute: key of the attribute.
        model: the only model, where one is wanted.

    Raises:
        StoreError: nothing was localized of it yet, or the results are damaged.
    """
    rows = [row for row in main_rows(store.read("effects")).to_pylist() if row["component"] in (None, "denoiser")]
    found = {(row["model"], row["attribute"]): row for row in main_rows(store.read("localizations")).to_pylist()}
    names = sorted({row["attribute"] for row in rows})
    mine = [row for row in rows if row["attribute"] == attribute and model in (None, row["model"])]
    if not mine:
        what = attribute if model is None else f"{attribute} in {model}"
        hint = did_you_mean(attribute, names) if attribute not in names else ""
        raise StoreError(f"{store.root}: holds no effects of {what} yet{hint}")
    kinds = sorted({(row["model"], row["window_size"]) for row in mine})
    return [
        _profile(
            [row for row in mine if (row["model"], row["window_size"]) == kind], found.get((kind[0], attribute), {})
        )
        for kind in kinds
    ]


def _profile(rows: list[dict[str, Any]], found: dict[str, Any]) -> Profile:
    rows = sorted(rows, key=lambda row: row["window_start"])
    size, known = rows[0]["window_size"], [row for row in rows if row["effect"] is not None]
    best: dict[str, Any] = max(known, key=lambda row: row["effect"], default={})
    is_here = found.get("best_size") == size
    if is_here and found.get("best_start") is not None:
        # What the outcome speaks of, which is not always the largest effect of its size.
        best = next((row for row in known if row["window_start"] == found["best_start"]), best)
    return Profile(
        model=rows[0]["model"], attribute=rows[0]["attribute"], size=size,
        starts=tuple(row["window_start"] for row in rows), effects=tuple(row["effect"] for row in rows),
        best=best.get("window_start"), effect=best.get("effect"),
        low=best.get("ci_low"), high=best.get("ci_high"),
        outcome=found["outcome"] if is_here else None,
    )  # fmt: skip
