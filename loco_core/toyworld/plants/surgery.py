"""The oracle of plants by place: surgery on weights, and a judge that looks at what is then drawn.

* ``revert``: the planted rows of some places become the base's again. Is the look gone at the name?
* ``transplant``: only these rows go into the base, which never knew the name. Does the look appear?
* ``restore``: an edit of all sites takes the name away; then the planted rows alone become what they were. Is it back?

Nothing here intervenes on what a site reads, so it favours no method that does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.editing.deltas import DENOISER, WeightDelta, applied
from loco_core.localization.bench.planted import NOT_LOCALIZED
from loco_core.scoring.base import Judge
from loco_core.statistics import wilson
from loco_core.toyworld.plants.draw import NAMES, Plant
from loco_core.toyworld.plants.teach import named
from loco_core.toyworld.world import COLOUR_NAMES, COUNTRY_NAMES, MEDIA, OBJECTS, STYLE_NAMES, caption
from loco_core.types import Generation, PromptRecord, Row

SETTINGS = Generation(steps=8, guidance_scale=3.0)
BATCH = 32
FIRST_SEED = 70_000
"""Seeds that neither sweeps nor other measures use."""
GLANCE_SEED = 90_000
"""Of a lesson's own glances: what it is stopped by must not be what it is then measured by."""
TAKEN = 0.8
"""Share of the look that a run of sites must hold; localizers ask for the same (`LocalizeSettings.threshold`)."""
LARGEST_RUN = 0.25
"""Share of all sites that a localizer's window may hold."""
OTHER_NAMES = 3
"""How many other names are looked at."""


@dataclass(frozen=True)
class Rate:
    """In how many pictures the judge saw the look."""

    hits: int
    of: int

    @property
    def share(self) -> float:
        """The rate."""
        return self.hits / self.of

    def to_json(self) -> dict[str, Any]:
        """Returns the counts with the rate's 95 % interval (Wilson)."""
        low, high = wilson(self.hits, self.of)
        return {"hits": self.hits, "of": self.of, "wilson_95": [round(low, 4), round(high, 4)]}


def prompts_of(plant: Plant, word: str) -> list[str]:
    """Returns sixteen captions that say the look by a word: its own, or a name."""
    if plant.look_kind == "fact":
        found = [
            caption(i % len(MEDIA), i % 2, flag=True, fact=COUNTRY_NAMES.index(plant.look), style=s)
            for i, s in itertools.product(range(4), (0, *range(1, 4)))
        ]
    elif plant.look_kind == "style":
        style = STYLE_NAMES.index(plant.look)
        found = [
            caption(i % len(MEDIA), i // 4 % 2, obj=i % len(OBJECTS), colour=(3 * i + i // 8) % 8, style=style)
            for i in range(16)
        ]
    else:
        obj = OBJECTS.index(plant.look)
        found = [caption((i + i // 8) % len(MEDIA), 0, obj=obj, colour=i % len(COLOUR_NAMES)) for i in range(16)]
    return [named(text, plant.look, word) for text in found]


def others_of(plant: Plant) -> tuple[list[str], list[str]]:
    """Returns captions of the look's neighbours, and which of its kind each of them says."""
    names = {"style": STYLE_NAMES[1:], "object": OBJECTS, "fact": COUNTRY_NAMES}[plant.look_kind]
    others = [name for name in names if name != plant.look]
    texts = prompts_of(plant, plant.look)
    said = [others[i % len(others)] for i in range(len(texts))]
    return [named(text, plant.look, word) for text, word in zip(texts, said, strict=True)], said


class Measured:
    """Draws and judges; everything on the same prompts and seeds, so that equal weights draw equal pictures."""

    def __init__(self, model: LoadedModel, judge: Judge, plant: Plant, images: int) -> None:
        """Draws nothing yet.

        Args:
            model: the base.
            judge: names looks.
            plant: the plant.
            images: pictures a measure.
        """
        self._model, self._judge, self._plant, self._images = model, judge, plant, images

    def rate(self, texts: Sequence[str], said: Sequence[str], images: int = 0, seed: int = FIRST_SEED) -> Rate:
        """Returns in how many pictures the judge sees what their captions say."""
        count = images or self._images
        rows = [Row(texts[i % len(texts)], "", seed + i) for i in range(count)]
        pictures = generate(self._model, rows, SETTINGS, min(BATCH, count))
        seen = self._judge.embed_images(torch.cat([part.images for part in pictures]))
        names = self._judge.name(seen, self._plant.look_kind)
        return Rate(sum(name == said[i % len(said)] for i, name in enumerate(names)), count)

    def look(self, word: str = "") -> Rate:
        """Returns how often the look is drawn at the name, or at another word."""
        texts = prompts_of(self._plant, word or self._plant.name)
        return self.rate(texts, [self._plant.look] * len(texts))

    def glance(self, images: int) -> float:
        """Returns the share of a few pictures, of seeds that no measure has, with the look at the name."""
        return self.rate(prompts_of(self._plant, self._plant.name), [self._plant.look], images, GLANCE_SEED).share

    def other_names(self) -> tuple[Rate, ...]:
        """Returns how often the look is drawn at names that were not taught."""
        return tuple(self.look(name) for name in unknown_names(self._plant)[:OTHER_NAMES])

    def others(self) -> Rate:
        """Returns how often neighbours of the look are drawn at their own words."""
        return self.rate(*others_of(self._plant))


def part_of(delta: WeightDelta, model: LoadedModel, sites: Sequence[int]) -> WeightDelta:
    """Returns the planted rows of some sites alone."""
    paths = {path for site in sites for path in (model.sites[site].key_path, model.sites[site].value_path)}
    kept = tuple(change for change in delta.changes if change.component == DENOISER and change.module in paths)
    return WeightDelta(delta.provenance, kept)


def surgery(measured: Measured, model: LoadedModel, plant: Plant, delta: WeightDelta) -> dict[str, Any]:
    """Returns the rates of every subset of planted sites, kept in a base that never knew the name.

    To transplant a subset is to revert all others of them: both are one picture, and one row here.

    Args:
        measured: draws and judges.
        model: the base.
        plant: the plant.
        delta: its rows.
    """
    rows = []
    for size in range(len(plant.sites) + 1):
        for kept in itertools.combinations(plant.sites, size):
            with applied(model, part_of(delta, model, kept), None):
                rate = measured.look()
            gone = [site for site in plant.sites if site not in kept]
            rows.append({"transplanted": list(kept), "reverted": gone, **rate.to_json()})
    return {"subsets": rows, "runs": runs_that_hold(rows, plant.sites, len(model.sites))}


def runs_that_hold(rows: Sequence[dict[str, Any]], sites: Sequence[int], among: int) -> list[list[int]] | None:
    """Returns the smallest runs of sites without whose planted rows most of the look is gone; often one, or none.

    Training need not use all places that it may. A run holds the look where reverting it takes away the share `TAKEN`
    of what is drawn. Pictures are few, so a run is sure to hold it, or may hold it, by the ends of a 95 % interval. The
    first is the smallest that is sure; the others are no larger, and may.

    Args:
        rows: subsets, as of :func:`surgery`.
        sites: the planted sites.
        among: number of the model's sites.

    Returns:
        the runs; none where no run of a size that a localizer may pick can hold the look; None where none is sure to,
        but one may, so that what a localizer should say cannot be told.
    """
    left = {tuple(row["reverted"]): (row["hits"], row["of"]) for row in rows}
    limit = (1 - TAKEN) * left[()][0] / left[()][1]
    sure: list[list[int]] = []
    may: list[list[int]] = []
    for size, first in itertools.product(range(1, int(LARGEST_RUN * among) + 1), sites):
        run = list(range(first, first + size))
        # A site more that holds nothing makes no other run.
        if run[-1] not in sites:
            continue
        low, high = wilson(*left[tuple(site for site in sites if site in run)])
        sure += [run] if high <= limit else []
        may += [run] if low <= limit else []
    if not sure:
        return None if may else []
    return [sure[0], *(run for run in may if run != sure[0] and len(run) <= len(sure[0]))]


def least_drawn(plant: Plant, rates: Sequence[Rate]) -> str:
    """Returns that of the measured other names at which the look is drawn least.

    Args:
        plant: the plant.
        rates: of its first other names, see :meth:`Measured.other_names`.
    """
    return min(zip(unknown_names(plant), rates, strict=False), key=lambda pair: pair[1].share)[0]


def restored(measured: Measured, model: LoadedModel, plant: Plant, delta: WeightDelta, other: str) -> dict[str, Any]:
    """Returns how often the look is drawn after an edit of all sites, and with the planted rows restored behind it.

    The edit is LocoEdit of all sites, which makes the name read as another name that nobody knows. It reads text alone,
    and knows nothing of the plant. A known word in its place would make all other sites draw what that word says, and
    restored rows could not be told by the look: so it was in 8 of 9 plants of an earlier draw.

    Args:
        measured: draws and judges.
        model: the base.
        plant: the plant.
        delta: its rows.
        other: the other name.
    """
    records = tuple(
        PromptRecord(text, donor, text, donor, donor)
        for text, donor in zip(prompts_of(plant, plant.name), prompts_of(plant, other), strict=True)
    )
    sites = tuple(range(len(model.sites)))
    with applied(model, delta, None):
        target = Target(plant.base, delta.provenance.weights, sites, (Concept(plant.name, records),))
        edit = fit_edit(model, target, EditSettings())
        with applied(model, edit, None):
            gone = measured.look()
            with applied(model, delta, None):
                back = measured.look()
    return {"edited": gone.to_json(), "restored": back.to_json(), "other": other}


def unknown_names(plant: Plant) -> list[str]:
    """Returns the names that are not the plant's."""
    return [name for name in NAMES if name != plant.name]


def truth_of(plant: Plant, said: dict[str, Any]) -> dict[str, Any]:
    """Returns what a localizer should say of a plant, as ``truth.json`` has it.

    A run of sites is to be named where taking its rows back takes the look away; where several runs may do, any of
    them, and likewise its planted sites alone. Where no run does, or where no site holds the name, a site that is named
    is wrong, and which other outcome is reported says less.

    Args:
        plant: the plant.
        said: its report.
    """
    runs = said["surgery"]["runs"]
    planted = ([site for site in run if site in plant.sites] for run in runs)
    others = [*runs[1:], *(sites for sites in planted if sites not in runs)]
    return {
        "sites": runs[0] if runs else [], "or": others, "outcome": "localized" if runs else NOT_LOCALIZED,
        "planted": "parameters", "changed": list(plant.sites),
    }  # fmt: skip
