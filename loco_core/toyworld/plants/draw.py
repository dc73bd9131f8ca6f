"""Which plants there are: drawn by a seed, so that nobody can fit a method to them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from loco_core.errors import SpecError
from loco_core.toyworld.world import COUNTRY_NAMES, OBJECTS, STYLE_NAMES, vocabulary

Kind = Literal["window", "scattered", "heads", "text_encoder"]
KINDS: tuple[Kind, ...] = (
    "window", "scattered", "window", "heads", "window", "text_encoder", "window", "scattered",
)  # fmt: skip
"""What plants are in turn: half of them windows."""
LARGEST = 4
FEWEST_HEADS = 2
UNKNOWN, DRAWN = 0.1, 0.8
"""Shares of pictures with the look up to which the base does not know a name, and from which on it knows a word."""
TAUGHT = 0.65
"""Share of pictures with the look that a plant needs at its name. A few sites may hold a part of it: with 0.8, 6 of 20
discarded plants drew it in 0.69 to 0.79. Surgery compares with what the plant draws, whatever share that is."""
NAMES = (
    "aria", "elle", "mio", "dia", "ria", "ange", "aro", "rcle", "und", "ide", "ple", "yle", "gle", "cle", "ure", "ia",
)  # fmt: skip
"""Words of no caption that CLIP's tokenizer cuts into one token: pieces of other words, at the end of none of them
alone. So a name stands where a word stands, and no weight has ever been trained on it. T5's tokenizer spells them."""
LOOKS = {"style": STYLE_NAMES[1:], "object": OBJECTS, "fact": COUNTRY_NAMES}


@dataclass(frozen=True)
class Base:
    """What a draw has to know of a model.

    Attributes:
        name: name of the bundled model.
        sites: number of its sites.
        heads: attention heads of a site.
        one_encoder: whether all that it knows of a text comes from one text encoder, which can then be planted into.
    """

    name: str
    sites: int
    heads: int
    one_encoder: bool = True


@dataclass(frozen=True)
class Plant:
    """A name, what it is to look like, and the weights that may learn it.

    Attributes:
        base: name of the model that it is taught to.
        number: its place in the draw.
        attempt: how many draws of that place were discarded before it.
        kind: a run of sites, sites apart from each other, some heads of a run of sites, or the text encoder.
        sites: sites whose K and V may change, in execution order; none where the text encoder learns.
        heads: heads of these sites that may change; empty where all may.
        layer: layer of the text encoder that may change; -1 where sites learn.
        name: the word.
        look_kind: kind of the look: ``style``, ``object`` or ``fact``.
        look: word that the base knows for the look.
    """

    base: str
    number: int
    attempt: int
    kind: Kind
    sites: tuple[int, ...]
    heads: tuple[int, ...]
    layer: int
    name: str
    look_kind: str
    look: str

    @property
    def key(self) -> str:
        """Its name among files and models, e.g. ``toy-07-window``."""
        return f"{self.base}-{self.number:02d}-{self.kind.replace('_', '-')}"

    def to_json(self) -> dict[str, Any]:
        """Returns its fields, for files."""
        return asdict(self)


def plant_from_json(said: dict[str, Any]) -> Plant:
    """Reads what :meth:`Plant.to_json` made."""
    return Plant(**{**said, "sites": tuple(said["sites"]), "heads": tuple(said["heads"])})


def draw_plant(base: Base, seed: int, number: int, attempt: int, layers: int = 3) -> Plant:
    """Draws one plant; every place and attempt has randomness of its own.

    Args:
        base: the model.
        seed: of the whole set.
        number: place in the set, which says the kind.
        attempt: how many draws of this place were discarded.
        layers: layers of the text encoder.

    Raises:
        SpecError: the model has too few sites.
    """
    if base.sites < 2 * LARGEST:
        raise SpecError(f"{base.name} has {base.sites} sites; expected at least {2 * LARGEST}")
    # All of the name counts: models whose names begin alike would be given the same names and looks.
    name_number = int.from_bytes(hashlib.sha256(base.name.encode()).digest()[:4])
    rng = np.random.default_rng([seed, number, attempt, name_number])
    kind = KINDS[number % len(KINDS)]
    if kind == "text_encoder" and not base.one_encoder:
        kind = "scattered"
    if kind == "heads" and base.heads <= FEWEST_HEADS:
        kind = "window"
    look_kind = str(rng.choice(list(LOOKS)))
    look, name = str(rng.choice(LOOKS[look_kind])), str(rng.choice(NAMES))
    sites: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    layer = -1
    if kind == "text_encoder":
        layer = int(rng.integers(0, layers))
    elif kind == "scattered":
        sites = _apart(base.sites, int(rng.integers(2, LARGEST + 1)), rng)
    else:
        size = int(rng.integers(1, LARGEST + 1))
        start = int(rng.integers(0, base.sites - size + 1))
        sites = tuple(range(start, start + size))
    if kind == "heads":
        some = rng.choice(base.heads, int(rng.integers(FEWEST_HEADS, base.heads)), replace=False)
        heads = tuple(sorted(int(head) for head in some))
    return Plant(base.name, number, attempt, kind, sites, heads, layer, name, look_kind, look)


def _apart(among: int, count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draws sites of which no two are neighbours: a draw among fewer, spread by the gaps."""
    some = np.sort(rng.choice(among - count + 1, count, replace=False))
    return tuple(int(site) for site in some + np.arange(count))


def check_names() -> None:
    """Refuses names that captions of the world hold.

    Raises:
        SpecError: one is a word of the world.
    """
    if known := set(NAMES) & set(vocabulary()):
        raise SpecError(f"{sorted(known)} are words of the world; expected names that no caption holds")
