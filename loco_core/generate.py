"""Batched generation through diffusers' own pipelines, each row with an intervention of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from loco_core.errors import ModelError, did_you_mean
from loco_core.models import LoadedModel
from loco_core.routing import Router, prompt_keys
from loco_core.types import Generation, Row


@dataclass(frozen=True)
class Pictures:
    """Generated images of consecutive rows.

    Attributes:
        images: ``(n, 3, height, width)`` float32 on the CPU, in [0, 1] (not a number where generation failed).
        latents: ``(n, channels, h, w)`` final latents on the CPU.
    """

    images: torch.Tensor
    latents: torch.Tensor


def generate(model: LoadedModel, rows: Sequence[Row], settings: Generation, batch_size: int) -> Iterator[Pictures]:
    """Generates rows in batches of one fixed shape.

    The last batch is filled up with copies of its last row: a convolution's result differs in the last bits between
    batch shapes (8e-7 between one row and eight), and equal shapes make equal bits.

    Args:
        model: a loaded model.
        rows: what to generate.
        settings: the same for all rows.
        batch_size: rows a batch.

    Yields:
        the pictures of each batch, without the filling.

    Raises:
        ModelError: the scheduler is unknown, or an intervention names a site that the model does not have.
    """
    for row in rows:
        beyond = [site for site in row.intervention.sites if not 0 <= site < len(model.sites)]
        if beyond:
            raise ModelError(f"site {beyond[0]} is not in the model, which has sites 0 to {len(model.sites) - 1}")
    pipeline = model.pipeline
    if settings.scheduler is not None:
        pipeline.scheduler = _scheduler(settings.scheduler, pipeline.scheduler)
    if any(_in_part_of_the_steps(row, settings.steps) for row in rows):
        _check_steps(pipeline.scheduler, settings.steps)
    for start in range(0, len(rows), batch_size):
        batch = list(rows[start : start + batch_size])
        filled = batch + [batch[-1]] * (batch_size - len(batch))
        pictures = _run(model, filled, settings)
        yield Pictures(pictures.images[: len(batch)], pictures.latents[: len(batch)])


@torch.no_grad()
def _run(model: LoadedModel, rows: list[Row], settings: Generation) -> Pictures:
    pipeline, guided = model.pipeline, settings.guidance_scale > 1
    keys = prompt_keys(rows)
    prompts = model.family.encode(pipeline, [text for _, text in keys])
    router = Router(model.family.denoiser(pipeline), model.sites)
    number = {key: index for index, key in enumerate(keys)}
    embeds = prompts.embeds[[number[("prompt", row.prompt)] for row in rows]]
    last: list[torch.Tensor] = []

    def count_step(_: Any, step: int, __: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        router.step = step + 1
        last[:] = [tensors["latents"]]
        return tensors

    with router.route(keys, prompts, rows, settings.steps, guided):
        images = pipeline(
            prompt_embeds=embeds,
            negative_prompt_embeds=prompts.embeds[:1].expand_as(embeds) if guided else None,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            height=settings.height,
            width=settings.width,
            generator=[torch.Generator("cpu").manual_seed(row.seed) for row in rows],
            output_type="pt",
            callback_on_step_end=count_step,
        ).images
    return Pictures(images.float().cpu(), last[0].float().cpu())


def _in_part_of_the_steps(row: Row, steps: int) -> bool:
    does = row.intervention
    return bool(does.sites) and (does.step_start > 0 or (does.step_end is not None and does.step_end < steps))


def _check_steps(scheduler: Any, steps: int) -> None:
    """Refuses step windows where a scheduler's calls of the denoiser are not the steps that were asked for."""
    scheduler.set_timesteps(steps)
    calls = len(scheduler.timesteps)
    if calls != steps:
        name = type(scheduler).__name__
        raise ModelError(
            f"{name} runs the denoiser {calls} times for {steps} steps, so that interventions at some steps mean "
            "nothing certain; set generation.scheduler to one that runs it once a step, such as DDIMScheduler"
        )


def _scheduler(name: str, current: Any) -> Any:
    """Returns the named diffusers scheduler with the current one's configuration."""
    if type(current).__name__ == name:
        return current
    compatible = {cls.__name__: cls for cls in current.compatibles}
    if name not in compatible:
        raise ModelError(f'no scheduler "{name}" for this model{did_you_mean(name, compatible)}')
    return compatible[name].from_config(current.config)
