"""What attacks learn by: the loss that a diffusion model is trained with, on a few clean pictures of an attribute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from diffusers import DDPMScheduler

from loco_core.attacking.base import AttackTask, LearningSettings
from loco_core.diffusion.engine import kernels
from loco_core.diffusion.model import Attackable, LoadedModel, PromptEmbeds
from loco_core.diffusion.schedules import check_noising

_NORM = 1.0
"""Norm that gradients are clipped to, as in diffusers' own training scripts."""


def family_of(model: LoadedModel) -> Attackable:
    """Returns the family of a model that plans have found attackable."""
    return cast(Attackable, model.family)


def noising(model: LoadedModel) -> DDPMScheduler:
    """Returns the schedule of noise that a model was trained with.

    Raises:
        ModelError: its scheduler is of another kind of noise than DDPM's, or predicts something else than noise,
            velocity or pictures.
    """
    scheduler: Any = model.pipeline.scheduler
    check_noising(scheduler, learned=True)
    return DDPMScheduler.from_config(scheduler.config)


def denoising_loss(
    model: LoadedModel,
    schedule: DDPMScheduler,
    latents: torch.Tensor,
    texts: PromptEmbeds,
    generator: torch.Generator,
) -> torch.Tensor:
    """Returns the mean squared error of the denoiser on noised latents (Ho et al., NeurIPS 2020, eq. 14).

    Args:
        model: the model.
        schedule: its schedule of noise.
        latents: ``(n, channels, h, w)`` of clean pictures.
        texts: ``n`` encoded prompts.
        generator: draws times, uniform among those of training, and noise; on the CPU.
    """
    config: Any = schedule.config
    count = len(latents)
    times = torch.randint(0, config.num_train_timesteps, (count,), generator=generator).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    noisy = schedule.add_noise(latents, noise, times)
    if config.prediction_type == "v_prediction":
        wanted = schedule.get_velocity(latents, noise, times)
    else:
        wanted = noise if config.prediction_type == "epsilon" else latents
    # All of these rows say the attribute; edits may hold the conditional half of guidance alone.
    model.running.conditional = torch.ones(count, dtype=torch.bool)
    try:
        found = family_of(model).predict(model.pipeline, noisy, times, texts)
    finally:
        model.running.conditional = None
    return torch.nn.functional.mse_loss(found.float(), wanted.float())


def learn(
    model: LoadedModel,
    task: AttackTask,
    settings: LearningSettings,
    rate: float,
    learned: Sequence[torch.Tensor],
    texts: Callable[[Sequence[int]], PromptEmbeds],
    before_step: Callable[[], None] = lambda: None,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Runs an optimizer (AdamW, without decay) over tensors.

    Args:
        model: the model, of which nothing but these tensors is changed.
        task: the clean pictures, and the seed.
        settings: how long.
        rate: learning rate.
        learned: tensors in float32 that are learned; ``before_step`` may give them their gradients.
        texts: encodes the prompts of clean pictures, by their numbers.
        before_step: called between the gradient and the optimizer's step.
        after_step: called behind the optimizer's step.
    """
    schedule, clean = noising(model), family_of(model).latents(model.pipeline, task.clean.pictures)
    generator = torch.Generator().manual_seed(task.seed)
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
    with torch.enable_grad(), kernels(model.engine.attention, model.dtype):
        for _ in range(settings.steps):
            numbers = torch.randint(0, len(clean), (settings.batch_size,), generator=generator).tolist()
            optimizer.zero_grad()
            torch.autograd.backward(denoising_loss(model, schedule, clean[numbers], texts(numbers), generator))
            before_step()
            torch.nn.utils.clip_grad_norm_(learned, _NORM)
            optimizer.step()
            after_step()


@contextmanager
def frozen(model: LoadedModel, but: Sequence[torch.Tensor] = ()) -> Iterator[None]:
    """Lets none of a pipeline's weights have a gradient within a block, but some."""
    parts = [part for part in model.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    weights = {id(weight): weight for part in parts for weight in part.parameters()}
    before, wanted = {key: weight.requires_grad for key, weight in weights.items()}, {id(weight) for weight in but}
    try:
        for key, weight in weights.items():
            weight.requires_grad_(key in wanted)
        yield
    finally:
        for key, weight in weights.items():
            weight.requires_grad_(before[key])
            weight.grad = None
