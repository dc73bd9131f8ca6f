"""How attacked models draw: rows in order, through the pipeline, some of them from the middle of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from loco_core.attacking.base import AttackTask
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.types import Row


def drawn(
    model: LoadedModel,
    rows: Sequence[Row],
    task: AttackTask,
    encode: Callable[[list[str]], PromptEmbeds] | None = None,
) -> torch.Tensor:
    """Returns pictures ``(n, 3, height, width)`` of rows.

    Args:
        model: the model.
        rows: what is drawn.
        task: the settings of all rows.
        encode: encodes their texts; None is the family's encoder.
    """
    parts = generate(model, rows, task.generation, task.batch_size, encode=encode)
    return torch.cat([part.images for part in parts])


class _Later:
    """A scheduler whose runs begin in the middle: all of it is another's, but the first of its times are left out."""

    def __init__(self, inner: Any, strength: float) -> None:
        self._inner, self._strength, self._skipped = inner, strength, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def timesteps(self) -> torch.Tensor:
        """The times that are left."""
        left: torch.Tensor = self._inner.timesteps[self._skipped :]
        return left

    def set_timesteps(self, num_inference_steps: int, *rest: Any, **more: Any) -> None:
        """Plans a whole run, of which the share ``strength`` is left, one step at least."""
        self._inner.set_timesteps(num_inference_steps, *rest, **more)
        left = max(1, min(round(num_inference_steps * self._strength), num_inference_steps))
        self._skipped = (num_inference_steps - left) * int(getattr(self._inner, "order", 1))
        self.set_begin_index(0)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Says where in the times that are left a run begins."""
        if hasattr(self._inner, "set_begin_index"):
            self._inner.set_begin_index(self._skipped + begin_index)


@contextmanager
def started_from(pipeline: Any, latents: torch.Tensor, noise: torch.Tensor, strength: float) -> Iterator[None]:
    """Lets a pipeline's runs within a block begin with noised latents instead of noise, as image-to-image does.

    Args:
        pipeline: a pipeline of diffusers that asks its scheduler for times, and then itself for latents.
        latents: ``(rows, channels, h, w)`` of clean pictures.
        noise: the same shape.
        strength: share of the run that is left: 1 is all of it.
    """
    before = pipeline.scheduler
    later: Any = _Later(before, strength)

    def prepared(*_: Any, **__: Any) -> torch.Tensor:
        first = later.timesteps[:1].repeat(len(latents))
        found: torch.Tensor = before.add_noise(latents, noise, first)
        return found

    # Past the pipeline's own bookkeeping of its components, which this is none of.
    object.__setattr__(pipeline, "scheduler", later)
    object.__setattr__(pipeline, "prepare_latents", prepared)
    try:
        yield
    finally:
        object.__setattr__(pipeline, "scheduler", before)
        object.__delattr__(pipeline, "prepare_latents")
