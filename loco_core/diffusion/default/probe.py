"""Finds out what there is to know of a pipeline whose class has no family, by calling it with sentences.

Nothing is taken on trust: which rows of a batch are of which half of guidance, what is padding, and what else carries
the text are told by what changes where two sentences change places. What cannot be told is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy
import torch

from loco_core.diffusion.default.attentions import find_sites
from loco_core.diffusion.default.calls import (
    TEXT,
    TRUE_SCALE,
    Recorded,
    again,
    denoiser_of,
    leaves,
    record,
    scale_argument_of,
    takes,
)
from loco_core.diffusion.default.passes import can_follow, check_once, check_slice, counted, moved_by_noise
from loco_core.diffusion.default.profile import Profile
from loco_core.diffusion.facts import Half
from loco_core.diffusion.loading import reason_of
from loco_core.errors import LocoError, ModelError
from loco_core.types import Site

SENTENCES = ("a red circle", "a photo of a green square in the style of a blue star")
"""Sentences of two lengths, so that padding shows."""
STEPS = 2
SCALE = 4.0
"""Guidance scale at which a pipeline that can run guidance does, unless its default is larger."""
NEEDED = ("prompt", "num_inference_steps", "generator", "output_type")
CLOSE = {torch.float32: 1e-4}
"""What rounding may change, relative; half precision rounds more."""
PIXELS = 8
APART = 0.1
"""What half precision may change of a picture in another place of a batch; tensors in [-1, 1] differ by more."""


def probe(pipeline: Any, where: str) -> tuple[Profile, tuple[Site, ...]]:
    """Finds out what there is to know of a pipeline, and its sites.

    Args:
        pipeline: a diffusers pipeline on its device.
        where: its folder or hub id, for messages.

    Raises:
        SitesError: not all of its sites are found.
        ModelError: something could not be found out, or is nothing that a sweep can work with.
    """
    with blamed(where):
        return _probe(pipeline, where)


@contextmanager
def blamed(where: str) -> Iterator[None]:
    """Says of whatever a pipeline that nobody knows raises in a ``with`` block in a line that it cannot be served.

    Args:
        where: its name, folder or hub id.

    Raises:
        ModelError: something was raised that is no :class:`LocoError` and has not run out of memory.
    """
    try:
        yield
    except ModelError as error:
        said = str(error)
        raise error if said.startswith(where) else ModelError(f"{where}: {said}") from error
    except (torch.OutOfMemoryError, MemoryError, LocoError):
        raise
    except Exception as error:  # whatever it raises
        raise ModelError(
            f"{where}: the default family cannot serve it: {type(error).__name__}: {reason_of(error)}"
        ) from error


def _probe(pipeline: Any, where: str) -> tuple[Profile, tuple[Site, ...]]:
    part, denoiser = denoiser_of(pipeline)
    known, name = _checked_call(pipeline), scale_argument_of(pipeline)
    default = known[name].default if name else 0.0
    default = float(default) if isinstance(default, int | float) else SCALE
    scale = max(default, SCALE)
    with counted(denoiser) as ran:
        first = record(pipeline, SENTENCES, scale=scale, steps=STEPS, output_type="pt")
    second = record(pipeline, SENTENCES[::-1], scale=scale, steps=STEPS, output_type="np", seeds=(1, 0))
    side = _side(first, second)
    passes = _passes(first, second, denoiser)
    at = passes[0].index("conditional")
    alone = record(pipeline, SENTENCES[:1], scale=scale, steps=STEPS, first_only=True)
    _check_company(alone.first, first.first, at)
    # Noise of both is the same, row by row.
    other = record(pipeline, SENTENCES[::-1], scale=scale, steps=STEPS, first_only=True)
    mask, pooled = _beside(first.first, other.first, at)
    tokens = alone.first[TEXT].shape[1]
    sites, more, text_last = find_sites(denoiser, lambda count: again(denoiser, alone.first, count), tokens, where)
    check_once(ran, sites)
    anew = record(pipeline, SENTENCES[:1], scale=scale, steps=STEPS, first_only=True, seeds=(1,))
    text = slice(-(tokens + more), None) if text_last else slice(0, tokens + more)
    check_slice(denoiser, alone.first, anew.first, sites, text)
    rows, noisy = len(alone.first[TEXT]), moved_by_noise(alone.first, anew.first)
    profile = Profile(
        pipeline=type(pipeline).__name__,
        part=part,
        site_names=tuple(site.name for site in sites),
        tokens=tokens + more,
        passes=passes,
        text_last=text_last,
        mask=mask,
        mask_argument=_mask_argument(denoiser, alone.first, sites, mask),
        pooled=pooled,
        scale_argument=name,
        unguided_scale=_unguided_scale(pipeline, passes, name),
        steps=_number(known["num_inference_steps"].default, 50),
        guidance_scale=default,
        native_side=side,
        side_multiple=max(PIXELS, 2 * int(getattr(pipeline, "vae_scale_factor", PIXELS) or PIXELS)),
        scheduler=type(pipeline.scheduler).__name__,
        follows=can_follow(denoiser, alone.first, noisy, rows),
        sides={"height", "width"} <= set(known),
    )
    return profile, sites


def _number(said: Any, otherwise: int) -> int:
    """Returns a default of a call, where it is a number of something."""
    return said if type(said) is int and said > 0 else otherwise


def _checked_call(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """Refuses a call that a sweep cannot make."""
    kind, known = type(pipeline).__name__, takes(pipeline)
    if "prompt" not in known:
        raise ModelError(f"the call of a {kind} takes no prompt: no text reaches its pictures")
    lacking = [name for name in NEEDED if name not in known]
    if not {"callback_on_step_end", "callback"} & set(known):
        lacking.append("callback_on_step_end")
    elif "callback_on_step_end" not in known and "callback_steps" not in known:
        lacking.append("callback_steps")
    if not hasattr(denoiser_of(pipeline)[1], "config"):
        raise ModelError(f"the denoiser of a {kind} has no config, which says whether it is distilled")
    if lacking:
        raise ModelError(f"the call of a {kind} takes no {', '.join(lacking)}, which a sweep calls it with")
    if getattr(pipeline, "scheduler", None) is None:
        raise ModelError(f"a {kind} has no scheduler, which says how many steps there are")
    return known


def _side(first: Recorded, second: Recorded) -> int:
    """Returns the larger side of pictures; refuses tensors that are none in [0, 1]."""
    tensors, arrays = first.images, second.images
    if not isinstance(tensors, torch.Tensor) or tensors.ndim != 4 or tensors.shape[1] != 3:
        raise ModelError("its call gives no tensors of (pictures, 3, height, width) as output_type pt")
    # Its own conversion to arrays is in [0, 1]: others are in [-1, 1].
    if getattr(arrays, "shape", None) != (len(tensors), *tensors.shape[2:], 3):
        raise ModelError("its call gives no array of (pictures, height, width, 3) as output_type np")
    same = torch.as_tensor(arrays[::-1].copy()).permute(0, 3, 1, 2).float()
    if difference(tensors.float().cpu(), same) > APART:
        raise ModelError(
            "its tensors are not the pictures that it gives as arrays, or the place in a batch changes a picture"
        )
    return int(max(tensors.shape[-2:]))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Returns the distance of two tensors relative to the second; 0 of zeros."""
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tells whether two tensors differ by no more than rounding."""
    return a.shape == b.shape and difference(a, b) <= CLOSE.get(a.dtype, 2e-2)


def text_of(given: Mapping[str, Any], denoiser: torch.nn.Module) -> torch.Tensor:
    """Returns ``(rows, tokens, width)`` what a denoiser is given as text.

    Raises:
        ModelError: it is given none.
    """
    text = given.get(TEXT)
    if not isinstance(text, torch.Tensor) or text.ndim != 3:
        raise ModelError(
            f"its {type(denoiser).__name__} is given no {TEXT} of (rows, tokens, width), so that it could not be found "
            "out where its text enters"
        )
    return text


def _passes(first: Recorded, second: Recorded, denoiser: torch.nn.Module) -> tuple[tuple[Half, ...], ...]:
    """Tells how guidance runs: which rows of which call change where two sentences change places."""
    each, rest = divmod(len(first.calls), max(first.steps, 1))
    found = [
        _halves(text_of(one, denoiser), text_of(other, denoiser))
        for one, other in zip(first.calls, second.calls, strict=False)
    ]
    passes = tuple(found[:each])
    halves = [half for called in passes for half in called or ()]
    regular = not rest and len(first.calls) == len(second.calls) and found == list(passes) * first.steps
    if not regular or sorted(halves) not in (["conditional"], ["conditional", "unconditional"]):
        rows = sorted({text_of(call, denoiser).shape[0] for call in first.calls})
        raise ModelError(
            f"it could not be found out how guidance runs: {len(first.calls)} calls of the denoiser in {first.steps} "
            f"steps, of {rows} rows for two sentences; expected both halves in one batch, in two calls, or none"
        )
    if "conditional" not in (passes[0] or ()):
        raise ModelError("its guidance runs the unconditional half first, in a call of its own; expected the prompt's")
    return tuple(called for called in passes if called)


def _halves(one: torch.Tensor, other: torch.Tensor) -> tuple[Half, ...] | None:
    """Tells the halves of guidance in a batch of two sentences; None where its rows are none."""
    if one.shape != other.shape or len(one) not in (2, 4):
        return None
    found: list[Half] = []
    for at in range(0, len(one), 2):
        a, b, c, d = one[at], one[at + 1], other[at], other[at + 1]
        if same(a, d) and same(b, c) and not same(a, c):
            found.append("conditional")
        elif same(a, c) and same(b, d):
            found.append("unconditional")
        else:
            return None
    return tuple(found)


def _check_company(alone: Mapping[str, Any], beside: Mapping[str, Any], at: int) -> None:
    """Refuses texts that are read otherwise beside a longer one."""
    own, other = alone[TEXT], beside[TEXT]
    if own.shape[1] != other.shape[1] or not same(own[at], other[2 * at]):
        raise ModelError(
            f"a sentence is read as {own.shape[1]} tokens alone and as {other.shape[1]} beside a longer one, so that a "
            "picture depends on the others of its batch"
            if own.shape[1] != other.shape[1]
            else "a sentence is read otherwise beside a longer one, so that a picture depends on the others"
        )


def _beside(one: Mapping[str, Any], other: Mapping[str, Any], at: int) -> tuple[str, tuple[str, ...]]:
    """Returns the argument that masks padding, and those that hold a text beside the sites.

    Raises:
        ModelError: a text reaches the denoiser by something that is neither.
    """
    text, masks, pooled = one[TEXT], [], []
    before, after = leaves(one), leaves(other)
    for name, value in before.items():
        if name == TEXT or _equal(value, after.get(name)):
            continue
        rows = isinstance(value, torch.Tensor) and value.shape[:1] == text.shape[:1] and value.ndim == 2
        if rows and value.shape == text.shape[:2] and (not value.is_floating_point() or "mask" in name):
            masks.append(name)
        elif rows and value.is_floating_point() and _swapped(value, after[name], at):
            pooled.append(name)
        else:
            raise ModelError(f"a text reaches its denoiser by {name}, too, and it could not be found out how")
    if len(masks) > 1:
        raise ModelError(f"its denoiser is given several masks: {', '.join(masks)}; expected one")
    return "".join(masks), tuple(pooled)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and same(a, b)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_equal, a, b))
    # Of arrays it is an array, and of nothing else that a pipeline may hand over anything is known.
    return bool(numpy.array_equal(a, b)) if isinstance(a, numpy.ndarray) else bool(a == b)


def _swapped(a: torch.Tensor, b: torch.Tensor, at: int) -> bool:
    here = slice(2 * at, 2 * at + 2)
    return a.shape == b.shape and same(a[here], b[here].flip(0))


def _mask_argument(denoiser: torch.nn.Module, given: Mapping[str, Any], sites: tuple[Site, ...], mask: str) -> str:
    """Returns the argument that attentions at the sites take their mask of padding by.

    Raises:
        ModelError: there is a mask that does not reach them all, or in a form that nobody knows.
    """
    names: list[set[str]] = []
    tokens = given[TEXT].shape[1]

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found = {name for name, value in kwargs.items() if "mask" in name and isinstance(value, torch.Tensor)}
        names.append({name if kwargs[name].shape[-1] == tokens else "" for name in found})

    paths = [site.attention_path for site in sites]
    handles = [denoiser.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True) for path in paths]
    try:
        with torch.no_grad():
            denoiser(**given)
    finally:
        for handle in handles:
            handle.remove()
    told = set.union(*names)
    if not mask and not told:
        return ""
    if mask and len(told) == 1 and all(each == told for each in names) and (name := next(iter(told))):
        return name
    raise ModelError(
        "it could not be found out how padding is masked: "
        + (f"the denoiser is given {mask}, " if mask else "no mask differs between sentences, ")
        + f"attentions at its sites {', '.join(sorted(told - {''})) or 'nothing of the length of a text'}"
    )


def _unguided_scale(pipeline: Any, passes: tuple[tuple[Half, ...], ...], name: str) -> float:
    """Returns the largest guidance scale at which a pipeline runs no guidance.

    Raises:
        ModelError: it takes no scale, or it could not be found out.
    """
    if not any("unconditional" in halves for halves in passes):
        return 1.0
    if not name:
        raise ModelError("its call takes neither guidance_scale nor true_cfg_scale, and it runs guidance")

    def guided(scale: float) -> bool:
        found = record(pipeline, SENTENCES[:1], scale=scale, steps=STEPS)
        rows = sum(call[TEXT].shape[0] for call in found.calls)
        return bool(rows == 2 * max(found.steps, 1))

    if name == TRUE_SCALE or (not guided(1.0) and guided(1.001)):
        return 1.0
    if guided(1.0) and not guided(0.0) and guided(0.001):
        return 0.0
    raise ModelError(f"it could not be found out at which {name} it runs no guidance; it is neither 0 nor 1")
