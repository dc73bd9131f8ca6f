from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch

from loco_core.diffusion import batches
from loco_core.diffusion.batches import choose, probe_batches, whole
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.errors import OutOfMemoryError
from loco_core.types import Generation


@pytest.mark.parametrize(
    ("costs", "smallest", "expected", "tried"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.4, 8: 0.39, 16: 0.39, 32: 0.1}, 1, 4, [1, 2, 4, 8, 16]),
        ({1: 1.0, 2: 1.3, 4: 0.4, 8: 0.39}, 1, 4, [1, 2, 4, 8]),
        ({1: 1.0, 2: 0.6, 4: 0.4}, 1, 4, [1, 2, 4]),
        ({1: 1.0, 2: 1.2}, 1, 1, [1, 2]),
        ({2: 1.0, 4: 0.5}, 2, 4, [2, 4]),
        ({size: 1 / size for size in (1, 2, 4, 8, 16, 32, 64, 128)}, 1, 64, [1, 2, 4, 8, 16, 32, 64]),
    ],
    ids=["no longer cheaper", "a busy moment", "no longer fits", "dearer at once", "sources beside rows", "the limit"],
)
def test_batches_grow_while_an_image_gets_cheaper(
    costs: dict[int, float], smallest: int, expected: int, tried: list[int]
) -> None:
    best, seconds = choose(costs.get, smallest)
    assert (best, list(seconds)) == (expected, tried)


def test_a_model_of_which_no_batch_fits() -> None:
    with pytest.raises(OutOfMemoryError, match=r"not even a batch of 2 fits; expected engine.offload"):
        choose({}.get, 2)


@pytest.mark.parametrize(
    ("stream", "size", "tried"), [("static", 1, [1, 2, 4]), ("evolving", 16, [2, 4, 8, 16, 32, 64])]
)
def test_a_donor_that_is_drawn_beside_is_no_image(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch, stream: Literal["static", "evolving"], size: int,
    tried: list[int],
) -> None:  # fmt: skip
    """A GPU that is busy with two rows gains nothing by four, but for the share of rows that are images."""
    taken: list[int] = []

    def timed(model: LoadedModel, rows: list, settings: Generation, size: int) -> list[None]:
        taken.append(size)
        return []

    def seconds(run: Callable[[], object]) -> float:
        run()
        return 0.3 * taken[-1]

    monkeypatch.setattr(batches, "generate", timed)
    monkeypatch.setattr(batches, "_timed", seconds)
    model = replace(tiny_model, facts=replace(tiny_model.facts, stream=stream))
    found = probe_batches(model, "a red circle", "a blue star", Generation())
    assert (found.batch_size, list(found.seconds)) == (size, tried)


def test_a_probe_draws_whole_batches_and_takes_what_fits(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, int, int]] = []

    def drawing(model: LoadedModel, rows: list, settings: Generation, size: int) -> object:
        drawn.append((len(rows), size, settings.steps))
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(model, rows, settings, size)

    monkeypatch.setattr(batches, "generate", drawing)
    monkeypatch.setattr(batches, "GAIN", 1e9)
    found = probe_batches(tiny_model, "a red circle", "a blue star", Generation(steps=50, guidance_scale=3.0))
    assert (found.batch_size, list(found.seconds)) == (4, [1, 2, 4])
    assert drawn == [*((size, size, 4) for size in (1, 1, 2, 2, 4, 4, 8)), (4, 4, 8), (4, 4, 8)]


@pytest.mark.parametrize(
    ("steps", "few", "twice", "expected"),
    [
        (50, 1.4, 2.4, 1.4 + 46 * 0.25),
        # What is done once counts once.
        (50, 1.0, 1.2, 1.0 + 46 * 0.125),
        (2, 0.7, 0.7, 0.7),
    ],
    ids=["steps", "a busy moment", "fewer steps than are tried"],
)
def test_seconds_of_all_steps_follow_from_those_of_a_few(steps: int, few: float, twice: float, expected: float) -> None:
    assert whole(steps, few, twice) == pytest.approx(expected)
