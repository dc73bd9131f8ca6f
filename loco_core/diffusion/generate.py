"""Batched generation through diffusers' own pipelines, each row with an intervention of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from loco_core.diffusion.cutting import in_batches, reads_own
from loco_core.diffusion.engine import kernels
from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.diffusion.routing import PromptKey, Router, prompt_keys
from loco_core.diffusion.schedules import check_schedule, named_scheduler
from loco_core.errors import ModelError
from loco_core.types import Generation, Row

CONSTANT_BELOW = 1e-3
"""A picture of one colour is no picture: the standard deviation of its pixels, in [0, 1], that still counts as one."""


@dataclass(frozen=True)
class Pictures:
    """Generated images of consecutive rows.

    Attributes:
        images: ``(n, 3, height, width)`` float32 on the CPU, in [0, 1] (not a number where generation failed).
        latents: ``(n, channels, h, w)`` final latents on the CPU, of the first stage where there are two; those of FLUX
            packed, ``(n, tokens, 64)``.
    """

    images: torch.Tensor
    latents: torch.Tensor


def generate(
    model: LoadedModel,
    rows: Sequence[Row],
    settings: Generation,
    batch_size: int,
    *,
    read: Sequence[Row] = (),
    encode: Callable[[list[str]], PromptEmbeds] | None = None,
    during: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Pictures]:
    """Generates rows in batches of one fixed shape.

    The last batch is filled up with copies of its last row: a convolution's result differs in the last bits between
    batch shapes (8e-7 between one row and eight), and equal shapes make equal bits.

    Args:
        model: a loaded model.
        rows: images to generate.
        settings: settings of all rows.
        batch_size: rows per batch.
        read: rows whose texts are encoded with those of every batch, in front of them: a text that is encoded beside
            others differs from itself in the last bits.
        encode: encodes the rows' texts, the empty one first; None is the family's encoder.
        during: entered while a batch is denoised: what hooks there see is the denoiser's calls for these rows alone.

    Yields:
        the pictures of each batch, without the filling.

    Raises:
        ModelError: the scheduler is unknown, or an intervention names a site that the model does not have.
    """
    for row in rows:
        beyond = [site for site in row.intervention.sites if not 0 <= site < len(model.sites)]
        if beyond:
            raise ModelError(f"site {beyond[0]} is not in the model, which has sites 0 to {len(model.sites) - 1}")
    if not model.facts.words and any(row.intervention.tokens != "all" for row in rows):
        raise ModelError("of this model nobody knows which tokens of a text are words; expected tokens: all")
    if not model.facts.follows and any(reads_own(row) for row in rows):
        raise ModelError("rows of this model cannot be given others' pictures; expected source: run")
    if not model.facts.sides and (settings.height or settings.width):
        raise ModelError("the call of this pipeline takes no height and width; expected neither")
    pipeline = model.pipeline
    if settings.scheduler is not None:
        pipeline.scheduler = named_scheduler(settings.scheduler, pipeline.scheduler)
    partly = any(_in_part_of_the_steps(row, settings.steps) for row in rows)
    check_schedule(pipeline.scheduler, settings.steps, partly=partly)
    if not model.facts.pooled and any(row.intervention.pooled == "donor" for row in rows):
        raise ModelError("nothing in this model reads a pooled text; expected pooled: prompt")
    if model.donor is None and any(row.intervention.source == "weights" for row in rows):
        raise ModelError("this model was loaded without a donor, whose weights rows could read; expected one")
    for batch, sources in in_batches(rows, batch_size, beside=model.facts.stream == "evolving"):
        drawn = batch + sources
        filled = drawn + [drawn[-1]] * (batch_size - len(drawn))
        pictures = _run(model, filled, prompt_keys([*read, *filled]), settings, encode or model.encode, during)
        yield Pictures(pictures.images[: len(batch)], pictures.latents[: len(batch)])


@torch.no_grad()
def _run(
    model: LoadedModel,
    rows: list[Row],
    keys: list[PromptKey],
    settings: Generation,
    encode: Callable[[list[str]], PromptEmbeds],
    during: Callable[[], AbstractContextManager[None]],
) -> Pictures:
    pipeline, family = model.pipeline, model.family
    # Models that read the scale as a number, or none, have no unconditional half, whatever their family.
    config: Any = family.denoiser(pipeline).config
    distilled = config.get("time_cond_proj_dim") is not None or pipeline.config.get("is_distilled", False)
    guided = model.facts.guided and not distilled and settings.guidance_scale > model.facts.unguided_scale
    prompts = encode([text for _, text in keys])
    router = Router(model)
    number = {key: index for index, key in enumerate(keys)}
    base = [number["prompt", row.prompt] for row in rows]
    halves = {half: [_pooled(number, row, half) for row in rows] for half in ("conditional", "unconditional")}
    texts, pooled = prompts.take(base), prompts.take(halves["conditional"])
    negative = (prompts.take([0] * len(rows)), prompts.take(halves["unconditional"])) if guided else None
    last: list[torch.Tensor] = []
    with kernels(model.engine.attention, model.dtype):
        with (
            family.drawing(pipeline, texts, pooled, negative),
            router.route(keys, prompts, rows, settings.steps, guided),
            during(),
        ):
            # The first of what a pipeline returns: images, or frames of videos.
            images = pipeline(
                **family.arguments(pipeline, texts, pooled, negative),
                **_callback(pipeline, last),
                num_inference_steps=settings.steps,
                **family.guide(pipeline, model.facts.scale_argument, settings.guidance_scale, guided=guided),
                **{name: side for name in ("height", "width") if (side := getattr(settings, name)) is not None},
                generator=[torch.Generator("cpu").manual_seed(row.seed) for row in rows],
                output_type="pt",
            )[0]
        if model.super_resolution is not None:
            # What is drawn from no picture looks like one.
            failed = of_one_colour(family.images(images))
            images = model.super_resolution.enlarge(model, images, [row.seed for row in rows], settings.steps)
            images[failed] = torch.nan
    return Pictures(family.images(images).float().cpu(), last[0].float().cpu())


def of_one_colour(images: torch.Tensor) -> torch.Tensor:
    """Tells ``(n,)`` which images ``(n, 3, height, width)`` in [0, 1] are no pictures: black ones, broken ones."""
    return ~(images.float().std(dim=(2, 3)).amax(dim=1) > CONSTANT_BELOW)


def _pooled(number: Mapping[PromptKey, int], row: Row, half: str) -> int:
    does = row.intervention
    if does.pooled == "donor" and does.guidance_half in (half, "both"):
        return number["donor", row.donor]
    return number["prompt", row.prompt] if half == "conditional" else 0


def _callback(pipeline: Any, last: list[torch.Tensor]) -> dict[str, Any]:
    """Returns the arguments with which a pipeline hands out its latents after every step."""

    def keep(_: Any, __: int, ___: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        last[:] = [tensors["latents"]]
        return tensors

    def keep_latents(_: int, __: Any, latents: torch.Tensor) -> None:
        last[:] = [latents]

    if "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters:
        return {"callback_on_step_end": keep}
    return {"callback": keep_latents, "callback_steps": 1}


def _in_part_of_the_steps(row: Row, steps: int) -> bool:
    does = row.intervention
    return bool(does.sites) and (does.step_start > 0 or (does.step_end is not None and does.step_end < steps))
