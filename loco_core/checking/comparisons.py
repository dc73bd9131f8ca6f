"""The engine against the pipeline alone, each difference with a limit that follows from what was measured.

Batches of another shape round otherwise. How much that changes a picture depends on the device, its kernels and the
number format, so that it is measured in every check: the pipeline alone draws the same picture by itself and in a
batch of four. A mistake of the engine, such as a site that reads the wrong prompt, changes a picture far more than
that. How far a prompt can take a picture at all is measured too: it is the distance to the donor prompt's picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from loco_core.checking.certificate import Check
from loco_core.checking.plain import draw_plainly
from loco_core.diffusion.default.calls import TRUE_SCALE
from loco_core.diffusion.engine import kernels
from loco_core.diffusion.generate import generate, of_one_colour
from loco_core.diffusion.model import LoadedModel
from loco_core.diffusion.schedules import named_scheduler
from loco_core.types import Generation, Intervention, Pooled, Row

TOGETHER = 4
"""Rows of the batch that a single row is compared with."""
TIMES = 4.0
"""What the engine may differ by, of what the shape of a batch alone changes."""
LEAST = {"float32": 2e-5, "float16": 3e-3, "bfloat16": 1e-2}
"""What the engine may always differ by: ten times the largest difference that `python -m benchmarks.check` measured in
float32 (2.1e-6), and a few roundings of the others, which it measured as 0 on a CPU."""
TELLING = 0.5
"""A limit above this share of what the donor prompt changes tells nothing."""
STRICT = 0.1
"""The same of a model of the default family: nobody has looked for ways of its text that are half of the effect."""


@dataclass(frozen=True)
class Subject:
    """What is drawn to compare.

    Attributes:
        prompt: sentence of the pictures.
        donor: sentence that swapped sites read.
        seed: seed of the noise.
        settings: settings of the pictures.
    """

    prompt: str
    donor: str
    seed: int
    settings: Generation


@dataclass(frozen=True)
class Alone:
    """What the pipeline alone draws.

    Attributes:
        prompt: latents of the prompt.
        donor: latents of the donor prompt.
        floor: relative difference of the prompt's picture in a batch of itself, the largest.
        signal: relative difference of the two pictures.
        pictures: the same of the pictures that it makes of the latents; None in that itself.
    """

    prompt: torch.Tensor
    donor: torch.Tensor
    floor: float
    signal: float
    pictures: Alone | None = None

    @property
    def finite(self) -> bool:
        """Whether the pictures have numbers."""
        return bool(self.prompt.isfinite().all() and self.donor.isfinite().all())


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Returns the distance of two tensors relative to the second."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def draw_alone(model: LoadedModel, subject: Subject) -> Alone:
    """Draws both sentences with the pipeline alone, and the first in a batch of itself, too."""
    settings, seed, scale = subject.settings, subject.seed, model.facts.scale_argument

    def drawn(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        given = _arguments(model, subject, len(texts))
        found = draw_plainly(model.pipeline, texts, [seed] * len(texts), settings, scale, given)
        return found.latents, model.family.images(found.images).float().cpu()

    if settings.scheduler is not None:
        model.pipeline.scheduler = named_scheduler(settings.scheduler, model.pipeline.scheduler)
    with kernels(model.engine.attention, model.dtype):
        prompt, donor = drawn([subject.prompt]), drawn([subject.donor])
        # Of one sentence: some pipelines pad the sentences of a batch to the longest, and read the padding.
        batch = drawn([subject.prompt] * TOGETHER)
    latents, pictures = (_alone(*parts) for parts in zip(prompt, donor, batch, strict=True))
    return replace(latents, pictures=pictures)


def _alone(prompt: torch.Tensor, donor: torch.Tensor, batch: torch.Tensor) -> Alone:
    floor = max(difference(each, prompt[0]) for each in batch)
    return Alone(prompt[0], donor[0], floor, difference(donor[0], prompt[0]))


def _arguments(model: LoadedModel, subject: Subject, count: int) -> dict[str, Any]:
    """Returns what a pipeline's call is given beside texts, such as that captions are taken as they are."""
    text = model.encode([subject.prompt])
    half = (text, text) if model.facts.guided else None
    given = model.family.arguments(model.pipeline, text, text, half)
    plain: dict[str, Any] = {
        name: value for name, value in given.items() if isinstance(value, bool | int | float | str)
    }
    if model.facts.guided and model.facts.scale_argument == TRUE_SCALE:
        return {**plain, "negative_prompt": [" "] * count}
    return plain


def draw_with_engine(model: LoadedModel, subject: Subject) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Draws an identity swap and a swap of all sites, alone and in a batch.

    Returns:
        latents by what they are, and all pictures.
    """
    every = tuple(range(len(model.sites)))
    pooled: Pooled = "donor" if model.facts.pooled else "prompt"
    rows = {
        "identity": Row(subject.prompt, subject.prompt, subject.seed, Intervention(every)),
        "all_sites": Row(subject.prompt, subject.donor, subject.seed, Intervention(every, pooled=pooled)),
    }
    latents, pictures = {}, []
    for name, row in rows.items():
        (found,) = generate(model, [row], subject.settings, model.facts.least_batch)
        latents[name] = found.latents[0]
        pictures.append(found.images)
    together = list(generate(model, list(rows.values()), subject.settings, TOGETHER))
    both = torch.cat([found.latents for found in together])
    latents |= {f"{name}_together": both[number] for number, name in enumerate(rows)}
    return latents, torch.cat([*pictures, *(found.images for found in together)])


def compare_strictly(
    model: LoadedModel, alone: Alone, latents: dict[str, torch.Tensor], pictures: torch.Tensor
) -> list[Check]:
    """Holds latents and pictures of a model of the default family against what its pipeline drew alone.

    A text may enter where the latents become a picture, too.

    Args:
        model: the model.
        alone: what the pipeline drew.
        latents: what the engine drew, by what they are.
        pictures: the pictures of the same, in the same order.

    Returns:
        a check each, the first that is not passed of latents and pictures.
    """
    found = compare_engine(model, alone, latents, STRICT)
    if alone.pictures is None:
        return found
    drawn = compare_engine(model, alone.pictures, dict(zip(latents, pictures, strict=True)), STRICT)
    return [
        replace(of_pictures, said=f"of the pictures: {of_pictures.said}")
        if of_latents.state == "passed" != of_pictures.state else of_latents
        for of_latents, of_pictures in zip(found, drawn, strict=True)
    ]  # fmt: skip


def compare_engine(
    model: LoadedModel, alone: Alone, latents: dict[str, torch.Tensor], telling: float = TELLING
) -> list[Check]:
    """Holds what the engine drew against what the pipeline drew alone.

    Args:
        model: the model.
        alone: what the pipeline drew.
        latents: what the engine drew, by what they are.
        telling: share of what the donor prompt changes above which a limit tells nothing.
    """
    limit = max(LEAST[model.dtype], TIMES * alone.floor)
    beside = max(difference(latents[f"{name}_together"], latents[name]) for name in ("identity", "all_sites"))
    pooled = " and the pooled text" if model.facts.pooled else ""
    said = {
        "identity": (
            difference(latents["identity"], alone.prompt),
            "a prompt swapped for itself at all sites, against the pipeline alone",
            "the engine does not draw what this pipeline draws: the family encodes or passes prompts in another way "
            "than the pipeline's own call; compare its `encode` and `arguments` with `encode_prompt` and `__call__`",
        ),
        "all_sites": (
            difference(latents["all_sites"], alone.donor),
            f"all sites{pooled} swapped, against the donor prompt's own picture",
            "the prompt reaches the picture by a way that no site covers: a site that was not found, or a pooled text "
            "that the family does not name",
        ),
        "batch": (
            beside,
            f"the same rows in a batch of {TOGETHER}, against one by one",
            "rows of one batch disturb each other: this pipeline computes something over the whole batch; sweep it "
            "with generation.batch_size of one row",
        ),
    }  # fmt: skip
    most = telling * alone.signal
    return [_held(name, figure, limit, alone, most, what, advice) for name, (figure, what, advice) in said.items()]


def _held(name: str, figure: float, limit: float, alone: Alone, telling: float, what: str, advice: str) -> Check:
    about = f"{what}; the shape of a batch alone changes {alone.floor:.1e}, the donor prompt {alone.signal:.1e}"
    if name == "batch":
        # What the pipeline itself does in batches excuses nothing here.
        limit = min(limit, telling)
    # Not-a-number is within no limit.
    if not figure <= limit:
        return Check(name, "failed", about, figure, limit, advice)
    if limit > telling:
        return Check(
            name,
            "skipped",
            f"{about}: rounding would hide a mistake; float32, or prompts that differ more, would tell",
            figure,
        )
    return Check(name, "passed", about, figure, limit)


def check_pictures(pictures: torch.Tensor, dtype: str, *, finite: bool) -> Check:
    """Tells pictures from black, constant and broken ones.

    Args:
        pictures: ``(n, 3, height, width)`` in [0, 1], as the engine gives them.
        dtype: number format that they were drawn in.
        finite: whether the latents of the pipeline alone are numbers.
    """
    broken = int(of_one_colour(pictures).sum())
    numbers = int(pictures.isfinite().flatten(1).all(1).sum())
    count = len(pictures)
    if finite and not broken:
        return Check("pictures", "passed", f"{count} of {count} pictures have numbers and more than one colour", 0.0)
    wider = "use --dtype bfloat16 or float32, in a sweep `dtype: bfloat16`"
    if not finite or numbers < count:
        where = "the VAE" if finite else "the denoiser or a text encoder"
        return Check(
            "pictures", "failed", f"{max(count - numbers, broken)} of {count} pictures are not numbers: {where} gives "
            f"infinite or undefined values in {dtype}",
            float(broken), advice=f"{dtype} is too narrow for these weights: {wider}" if dtype == "float16" else
            f"{where} has weights that are damaged, or are scaled for another model; fetch them again, or convert "
            "them anew",
        )  # fmt: skip
    black = int((pictures.flatten(1).amax(1) < 1 / 255).sum())
    return Check(
        "pictures", "failed", f"{broken} of {count} pictures are of one colour" + (f", {black} black" if black else ""),
        float(broken), advice="the VAE does not decode what the denoiser draws: its weights or its scaling_factor "
        "belong to another model" + (f"; or {dtype} is too narrow: {wider}" if dtype == "float16" else ""),
    )  # fmt: skip


def compare_precision(half: Alone, full: LoadedModel, subject: Subject, dtype: str) -> Check:
    """Holds pictures in half precision against those in float32, both of the pipeline alone."""
    drawn = draw_alone(full, subject)
    figure = max(difference(half.prompt, drawn.prompt), difference(half.donor, drawn.donor))
    limit = TELLING * drawn.signal
    return Check(
        "precision", "passed" if figure <= limit else "failed",
        f"the pipeline alone in {dtype}, against float32: {figure:.1e}; the donor prompt: {drawn.signal:.1e}", figure,
        limit, f"{dtype} changes pictures as much as the prompt does: use float32"
        + (", or bfloat16" if dtype == "float16" else ""),
    )  # fmt: skip
