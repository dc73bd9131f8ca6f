"""Where the sites of a denoiser lie, as a drawing: down to coarser maps and up again for a UNet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL, SIDE = 13, 11
"""Pixels between levels, and of a site's square at most."""


@dataclass(frozen=True)
class DrawnSite:
    """One site's square.

    Attributes:
        index: number of the site.
        name: its address.
        x: left edge in pixels.
        y: upper edge.
    """

    index: int
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Drawing:
    """All sites of a model.

    Attributes:
        side: pixels of a square.
        height: pixels of the whole drawing, its labels left out.
        sites: the squares.
        labels: texts below it with the middle of each: first and last site, and the middle block of a UNet.
    """

    side: float
    height: float
    sites: tuple[DrawnSite, ...]
    labels: tuple[tuple[float, str], ...]

    @property
    def line(self) -> str:
        """The points of the line through the squares, as SVG has them."""
        half = self.side / 2
        return " ".join(f"{site.x + half:g},{site.y + half:g}" for site in self.sites)


def draw(names: Sequence[str], step: float) -> Drawing:
    """Lays out sites in execution order from left to right; a level of a UNet lower for each halving of its maps.

    Args:
        names: addresses such as ``down_blocks.1.attentions.0``; names of another form all lie on one level.
        step: pixels from one site to the next.
    """
    levels, side = _levels(names), min(SIDE, step - 2)
    sites = tuple(
        DrawnSite(index, name, step * index + (step - side) / 2, LEVEL * level)
        for index, (name, level) in enumerate(zip(names, levels, strict=True))
    )
    at = {"0": 0, str(len(names) - 1): len(names) - 1}
    middle = [index for index, name in enumerate(names) if name.startswith("mid_block")]
    if middle:
        at["mid"] = middle[len(middle) // 2]
    labels = tuple((step * (index + 0.5), text) for text, index in at.items() if names)
    return Drawing(side, LEVEL * max(levels, default=0) + side, sites, labels)


def _levels(names: Sequence[str]) -> list[int]:
    """Returns how often the maps that each site sees were halved, the middle one level below all others."""
    down, up = _numbers("down_blocks", names), _numbers("up_blocks", names)
    top = min(down, default=0)
    rising = {number: top + max(up) - number for number in up}
    middle = max([*down, *rising.values()], default=-1) + 1

    def level(name: str) -> int:
        block, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if number.isdecimal() and block in ("down_blocks", "up_blocks"):
            return int(number) if block == "down_blocks" else rising[int(number)]
        return middle if block == "mid_block" else 0

    return [level(name) for name in names]


def _numbers(block: str, names: Sequence[str]) -> set[int]:
    found = (re.match(rf"{block}\.(\d+)", name) for name in names)
    return {int(match[1]) for match in found if match}
