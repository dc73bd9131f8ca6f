"""Where the sites of a denoiser lie, as a drawing: down to coarser maps and up again for a UNet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

STEP, LEVEL, SIDE = 14, 16, 11
"""Pixels between sites, between levels, and of a site's square."""


@dataclass(frozen=True)
class DrawnSite:
    """One site's square."""

    index: int
    name: str
    x: int
    y: int


@dataclass(frozen=True)
class Drawing:
    """All sites of a model."""

    width: int
    height: int
    sites: tuple[DrawnSite, ...]

    @property
    def line(self) -> str:
        """The points of the line through the squares, as SVG has them."""
        return " ".join(f"{site.x + SIDE / 2:g},{site.y + SIDE / 2:g}" for site in self.sites)


def draw(names: Sequence[str]) -> Drawing:
    """Lays out sites in execution order from left to right; a level of a UNet lower for each halving of its maps.

    Args:
        names: addresses such as ``down_blocks.1.attentions.0``; names of another form all lie on one level.
    """
    levels = _levels(names)
    sites = tuple(
        DrawnSite(index, name, STEP * index + 1, LEVEL * level + 1)
        for index, (name, level) in enumerate(zip(names, levels, strict=True))
    )
    return Drawing(STEP * len(names) + 2, LEVEL * max(levels, default=0) + SIDE + 2, sites)


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
