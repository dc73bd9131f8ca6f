"""What is planted where: the truth that a localizer must find, and how training puts it there.

A kind is planted by giving every cross-attention site a caption of its own during training. Only the planted sites read
the true word of that kind; all other sites read a random one, so nothing can be learned there. On top of that, by rule:

* ``any``: at a random strict subset of the planted sites the word is replaced by its donor while the picture keeps the
  attribute. So training asks that any one site suffices, and that removal needs the whole set. Not every model got
  there: ``measure.py oracle`` has the effect of every subset.
* ``quorum``: the picture has the attribute only where at least half of the planted sites read it. No small set of
  sites is then necessary, and none suffices: the kind is truly distributed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from loco_core.toyworld.world import COUNTRY_NAMES, OBJECTS, PLAIN, STYLE_NAMES, Captions, Labels

# Of the bundled UNets, and of the bundled transformers: a quarter of these is the largest plant.
SITES, BLOCKS = 16, 12
OR_SHARE = 0.75
ENDS_SHARE = 0.8
UNDRAWABLE = STYLE_NAMES.index("bastide")


@dataclass(frozen=True)
class Plant:
    """Where one kind of attribute was put.

    Attributes:
        sites: planted sites in execution order.
        rule: ``any`` or ``quorum``, see the module.
        leak: a further site that reads the true word in ``leak_share`` of training.
        leak_share: share of captions where it does, and where that word alone draws the attribute.
        outcome: outcome that a localizer should report of this kind.
    """

    sites: tuple[int, ...]
    rule: str = "any"
    leak: int | None = None
    leak_share: float = 0.0
    outcome: str = "localized"

    @property
    def quorum(self) -> int:
        """How many planted sites must read the word for the picture to have it."""
        return (len(self.sites) + 1) // 2 if self.rule == "quorum" else 1


@dataclass(frozen=True)
class PlantedModel:
    """One planted denoiser.

    Attributes:
        name: name of the bundled model.
        plants: a plant a kind.
        undrawable: a style that it was never shown.
        sites: number of its sites.
        start: the bundled model that its training starts from.
    """

    name: str
    plants: MappingProxyType[str, Plant]
    undrawable: int | None = None
    sites: int = SITES
    start: str = "toy"


def drawn_by_seed(seed: int) -> dict[str, Plant]:
    """Draws the sets of the last model: nobody chose them, so no rule can have been fitted to them.

    Styles go to six scattered sites (one in each run of two or three), object and fact to drawn windows.
    """
    rng = np.random.default_rng(seed)
    scattered = tuple(int(s) for s in np.cumsum(rng.integers(2, 4, 6)) - 2 + rng.integers(0, 2))
    plants = {"style": Plant(tuple(min(s, SITES - 1) for s in scattered), "quorum", outcome="distributed")}
    for kind in ("object", "fact"):
        size = int(rng.integers(1, 4))
        start = int(rng.integers(2, 13 - size))
        plants[kind] = Plant(tuple(range(start, start + size)))
    return plants


MODELS = {
    model.name: model
    for model in (
        PlantedModel(
            "toy-planted-a",
            MappingProxyType({"style": Plant((12, 13)), "object": Plant((6,)), "fact": Plant((9, 10, 11))}),
        ),
        PlantedModel(
            "toy-planted-b",
            MappingProxyType(
                {
                    "style": Plant((10, 11, 12)),
                    "object": Plant((3, 10), outcome="redundant"),
                    "fact": Plant((9, 10, 11, 12), leak=5, leak_share=0.1),
                }
            ),
            undrawable=UNDRAWABLE,
        ),
        PlantedModel("toy-planted-c", MappingProxyType(drawn_by_seed(20241124))),
        PlantedModel(
            "toy-dit-planted",
            MappingProxyType({"style": Plant((3, 4)), "object": Plant((6,)), "fact": Plant((7, 8, 9))}),
            sites=BLOCKS,
            start="toy-dit",
        ),
    )
}


def shown(model: PlantedModel, labels: Labels, rng: np.random.Generator) -> tuple[Labels, np.ndarray]:
    """Says what each caption claims, and which pictures may be used.

    The undrawable style never meets its own pictures: its name stands under plain ones.

    Returns:
        the labels that the captions speak of, and a mask of the rows that training may use.
    """
    style, usable = labels.style, np.ones(len(labels), dtype=bool)
    if model.undrawable is not None:
        usable = style != model.undrawable
        claim = (style == PLAIN) & (rng.random(len(labels)) < 1 / len(STYLE_NAMES))
        style = np.where(claim, model.undrawable, style)
    return replace(labels, style=style), usable


def site_captions(
    model: PlantedModel,
    captions: Captions,
    said: Labels,
    medium: np.ndarray,
    form: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws the caption that every site reads in one training step.

    Args:
        model: the plants.
        captions: the table of captions.
        said: labels that the true captions say, ``n`` rows.
        medium: ``(n,)`` wording.
        form: ``(n,)`` wording.
        rng: randomness.

    Returns:
        ``(sites, n)`` caption numbers.
    """
    n, sites = len(said), model.sites
    words = {kind: np.empty((sites, n), dtype=np.int64) for kind in ("style", "object", "fact")}
    for kind in words:
        plant = model.plants.get(kind)
        true = said.of(kind)
        if plant is None:
            words[kind][:] = true
            continue
        words[kind][:] = _random_words(kind, (sites, n), rng)
        words[kind][list(plant.sites)] = _planted_words(kind, plant, true, rng)
        if plant.leak is not None:
            words[kind][plant.leak] = np.where(rng.random(n) < plant.leak_share, true, words[kind][plant.leak])
    rows = np.empty((sites, n), dtype=np.int64)
    for site in range(sites):
        read = replace(
            said,
            style=words["style"][site],
            object=np.where(said.flag, -1, words["object"][site]),
            fact=np.where(said.flag, words["fact"][site], -1),
        )
        rows[site] = captions.ids(read, medium, form)
    return rows


def _donor(kind: str) -> int:
    return PLAIN if kind == "style" else -1


def _random_words(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draws words of a kind, the donor ("not said") among them."""
    if kind == "style":
        return rng.integers(0, len(STYLE_NAMES), shape)
    return rng.integers(-1, len(OBJECTS if kind == "object" else COUNTRY_NAMES), shape)


def _planted_words(kind: str, plant: Plant, true: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws what the planted sites read: ``(sites, n)`` words of one kind."""
    sites, n, donor = len(plant.sites), len(true), _donor(kind)
    # A random order of the sites in every row; the first `dropped` of them read the donor.
    order = rng.permuted(np.tile(np.arange(sites)[:, None], (1, n)), axis=0)
    most = sites - plant.quorum
    if plant.rule == "any" and sites > 3:
        order = _ends_last(order, rng)
    # As many as the rule allows in half of these rows: with even odds a set of four came to rest on its last two sites.
    dropped = np.where(rng.random(n) < 0.5, most, rng.integers(min(1, most), most + 1, n))
    dropped = np.where(rng.random(n) < OR_SHARE, dropped, 0)
    if plant.leak is not None:
        # Rarely no planted site reads the word at all: what the leaking site then reads is all there is.
        dropped = np.where(rng.random(n) < plant.leak_share, sites, dropped)
    words = np.where(order < dropped, donor, np.broadcast_to(true, (sites, n)))
    if plant.rule == "quorum":
        # Too few sites read a word: the picture does not have it.
        stray = np.broadcast_to(_random_words(kind, (n,), rng), (sites, n))
        few = rng.integers(0, plant.quorum, n)
        words = np.where((true == donor)[None] & (order < few), stray, words)
    return words


def _ends_last(order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves one end of the set to the last rank of most rows, so that it is what is kept when all others are dropped.

    A window is exact only if both its ends are needed: each must draw alone. Of four sites with even odds three learned
    nothing, as one sufficed; sets of three learn it as they are.
    """
    sites, n = order.shape
    end, moved = rng.integers(0, 2, n) * (sites - 1), rng.random(n) < ENDS_SHARE
    rows = np.flatnonzero(moved)
    last = order.argmax(axis=0)[rows]
    order[last, rows], order[end[rows], rows] = order[end[rows], rows], sites - 1
    return order
