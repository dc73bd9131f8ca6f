"""Which pictures a report shows, small enough that the page stays one that can be mailed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from orchestrator.reporting.findings import Block, Finding, Findings, MeasuredEdit, sites, span
from orchestrator.stages.localize import under
from orchestrator.stages.sweep import planned_units
from orchestrator.store import Store

MAX_BYTES = 6 * 2**20
"""Of all pictures of a page together."""
MAX_IN_ROW = 24
"""Windows that one row shows; the picked one is among them."""
SHOWN_SIDE, SMALL = 224, 96
"""Larger pictures are shrunk to this side in pixels; those up to ``SMALL`` are kept as they are and enlarged."""
ROLES = ("target", "paraphrase", "neighbour", "unrelated")


@dataclass(frozen=True)
class Picture:
    """One picture with what stands under it.

    Attributes:
        caption: short.
        title: the whole truth: prompt, seed, window.
        source: a ``data:`` address.
        side: its width in pixels.
        picked: whether it is what the localizer picked.
    """

    caption: str
    title: str
    source: str
    side: int
    picked: bool = False


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one prompt and seed."""

    heading: str
    pictures: tuple[Picture, ...]


class Album:
    """The pictures of a report; the room is given out in the order of asking."""

    def __init__(self, store: Store, findings: Findings) -> None:
        self._store, self._evaluated = store, findings.evaluated
        self._left = MAX_BYTES
        self._units: dict[Block, dict[tuple[str, int], list[str]]] = {}
        # One prompt and seed a model and attribute; the kept seeds are the first.
        seed, self._options = findings.spec.seeds[0], findings.spec.interventions[0]
        for unit in planned_units(store):
            key = (unit.rows[0].prompt_id, unit.rows[0].seed)
            if key[1] == seed:
                self._units.setdefault((unit.model, unit.attribute), {}).setdefault(key, []).append(unit.unit_id)
        self._committed = store.committed()

    @property
    def full(self) -> bool:
        """Whether there is no room for further pictures."""
        return self._left <= 0

    def interventions(self, finding: Finding) -> PictureRow | None:
        """Returns clean, every window of the size that matters, all sites, and donor, of one prompt and seed."""
        units = next(iter(self._units.get(finding.block, {}).values()), [])
        rows = [] if self.full else self._images(units)
        # Of several sets of options the first, as the localizer.
        scores = self._store.read_units(sorted(set(units) & self._committed), "scores")
        cells = set(under(scores, self._options)["cell_id"].to_pylist())
        rows = [row for row in rows if row["cell_id"] in cells]
        by_control: dict[str, dict[str, Any]] = {row["control"]: row for row in rows if row["control"] != "window"}
        size = finding.row["window_size"] or finding.row["best_size"] or 1
        windows = {row["window_start"]: row for row in rows if (row["control"], row["window_size"]) == ("window", size)}
        if not windows or "clean" not in by_control:
            return None
        starts = _spread(sorted(windows), finding.row["window_start"])
        pictures = [self._picture(by_control["clean"], "clean")]
        for start in starts:
            picked = start == finding.row["window_start"]
            pictures.append(self._picture(windows[start], span(start, size), picked=picked))
        pictures += [
            self._picture(by_control[name], name.replace("_", " "))
            for name in ("all_sites", "donor")
            if name in by_control
        ]
        missing = len(windows) - len(starts)
        note = f"; {missing} further windows are in `loco-sweep view`" if missing else ""
        clean = by_control["clean"]
        return PictureRow(f"“{clean['prompt']}”, seed {clean['seed']}, windows of {size}{note}", tuple(pictures))

    def edits(self, finding: Finding) -> list[PictureRow]:
        """Returns before and after, for each role of prompt: the chosen edits, and the first one at all sites."""
        shown = self._shown(finding)
        if self.full or not shown:
            return []
        rows = self._images(self._evaluated.get(finding.block, ()))
        found = []
        for role in ROLES:
            mine = [row for row in rows if row["prompt_role"] == role]
            keys = dict.fromkeys((row["prompt"], row["seed"]) for row in mine)
            # Two prompts a role, of one seed.
            first = [key for key in keys if key[1] == min(seed for _, seed in keys)][:2] if keys else []
            for prompt, seed in first:
                alike = {row["edit_id"]: row for row in mine if (row["prompt"], row["seed"]) == (prompt, seed)}
                if None not in alike:
                    continue
                pictures = [self._picture(alike[None], "before")] + [
                    self._picture(alike[edit.summary.edit_id], edit.label)
                    for edit in shown
                    if edit.summary.edit_id in alike
                ]
                found.append(PictureRow(f"{role}: “{prompt}”, seed {seed}", tuple(pictures)))
        return found

    def _shown(self, finding: Finding) -> list[MeasuredEdit]:
        chosen = finding.chosen
        everywhere = {edit.row["settings"]: edit for edit in finding.edits if edit.summary.scope == "all_sites"}
        first = [everywhere[edit.row["settings"]] for edit in chosen[:1] if edit.row["settings"] in everywhere]
        return [*chosen, *first]

    def _images(self, units: Iterable[str]) -> list[dict[str, Any]]:
        there = sorted(set(units) & self._committed)
        found: list[dict[str, Any]] = self._store.read_units(there, "images").to_pylist()
        return found

    def _picture(self, row: dict[str, Any], caption: str, *, picked: bool = False) -> Picture:
        source, side = _source(row["image"]["bytes"])
        self._left -= len(source)
        place = row["control"]
        if row["window_start"] is not None and row["control"] == "window":
            place = sites(row["window_start"], row["window_size"])
        return Picture(caption, f"{place}: {row['prompt']}, seed {row['seed']}", source, side, picked)


def _spread(starts: Sequence[int], picked: int | None) -> list[int]:
    """Returns at most ``MAX_IN_ROW`` starts, evenly spread, with the picked one."""
    if len(starts) <= MAX_IN_ROW:
        return list(starts)
    step = len(starts) / MAX_IN_ROW
    kept = {starts[int(step * i)] for i in range(MAX_IN_ROW)}
    return sorted(kept | {start for start in starts if start == picked})


def _source(png: bytes) -> tuple[str, int]:
    """Returns a picture as a ``data:`` address, and its width."""
    picture = Image.open(io.BytesIO(png))
    if max(picture.size) <= SMALL:
        return "data:image/png;base64," + base64.b64encode(png).decode(), picture.width
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode(), picture.width
