"""How many rows a forward pass should carry, measured: what fits, and what makes an image cheaper."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.errors import OutOfMemoryError
from loco_core.types import Generation, Intervention, Row

LARGEST = 64
STEPS = 4
GAIN = 0.95
"""A batch twice as large is worth it where an image costs less than this share of what it cost before."""
FULL = 0.9
"""Share of a GPU's memory that a batch may take: scorers and edits want some too."""


@dataclass(frozen=True)
class BatchProbe:
    """What a probe found.

    Attributes:
        batch_size: rows per forward pass.
        seconds: seconds that an image of a few steps took, by batch size; a donor drawn beside it counts as no image.
        image_seconds: seconds that an image of all steps takes, in batches of that size.
        gigabytes: memory of the GPU that tensors took at most, by batch size; empty on a CPU.
    """

    batch_size: int
    seconds: Mapping[int, float]
    image_seconds: float
    gigabytes: Mapping[int, float]


def probe_batches(
    model: LoadedModel, prompt: str, donor: str, settings: Generation, largest: int = LARGEST
) -> BatchProbe:
    """Draws batches of 1, 2, 4, ... rows, each with a swapped site, until they do not fit or make nothing cheaper.

    Args:
        model: a loaded model.
        prompt: text that the rows read.
        donor: text that their swapped sites read.
        settings: settings of the generation; a few of its steps are drawn.
        largest: rows of the largest batch that is tried.

    Raises:
        OutOfMemoryError: not even the smallest batch fits.
    """
    beside = model.facts.stream == "evolving"
    peaks: dict[int, float] = {}

    # A peak of the model that this process held before would pass for one of this model.
    _forget_peak()

    def seconds_of(size: int, steps: int) -> float:
        sites = len(model.sites)
        rows = [Row(prompt, donor, 0, Intervention((at % sites,))) for at in range(size - beside)]
        short = replace(settings, steps=min(steps, settings.steps))
        # The first run of a shape chooses kernels, or compiles.
        return min(_timed(lambda: list(generate(model, rows, short, size))) for _ in range(2)) / len(rows)

    def cost(size: int) -> float | None:
        try:
            seconds = seconds_of(size, STEPS)
        except torch.OutOfMemoryError:
            _forget_peak()
            return None
        if torch.cuda.is_available():
            peaks[size] = torch.cuda.max_memory_allocated() / 1e9
        return None if _full() else seconds

    best, seconds = choose(cost, 2 if beside else 1, largest)
    more = seconds_of(best, 2 * STEPS)
    return BatchProbe(best, seconds, whole(settings.steps, seconds[best], more), peaks)


def whole(steps: int, few: float, twice: float) -> float:
    """Returns the seconds of an image of all steps: what is done once, and what is done at every step.

    Args:
        steps: denoising steps of the picture.
        few: seconds of one of `STEPS` steps.
        twice: seconds of one of twice as many.
    """
    # A busy moment of the machine must not make steps cost nothing, or less.
    step = max((twice - few) / STEPS, few / STEPS / 2)
    return few + max(0, steps - STEPS) * step


def choose(cost: Callable[[int], float | None], smallest: int, largest: int = LARGEST) -> tuple[int, dict[int, float]]:
    """Returns the batch size behind which doubling gains nothing, and what was measured by size.

    Args:
        cost: seconds an image takes in batches of a size; None where they do not fit.
        smallest: size to begin with.
        largest: size to end with.

    Raises:
        OutOfMemoryError: not even the smallest fits.
    """
    seconds: dict[int, float] = {}
    best = size = smallest
    misses = 0
    # One doubling without a gain may be a busy moment of the machine; two in a row are not.
    while size <= largest and misses < 2 and (found := cost(size)) is not None:
        seconds[size] = found
        if size == smallest or found <= GAIN * seconds[best]:
            best, misses = size, 0
        else:
            misses += 1
        size *= 2
    if not seconds:
        raise OutOfMemoryError(f"not even a batch of {smallest} fits; expected engine.offload, or a larger device")
    return best, seconds


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _full() -> bool:
    if not torch.cuda.is_available():
        return False
    _, total = torch.cuda.mem_get_info()
    used = torch.cuda.max_memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    return used > FULL * total
