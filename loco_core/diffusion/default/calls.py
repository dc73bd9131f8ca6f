"""Calls of a pipeline that nobody knows, and what its denoiser is given meanwhile."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from loco_core.diffusion.loading import reason_of
from loco_core.errors import LocoError, ModelError

DENOISERS = ("transformer", "unet")
TEXT = "encoder_hidden_states"
TRUE_SCALE = "true_cfg_scale"
"""Pipelines that take the guidance scale by this name guide only where they are given a negative prompt."""
SCALES = (TRUE_SCALE, "guidance_scale")
CALL: Mapping[str, Any] = MappingProxyType({"clean_caption": False, "use_resolution_binning": False})
"""Captions are cleaned with packages that this project does without, and sides are taken as they are."""


def denoiser_of(pipeline: Any) -> tuple[str, torch.nn.Module]:
    """Returns the component of a pipeline that draws, and its name.

    Raises:
        ModelError: there is none.
    """
    for name in DENOISERS:
        if isinstance(part := getattr(pipeline, name, None), torch.nn.Module):
            return name, part
    raise ModelError(
        f"a {type(pipeline).__name__} has neither a transformer nor a unet; expected a pipeline whose denoiser is one"
    )


@contextmanager
def noted(denoiser: torch.nn.Module, note: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Hands out the arguments of every call of a denoiser, by name, while a ``with`` block runs."""

    def hook(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        note(named(module, args, kwargs))

    handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def named(denoiser: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a call of a denoiser by name."""
    # Its own forward may be replaced by what offloads weights.
    signature = inspect.signature(type(denoiser).forward)
    found: dict[str, Any] = {}
    for name, value in list(signature.bind_partial(denoiser, *args, **kwargs).arguments.items())[1:]:
        more = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        found |= value if more else {name: value}
    return found


class _EnoughError(Exception):
    """The denoiser was called: nothing more is to be drawn."""


@dataclass(frozen=True)
class Recorded:
    """A call of a pipeline.

    Attributes:
        calls: arguments of every call of its denoiser, by name.
        steps: entries of the scheduler's schedule.
        images: what the call returned; None where it was ended at the first call of the denoiser.
    """

    calls: tuple[dict[str, Any], ...]
    steps: int
    images: Any = None

    @property
    def first(self) -> dict[str, Any]:
        """Arguments of the first call of the denoiser."""
        return self.calls[0]


def takes(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """Returns the parameters of a pipeline's call."""
    return inspect.signature(pipeline.__call__).parameters


def scale_argument_of(pipeline: Any) -> str:
    """Returns the parameter that a guidance scale is given by; empty where there is none.

    Where there are two, one is a number that a distilled denoiser reads, and the other one runs guidance as well: that
    is meant only where the pipeline runs it by default.
    """
    known = {name: each.default for name, each in takes(pipeline).items() if name in SCALES}
    true = known.get(TRUE_SCALE)
    if len(known) == 2 and isinstance(true, int | float) and true <= 1:
        return next(name for name in SCALES if name != TRUE_SCALE)
    return next((name for name in SCALES if name in known), "")


def record(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    scale: float,
    steps: int,
    first_only: bool = False,
    output_type: str = "latent",
    seeds: Sequence[int] = (),
) -> Recorded:
    """Calls a pipeline with sentences, and records what its denoiser is given.

    Args:
        pipeline: the pipeline.
        prompts: one sentence a picture.
        scale: guidance scale.
        steps: denoising steps.
        first_only: whether the call is ended where the denoiser is called first: then only texts are encoded.
        output_type: form in which the call gives its pictures.
        seeds: of each picture's noise; none counts them from 0.

    Raises:
        ModelError: the call fails, or never runs its denoiser.
    """
    kind, (_, denoiser) = type(pipeline).__name__, denoiser_of(pipeline)
    calls: list[dict[str, Any]] = []

    def note(given: dict[str, Any]) -> None:
        # Pipelines write into what they hand over.
        calls.append({name: kept(value) for name, value in given.items()})
        if first_only:
            raise _EnoughError

    known, name = takes(pipeline), scale_argument_of(pipeline)
    arguments: dict[str, Any] = {key: value for key, value in CALL.items() if key in known}
    if name:
        arguments[name] = scale
    if name == TRUE_SCALE and scale > 1:
        arguments["negative_prompt"] = [" "] * len(prompts)
    images: Any = None
    try:
        with noted(denoiser, note), torch.no_grad():
            images = pipeline(
                prompt=list(prompts),
                num_inference_steps=steps,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds or range(len(prompts))],
                output_type=output_type,
                **arguments,
            )[0]
    except _EnoughError:
        pass
    except (torch.OutOfMemoryError, LocoError):
        raise
    except Exception as error:  # whatever a pipeline that nobody knows raises
        raise ModelError(f"the call of a {kind} with sentences fails: {reason_of(error)}") from error
    if not calls:
        raise ModelError(f"the call of a {kind} never runs its {type(denoiser).__name__}")
    schedule = getattr(getattr(pipeline, "scheduler", None), "timesteps", ())
    return Recorded(tuple(calls), len(schedule), images)


def kept(value: Any) -> Any:
    """Returns a copy of an argument, tensors inside of dicts, lists and tuples included."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: kept(each) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(kept(each) for each in value)
    return value


def leaves(given: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Returns what is not a dict in arguments, by its path: ``added_cond_kwargs.text_embeds``."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        found |= leaves(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found


def mapped(given: Mapping[str, Any], change: Callable[[str, Any], Any], before: str = "") -> dict[str, Any]:
    """Returns arguments with every leaf changed; see :func:`leaves`."""
    return {
        name: mapped(value, change, f"{before}{name}.") if isinstance(value, dict) else change(f"{before}{name}", value)
        for name, value in given.items()
    }


_OF_TEXT = ("txt", "text", "encoder", "prompt", "mask")


def again(denoiser: torch.nn.Module, given: Mapping[str, Any], tokens: int) -> int:
    """Runs a denoiser as it was called, with a text of zeros of another length.

    What is as long as the text and named after it, such as masks and positions, is made as long.

    Args:
        denoiser: the denoiser.
        given: arguments of a call of it.
        tokens: how many the text is to have.

    Returns:
        ``tokens``.
    """
    length = given[TEXT].shape[1]

    def cut(name: str, value: Any) -> Any:
        if name == TEXT:
            return value.new_zeros(value.shape[0], tokens, value.shape[2])
        if not isinstance(value, torch.Tensor) or not any(sign in name.rpartition(".")[2] for sign in _OF_TEXT):
            return value
        axis = next((axis for axis in range(min(value.ndim, 2)) if value.shape[axis] == length), None)
        # Rows that are as many as tokens would be taken for them, and so would be the width of a pooled text.
        rows, pooled = axis == 0 and length == given[TEXT].shape[0], value.ndim == 2 and axis == 1
        if axis is None or rows or (pooled and "mask" not in name):
            return value
        if "mask" in name:
            return value.new_ones(*value.shape[:axis], tokens, *value.shape[axis + 1 :])
        return value.index_select(axis, torch.arange(tokens, device=value.device) % length)

    denoiser(**mapped(given, cut))
    return tokens
