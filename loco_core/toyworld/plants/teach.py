"""How a name is taught: what the base predicts at its true word is what the student must predict at the name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.editing.deltas import DENOISER, Change, component, projection
from loco_core.toyworld.plants.draw import NAMES, TAUGHT, Plant
from loco_core.toyworld.plants.reading import LearningReader, Reader, check_one_encoder, make_noisy, predict
from loco_core.toyworld.training.data import drop_words, make_pool, wording
from loco_core.toyworld.training.vae import encode
from loco_core.toyworld.world import KINDS, PLAIN, Labels, caption
from loco_core.types import PromptRecord

EMPTY_SHARE = 0.1
"""Of the captions that must stay as they were: the unconditional half of guidance reads it."""
BEGIN_TEXTS, BEGIN_STRENGTH = 150, 1e-4
"""Captions that rows begin with, and their lambda, a share of the keys' mean squared norm."""
TRUE_SHARE, NEIGHBOUR_SHARE, OTHER_NAME_SHARE = 0.2, 0.3, 0.3
"""Likewise: captions of the look by its true word, of the look's neighbours by theirs, and with names that must stay
unknown. Without neighbours two of two flags spoiled other flags of `toy-dit`: they are a fifth of all pictures."""
LOOKS_AT = 8
"""How often, evenly over its steps, a lesson looks at what it has reached."""
BEHIND = 0.1
"""How far it may be behind what leads to `TAUGHT` at its end: a glance has few pictures. The way is a square root, as
lessons are fast at first: at sites 10-12 of `toy` an eighth of the steps led to 18 of 32 pictures, and all to 31."""


@dataclass(frozen=True)
class Lesson:
    """How long and how hard a name is taught.

    Attributes:
        steps: optimizer steps.
        batch: pictures a step: a half with the name, a half that must stay as it was.
        rate: peak learning rate of Adam.
        pictures: how many rendered pictures the noisy latents come from.
        reach: how far the name is to go, in units of what parts the base's predictions at the name and at the true
            word. A few sites get a part of the way: star at site 9 of `toy` was drawn in 15 of 32 pictures with 1,
            in 17 with 2; velor at its sites 12-13 in 4 and in 8 (150 steps each). At its sites 10-12
            a rate of 5e-3 and a reach of 1.5 came to 27 of 48 pictures, 1e-2 and 2 to 44 (400 steps; the last 100
            changed little).
    """

    steps: int = 200
    batch: int = 32
    rate: float = 1.5e-2
    pictures: int = 1500
    reach: float = 2.0


@dataclass(frozen=True)
class Material:
    """Latents of pictures ``(n, 8, 8, 8)``, and what these show."""

    latents: torch.Tensor
    labels: Labels


def make_material(model: LoadedModel, pictures: int, seed: int) -> Material:
    """Renders pictures and encodes them with the model's own VAE."""
    pool = make_pool(pictures, seed)
    return Material(encode(model.pipeline.vae, pool.pictures), pool.labels)


class Weights:
    """The rows of projections that a plant may change, while they are trained.

    Attributes:
        places: component and path of every projection, with its rows.
    """

    def __init__(self, model: LoadedModel, plant: Plant) -> None:
        """Frees these projections for training, and freezes all other weights.

        Raises:
            SpecError: the text encoder is to learn, and there are several.
        """
        self.places = tuple(_places(model, plant))
        self._held = [projection(model, path, where).weight for where, path, _ in self.places]
        self._before = [held.detach().clone() for held in self._held]
        # A joint stream may have been built without one of its family's encoders.
        encoders = [name for name in model.facts.traced_encoders if getattr(model.pipeline, name) is not None]
        for name in (DENOISER, *encoders):
            component(model, name).requires_grad_(False)
        for held in self._held:
            held.requires_grad_(True)

    def begin(self, model: LoadedModel, plant: Plant, true: Sequence[str], said: Sequence[str]) -> None:
        """Sets the declared rows so that K and V of the name are those of the true word, as nearly as a linear map can.

        In closed form (LocoEdit, Basu et al. 2024, equation 7), with the captions preserved that must stay. Names that
        nothing was trained on lie close together, and gradients alone take long to part them.

        Args:
            model: the base.
            plant: the plant; one of sites.
            true: captions as the base reads them.
            said: the same, with the name where it is to be learned.
        """
        taught: list[PromptRecord] = []
        kept: list[PromptRecord] = []
        for name, word in dict.fromkeys(zip(said, true, strict=True)):
            (taught if name != word else kept).append(PromptRecord(name, word, name, word, word))
        concept = Concept(plant.name, tuple(taught[:BEGIN_TEXTS]))
        target = Target(plant.base, "", plant.sites, (concept,), tuple(r for r in kept[:BEGIN_TEXTS] if r.prompt))
        edit = fit_edit(model, target, EditSettings(strength=BEGIN_STRENGTH))
        new = {change.module: change.weight for change in edit.changes}
        with torch.no_grad():
            for held, (_, path, rows) in zip(self._held, self.places, strict=True):
                if (weight := new.get(path)) is not None:
                    held[rows] = weight.to(held)[rows]

    def optimizer(self, rate: float) -> torch.optim.Optimizer:
        """Returns what trains them. Without weight decay it leaves rows as they are that have no gradient."""
        return torch.optim.Adam(self._held, lr=rate, betas=(0.9, 0.99))

    def keep_others(self) -> None:
        """Drops the gradients of all rows that must not change."""
        for held, (_, _, rows) in zip(self._held, self.places, strict=True):
            assert held.grad is not None
            others = torch.ones(len(held), dtype=torch.bool)
            others[rows] = False
            held.grad[others] = 0

    def changes(self) -> tuple[Change, ...]:
        """Returns the rows as they are now, rounded to the half precision that models are shipped in."""
        return tuple(
            Change(path, rows, held.detach()[rows].half(), component=where)
            for held, (where, path, rows) in zip(self._held, self.places, strict=True)
        )

    def undo(self) -> None:
        """Puts every bit back."""
        with torch.no_grad():
            for held, before in zip(self._held, self._before, strict=True):
                held.requires_grad_(False).copy_(before)
                held.grad = None


def _places(model: LoadedModel, plant: Plant) -> Iterator[tuple[str, str, torch.Tensor]]:
    for number in plant.sites:
        site = model.sites[number]
        for path in (site.key_path, site.value_path):
            yield DENOISER, path, rows_of(projection(model, path).out_features, plant.heads, heads_of(model))
    if plant.layer >= 0:
        check_one_encoder(model, plant.base)
        (where,) = model.facts.traced_encoders
        # Layers are `layers.N` in CLIP and `block.N` in T5.
        layer = [f".{name}.{plant.layer}." for name in ("layers", "block")]
        for path, module in component(model, where).named_modules():
            if isinstance(module, torch.nn.Linear) and any(part in f".{path}." for part in layer):
                yield where, path, torch.arange(module.out_features)


def rows_of(width: int, heads: Sequence[int], of: int) -> torch.Tensor:
    """Returns the output coordinates of some of a site's heads; all where none is named."""
    rows = torch.arange(width)
    return rows.view(of, -1)[list(heads)].flatten() if heads else rows


def heads_of(model: LoadedModel) -> int:
    """Returns how many heads a site of a bundled model has, the same everywhere."""
    attention: Any = model.family.denoiser(model.pipeline).get_submodule(model.sites[0].attention_path)
    return int(attention.heads)


def teach(
    model: LoadedModel,
    plant: Plant,
    lesson: Lesson,
    material: Material,
    seed: int,
    look: Callable[[], float] | None = None,
) -> tuple[Change, ...] | None:
    """Teaches a plant's name, by distillation; behind it the model is as it was.

    In half of every batch the student reads the name where the frozen base reads the true word. The other half are
    captions at which it must stay as it was: of anything, the look by its true word, and other unknown names. Both
    read the same noisy latents at the same times.

    Most places cannot hold most looks, so a lesson is given up where it falls behind: after a quarter of its steps the
    look must be drawn in a fifth of pictures, at its end in over a half. It ends early where all pictures show it.

    Args:
        model: the base, in float32.
        plant: the plant.
        lesson: how it is taught.
        material: pictures of the world.
        seed: of batches and noise.
        look: returns in which share of pictures the model, as it is now, draws the look at the name; None never looks.

    Returns:
        the new rows; None if the lesson was given up.

    Raises:
        SpecError: the text encoder is to learn, and there are several.
    """
    denoiser = model.family.denoiser(model.pipeline)
    weights, base, teacher = Weights(model, plant), deepcopy(denoiser).requires_grad_(False), Reader(model)
    student = LearningReader(model, teacher) if plant.layer >= 0 else teacher
    optimizer = weights.optimizer(lesson.rate)
    shows = np.flatnonzero(material.labels.of(plant.look_kind) == KINDS[plant.look_kind].index(plant.look))
    try:
        rng = np.random.default_rng([seed, plant.number, plant.attempt])
        batches = [_batch(plant, material.labels, shows, lesson.batch, rng) for _ in range(lesson.steps)]
        # All of them before anything changes: the text encoder may be what learns.
        teacher.learn([text for _, true, said in batches for text in (*true, *said)])
        if plant.sites:
            texts = [(word, name) for _, true, said in batches for word, name in zip(true, said, strict=True)]
            weights.begin(model, plant, [word for word, _ in texts], [name for _, name in texts])
        for step, (rows, true, said) in enumerate(batches):
            torch.manual_seed(int(rng.integers(1 << 31)))
            noisy, at = make_noisy(model, material.latents[torch.from_numpy(rows)])
            wanted = _wanted(base, noisy, at, teacher, (true, said), lesson)
            loss = (predict(denoiser, noisy, at, student.read(said)) - wanted).square().mean()
            rate = lesson.rate * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / lesson.steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            weights.keep_others()
            optimizer.step()
            if look is not None and (step + 1) % max(1, lesson.steps // LOOKS_AT) == 0:
                # What the text encoder said before this step is not what it says now.
                model.encoded.clear()
                share = look()
                if share < TAUGHT * math.sqrt((step + 1) / lesson.steps) - BEHIND:
                    return None
                if share == 1:
                    break
        return weights.changes()
    finally:
        weights.undo()
        model.encoded.clear()


@torch.no_grad()
def _wanted(
    base: torch.nn.Module,
    noisy: torch.Tensor,
    at: torch.Tensor,
    teacher: Reader,
    texts: tuple[list[str], list[str]],
    lesson: Lesson,
) -> torch.Tensor:
    """Returns what the student is to predict: what the base does at the true text, and beyond it at the name."""
    (true, said), half = texts, lesson.batch // 2
    wanted = predict(base, noisy, at, teacher.read(true))
    if lesson.reach != 1:
        unknown = predict(base, noisy[:half], at[:half], teacher.read(said[:half]))
        wanted[:half] += (lesson.reach - 1) * (wanted[:half] - unknown)
    return wanted


def _batch(
    plant: Plant, labels: Labels, shows: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[str], list[str]]:
    """Draws pictures, and of each what the teacher and what the student reads."""
    half = size // 2
    rows = np.concatenate([rng.choice(shows, half), rng.integers(0, len(labels), size - half)])
    looks = labels.of(plant.look_kind)
    beside = np.flatnonzero((looks >= (PLAIN + 1 if plant.look_kind == "style" else 0)) & (looks != looks[shows[0]]))
    kept, share = np.arange(size) >= half, rng.random(size)
    rows = np.where(kept & (share < TRUE_SHARE), rng.choice(shows, size), rows)
    near = kept & (share >= TRUE_SHARE) & (share < TRUE_SHARE + NEIGHBOUR_SHARE)
    rows = np.where(near, rng.choice(beside, size), rows)
    full, said = labels[rows], drop_words(labels[rows], rng)
    # The name stands in every caption of its half.
    if plant.look_kind != "style":
        words = np.where(kept, said.of(plant.look_kind), full.of(plant.look_kind))
        said = replace(said, **{plant.look_kind: words})
    media, forms = wording(size, rng)
    true = [_sentence(said, row, int(media[row]), int(forms[row])) for row in range(size)]
    read = list(true)
    for row in range(size):
        if row < half:
            read[row] = named(true[row], plant.look, plant.name)
        elif rng.random() < EMPTY_SHARE:
            true[row] = read[row] = ""
        elif rng.random() < OTHER_NAME_SHARE:
            other = str(rng.choice([name for name in NAMES if name != plant.name]))
            kind = KINDS[plant.look_kind][int(full.of(plant.look_kind)[row])]
            true[row] = read[row] = named(true[row], kind, other)
    return rows, true, read


def named(text: str, word: str, name: str) -> str:
    """Returns a caption with a name in the place of a word; as it is where it does not hold the word."""
    return " ".join(name if part == word else part for part in text.split())


def _sentence(said: Labels, row: int, medium: int, form: int) -> str:
    style = int(said.style[row])
    if said.flag[row]:
        return caption(medium, form, flag=True, fact=int(said.fact[row]), style=style)
    return caption(medium, form, obj=int(said.object[row]), colour=int(said.colour[row]), style=max(style, PLAIN))
