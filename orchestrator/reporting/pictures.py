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
from orchestrator.stages.sweep.stored import planned
from orchestrator.store import Store

MAX_BYTES = 5 * 2**20
"""Bytes of all pictures of a page together."""
FOR_CARDS = MAX_BYTES // 2
"""Bytes kept for cards: once fewer are left, an attribute gets only the three pictures of its card."""
MAX_IN_ROW = 24
"""Windows that one row shows; the one that the finding speaks of is among them."""
SHOWN_SIDE, SMALL = 224, 96
"""Larger pictures are shrunk to this side in pixels; those up to ``SMALL`` are kept as they are and enlarged."""
CELL_DIGITS = 16
"""Digits of a ``cell_id`` in addresses of the viewer."""
ROLES = ("target", "paraphrase", "neighbour", "unrelated")


@dataclass(frozen=True)
class Picture:
    """One picture with what stands under it.

    Attributes:
        caption: short.
        title: the whole truth: prompt, seed, window.
        source: a ``data:`` address.
        side: its width in pixels.
        cell: first digits of its ``cell_id``, by which the viewer finds it.
        key: name of it in the page, of pictures that cards show too; empty of others.
        mark: ``picked`` or ``best`` of the window that the finding speaks of; empty of others.
    """

    caption: str
    title: str
    source: str
    side: int
    cell: str
    key: str = ""
    mark: str = ""


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one prompt and seed."""

    heading: str
    pictures: tuple[Picture, ...]

    @property
    def of_card(self) -> tuple[Picture, ...]:
        """Clean picture, the window that the finding speaks of, and the donor's."""
        return tuple(picture for picture in self.pictures if picture.key)


class Album:
    """The pictures of a report; the room is given out in the order of asking."""

    def __init__(self, store: Store, findings: Findings) -> None:
        self._store, self._evaluated = store, findings.evaluated
        self._left, self._rows = MAX_BYTES, 0
        self._units: dict[Block, dict[str, list[str]]] = {}
        # One prompt and seed per model and attribute; the kept seeds are the first.
        seed, self._options = findings.spec.seeds[0], findings.spec.interventions[0]
        units = planned(store, findings.spec.generation.steps)
        for unit in units.take(units.column("seed") == seed).payloads():
            prompts = self._units.setdefault((unit.model, unit.attribute), {})
            prompts.setdefault(unit.prompt.prompt_id, []).append(unit.unit_id)
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
        found = finding.row
        size = found["window_size"] or found["best_size"] or 1
        windows = {row["window_start"]: row for row in rows if (row["control"], row["window_size"]) == ("window", size)}
        if not windows or "clean" not in by_control:
            return None
        named = found["best_start"] if found["window_start"] is None else found["window_start"]
        brief = self._left <= FOR_CARDS
        starts = sorted(windows.keys() & {named}) if brief else _spread(sorted(windows), named)
        self._rows += 1
        key = f"picture-{self._rows}"
        pictures = [self._picture(by_control["clean"], "clean", key=f"{key}-clean")]
        for start in starts:
            mark, own = "", ""
            if start == named:
                mark, own = "best" if found["window_start"] is None else "picked", f"{key}-window"
            pictures.append(self._picture(windows[start], span(start, size), key=own, mark=mark))
        if "all_sites" in by_control and not brief:
            pictures.append(self._picture(by_control["all_sites"], "all sites"))
        if "donor" in by_control:
            pictures.append(self._picture(by_control["donor"], "donor", key=f"{key}-donor"))
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
            # Two prompts per role, of one seed.
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

    def _picture(self, row: dict[str, Any], caption: str, *, key: str = "", mark: str = "") -> Picture:
        source, side = _source(row["image"]["bytes"])
        self._left -= len(source)
        place = row["control"]
        if row["window_start"] is not None and row["control"] == "window":
            place = sites(row["window_start"], row["window_size"])
        title = f"{place}: {row['prompt']}, seed {row['seed']}"
        return Picture(caption, title, source, side, row["cell_id"][:CELL_DIGITS], key, mark)


def _spread(starts: Sequence[int], named: int | None) -> list[int]:
    """Returns at most ``MAX_IN_ROW`` starts, evenly spread, with the one that the finding speaks of."""
    if len(starts) <= MAX_IN_ROW:
        return list(starts)
    step = len(starts) / MAX_IN_ROW
    kept = {starts[int(step * i)] for i in range(MAX_IN_ROW)}
    return sorted(kept | {start for start in starts if start == named})


def _source(png: bytes) -> tuple[str, int]:
    """Returns a picture as a ``data:`` address, and its width."""
    picture = Image.open(io.BytesIO(png))
    if max(picture.size) <= SMALL:
        return "data:image/png;base64," + base64.b64encode(png).decode(), picture.width
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, format="WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode(), picture.width
