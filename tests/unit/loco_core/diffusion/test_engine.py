"""The engine against the paper's plain loop, one image at a time with hooks on K and V."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.diffusion.routing import Router
from loco_core.errors import ModelError
from loco_core.testing.plain_loop import plain_loop
from loco_core.types import Generation, Intervention, Row

PROMPTS = (
    ("a red circle in the style of lumio", "a red circle"),
    ("a photo of the flag of zandia", "a photo of a flag"),
    ("an image of a blue star", "an image of a blue shape"),
)
SETTINGS = Generation(steps=4, guidance_scale=3.0)
CELLS = 64
TOLERANCE = 1e-4


def random_rows(n: int, sites: int) -> list[Row]:
    """Draws cells over all options: sites, part, steps, tokens, half, seeds; clean, donor and identity among them."""
    rng = random.Random(7)
    rows = []
    for _ in range(n):
        prompt, donor = rng.choice(PROMPTS)
        if rng.random() < 0.1:
            donor = prompt
        start = rng.randrange(0, 3)
        does = Intervention(
            sites=tuple(sorted(rng.sample(range(sites), rng.choice([0, 1, 2, 4, sites])))),
            part=rng.choice(["kv", "k", "v"]),
            step_start=start,
            step_end=rng.choice([None, start + 1, 4]),
            tokens=rng.choice(["all", "words", "padding"]),
            guidance_half=rng.choice(["conditional", "unconditional", "both"]),
        )
        rows.append(Row(prompt, donor, rng.randrange(1000), does))
    return rows


def errors(model: LoadedModel, rows: list[Row], expected: list[torch.Tensor]) -> list[float]:
    latents = torch.cat([p.latents for p in generate(model, rows, SETTINGS, batch_size=16)])
    return [float((a - b).norm() / b.norm()) for a, b in zip(latents, expected, strict=True)]


@pytest.fixture(scope="module")
def cells(tiny_model: LoadedModel) -> tuple[list[Row], list[torch.Tensor]]:
    rows = random_rows(CELLS, len(tiny_model.sites))
    return rows, [plain_loop(tiny_model, row, SETTINGS) for row in rows]


def test_engine_equals_the_plain_loop(tiny_model: LoadedModel, cells: tuple[list[Row], list[torch.Tensor]]) -> None:
    found = errors(tiny_model, *cells)
    assert max(found) < TOLERANCE
    touched = sum(bool(row.intervention.sites) and row.prompt != row.donor for row in cells[0])
    assert touched > CELLS / 2


@contextmanager
def mutant(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Any, int, int], tuple[int, int]]) -> Iterator[None]:
    """Breaks the router: `change` gets the plan, part and site, and returns the part and site it should have been."""
    original = Router._active

    def broken(self: Router, plan: Any, part: int, site: int) -> Any:
        return original(self, plan, *change(self, plan, part, site))

    monkeypatch.setattr(Router, "_active", broken)
    yield
    monkeypatch.undo()


def wrong_half(router: Any, plan: Any, part: int, site: int) -> tuple[int, int]:
    if not hasattr(plan, "_turned"):
        plan.swap.copy_(plan.swap.roll(plan.swap.shape[2] // 2, 2))
        object.__setattr__(plan, "_turned", True)
    return part, site


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _, __, part, site: (part, (site + 1) % 16), id="window off by one"),
        pytest.param(lambda _, __, part, site: (1 - part, site), id="K and V exchanged"),
        pytest.param(wrong_half, id="wrong half of guidance"),
    ],
)
def test_a_broken_engine_is_told_apart_tenfold(
    tiny_model: LoadedModel,
    cells: tuple[list[Row], list[torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Any, Any, int, int], tuple[int, int]],
) -> None:
    with mutant(monkeypatch, change):
        found = errors(tiny_model, *cells)
    assert max(found) > 10 * TOLERANCE


def test_identity_swap_equals_an_unhooked_pipeline(tiny_model: LoadedModel) -> None:
    prompt = PROMPTS[0][0]
    every = tuple(range(len(tiny_model.sites)))
    rows = [Row(prompt, prompt, seed, Intervention(every)) for seed in range(3)]
    swapped = torch.cat([p.latents for p in generate(tiny_model, rows, SETTINGS, 3)])
    for seed in range(3):
        free = tiny_model.pipeline(
            prompt, num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).images[0]  # fmt: skip
        assert float((swapped[seed] - free).norm() / free.norm()) < TOLERANCE


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "HeunDiscreteScheduler", "DDIMScheduler"])
def test_all_sites_at_all_steps_is_the_donor_prompt_whatever_the_scheduler(
    tiny_model: LoadedModel, scheduler: str
) -> None:
    """Some run the denoiser more often than there are steps; a swap that ends early would leave the last call out."""
    prompt, donor = PROMPTS[0]
    every = Intervention(tuple(range(len(tiny_model.sites))))
    settings = replace(SETTINGS, scheduler=scheduler)
    before = tiny_model.pipeline.scheduler
    try:
        rows = [Row(prompt, donor, 5, every), Row(prompt, donor, 5, replace(every, step_end=4)), Row(donor, donor, 5)]
        swapped, to_the_last, of_donor = next(generate(tiny_model, rows, settings, 3)).latents
        assert torch.allclose(swapped, of_donor, rtol=1e-4, atol=1e-4)
        # Not bit for bit: kernels treat the last rows of a batch of three apart on some processors.
        assert torch.allclose(swapped, to_the_last, rtol=1e-4, atol=1e-4)
        part = [Row(prompt, donor, 5, replace(every, step_start=1))]
        if scheduler == "DDIMScheduler":
            assert not torch.allclose(next(generate(tiny_model, part, settings, 1)).latents[0], of_donor, atol=1e-3)
        else:
            with pytest.raises(
                ModelError, match=f"{scheduler} runs the denoiser [0-9]+ times for 4 steps.*DDIMScheduler"
            ):
                next(generate(tiny_model, part, settings, 1))
    finally:
        tiny_model.pipeline.scheduler = before


def test_generation_leaves_the_pipeline_as_it_was(tiny_model: LoadedModel) -> None:
    row = Row(*PROMPTS[0], 0, Intervention((3,)))
    list(generate(tiny_model, [row], SETTINGS, 1))
    assert not [m for m in tiny_model.pipeline.unet.modules() if "forward" in vars(m)]


def test_rows_do_not_depend_on_their_company(tiny_model: LoadedModel) -> None:
    rows = random_rows(8, len(tiny_model.sites))
    together = torch.cat([p.images for p in generate(tiny_model, rows, SETTINGS, 8)])
    alone = torch.cat([p.images for row in rows for p in generate(tiny_model, [row], SETTINGS, 8)])
    assert torch.equal(together, alone)
