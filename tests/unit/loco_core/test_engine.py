"""The engine against the paper's plain loop, one image at a time with hooks on K and V."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from loco_core.generate import generate
from loco_core.models import LoadedModel
from loco_core.routing import Router
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


def plain_loop(model: LoadedModel, row: Row) -> torch.Tensor:
    """Follows the paper: one image, forward hooks on K and V that overwrite rows of their output."""
    pipe, does = model.pipeline, row.intervention
    prompt, donor, empty = (encode(pipe, text) for text in (row.prompt, row.donor, ""))
    words = {text: len(pipe.tokenizer(text).input_ids) - 1 for text in (row.prompt, row.donor, "")}
    step = {"now": 0}
    last = does.step_end if does.step_end is not None else SETTINGS.steps
    position = torch.arange(prompt.shape[1])

    def hook(weight: torch.Tensor) -> Callable[..., torch.Tensor]:
        def overwrite(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            if does.step_start <= step["now"] < last:
                for half, text in ((0, ""), (1, row.prompt)):
                    name = ("unconditional", "conditional")[half]
                    if does.guidance_half not in (name, "both"):
                        continue
                    is_word = position < max(words[text], words[row.donor])
                    taken = {"all": position >= 0, "words": is_word, "padding": ~is_word}[does.tokens]
                    output[half, taken] = (donor[0] @ weight.T)[taken]
            return output

        return overwrite

    handles = []
    for site in does.sites:
        for letter, path in (("k", model.sites[site].key_path), ("v", model.sites[site].value_path)):
            if letter in does.part:
                projection = pipe.unet.get_submodule(path)
                handles.append(projection.register_forward_hook(hook(projection.weight.detach())))

    def count(_: Any, i: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        step["now"] = i + 1
        return tensors

    try:
        latents: torch.Tensor = pipe(
            prompt_embeds=prompt, negative_prompt_embeds=empty, num_inference_steps=SETTINGS.steps,
            guidance_scale=SETTINGS.guidance_scale, generator=torch.Generator().manual_seed(row.seed),
            output_type="latent", callback_on_step_end=count,
        ).images  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()
    return latents[0]


@torch.no_grad()
def encode(pipe: Any, text: str) -> torch.Tensor:
    ids = pipe.tokenizer(text, padding="max_length", max_length=16, return_tensors="pt").input_ids
    hidden: torch.Tensor = pipe.text_encoder(ids).last_hidden_state
    return hidden


def errors(model: LoadedModel, rows: list[Row], expected: list[torch.Tensor]) -> list[float]:
    latents = torch.cat([p.latents for p in generate(model, rows, SETTINGS, batch_size=16)])
    return [float((a - b).norm() / b.norm()) for a, b in zip(latents, expected, strict=True)]


@pytest.fixture(scope="module")
def cells(tiny_model: LoadedModel) -> tuple[list[Row], list[torch.Tensor]]:
    rows = random_rows(CELLS, len(tiny_model.sites))
    return rows, [plain_loop(tiny_model, row) for row in rows]


def test_engine_equals_the_plain_loop(tiny_model: LoadedModel, cells: tuple[list[Row], list[torch.Tensor]]) -> None:
    found = errors(tiny_model, *cells)
    assert max(found) < TOLERANCE
    touched = sum(bool(row.intervention.sites) and row.prompt != row.donor for row in cells[0])
    assert touched > CELLS / 2


@contextmanager
def mutant(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Any, int, int], tuple[int, int]]) -> Iterator[None]:
    """Breaks the router: `change` gets the plan, part and site, and returns the part and site it should have been."""
    original = Router._look_up

    def broken(self: Router, table: torch.Tensor, plan: Any, part: int, site: int) -> Any:
        return original(self, table, plan, *change(self, plan, part, site))

    monkeypatch.setattr(Router, "_look_up", broken)
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


def test_generation_leaves_the_pipeline_as_it_was(tiny_model: LoadedModel) -> None:
    row = Row(*PROMPTS[0], 0, Intervention((3,)))
    list(generate(tiny_model, [row], SETTINGS, 1))
    assert not [m for m in tiny_model.pipeline.unet.modules() if "forward" in vars(m)]


def test_rows_do_not_depend_on_their_company(tiny_model: LoadedModel) -> None:
    rows = random_rows(8, len(tiny_model.sites))
    together = torch.cat([p.images for p in generate(tiny_model, rows, SETTINGS, 8)])
    alone = torch.cat([p.images for row in rows for p in generate(tiny_model, [row], SETTINGS, 8)])
    assert torch.equal(together, alone)
