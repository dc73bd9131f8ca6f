"""What is asked of the passes of a denoiser that nobody knows, beside where its sites are."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from loco_core.diffusion.default.calls import leaves
from loco_core.diffusion.routing import NOISY
from loco_core.diffusion.sites import removed
from loco_core.errors import ModelError
from loco_core.types import Site

MOVED = 1e-2
"""What a position of the image differs by between two noises at least, relative: they have nothing in common."""


@contextmanager
def counted(denoiser: torch.nn.Module) -> Iterator[list[Counter[str]]]:
    """Counts how many times every module runs in every call of a denoiser, while a ``with`` block runs."""
    calls: list[Counter[str]] = []

    def begin(_: Any, __: Any) -> None:
        calls.append(Counter())

    def count(path: str, _: Any, __: Any) -> None:
        # The pipeline itself may run a part of the denoiser.
        if calls:
            calls[-1][path] += 1

    handles = [denoiser.register_forward_pre_hook(begin)]
    handles += [
        module.register_forward_pre_hook(partial(count, path)) for path, module in denoiser.named_modules() if path
    ]
    with removed(handles):
        yield calls


def check_once(calls: Sequence[Counter[str]], sites: Sequence[Site]) -> None:
    """Refuses projections that run otherwise than once in every call of the denoiser.

    K and V that are kept from an earlier step are what no later swap reaches, and of several the last alone is.

    Raises:
        ModelError: there is one.
    """
    for number, call in enumerate(calls):
        for path in (path for site in sites for path in (site.key_path, site.value_path)):
            if (times := call[path]) != 1:
                raise ModelError(
                    f"its projection {path} runs {times} times in call {number + 1} of the denoiser; expected once in "
                    "every call: K and V that are kept, or made in pieces, cannot be swapped step by step"
                )


def moved_by_noise(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Returns the argument of a denoiser that holds the noisy pictures, from two calls that differ in the seed alone.

    Empty where several differ, or none.
    """
    before, after = leaves(one), leaves(other)
    found = [
        name
        for name, value in before.items()
        if not all(map(torch.equal, _tensors(value), _tensors(after.get(name, ()))))
    ]
    return found[0] if len(found) == 1 else ""


def _tensors(value: Any) -> list[torch.Tensor]:
    parts = value if isinstance(value, list | tuple) else [value]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def can_follow(denoiser: torch.nn.Module, given: Mapping[str, Any], noisy: str, rows: int) -> bool:
    """Tells whether rows can be given other rows' noisy pictures, as the router finds them.

    Args:
        denoiser: the denoiser.
        given: arguments of a call of it.
        noisy: name of the one that holds the pictures; empty where nobody knows.
        rows: rows of the batch.
    """
    first = list(inspect.signature(type(denoiser).forward).parameters)[1:2]
    named = next((name for name in NOISY if name in given), "")
    # First, so that it is found whether it is given by name or by place.
    return bool(noisy) and noisy == named and first == [noisy] and len(given[noisy]) == rows


def check_slice(
    denoiser: torch.nn.Module,
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    sites: Sequence[Site],
    text: slice,
) -> None:
    """Refuses positions of a text that change with the noise: they are of the image.

    Asked of the first site, where that serves text and image: behind it the text has read the image.

    Args:
        denoiser: the denoiser.
        one: arguments of a call of it.
        other: the same, of another noise.
        sites: its sites in execution order.
        text: where the text is said to stand.

    Raises:
        ModelError: there is one.
    """
    if not sites or sites[0].text_only:
        return
    seen: list[torch.Tensor] = []
    path = sites[0].key_path
    handle = denoiser.get_submodule(path).register_forward_pre_hook(
        lambda _, given: seen.append(given[0].detach().double().cpu())
    )
    with removed([handle]), torch.no_grad():
        denoiser(**one)
        denoiser(**other)
    before, after = (each[:, text] for each in seen)
    distance = (before - after).norm(dim=-1) / before.norm(dim=-1).clamp_min(1e-12)
    if changed := int((distance > MOVED).any(0).sum()):
        raise ModelError(
            f"{changed} of {before.shape[1]} positions at {sites[0].name} that were taken for the text's change with "
            "the noise: it could not be found out where the text stands among the tokens"
        )
