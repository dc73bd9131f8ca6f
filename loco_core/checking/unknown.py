"""A pipeline that no family knows: what can be told of it by calling it once, for whoever writes a family for it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from loco_core.diffusion.default.calls import CALL, TEXT, again, denoiser_of, noted
from loco_core.diffusion.loading import load_pipeline, reason_of
from loco_core.diffusion.site_check import spans
from loco_core.diffusion.sites import record_sites
from loco_core.errors import ModelError

STEPS = 2
PROMPT = "a photo of a red circle"


@dataclass(frozen=True)
class Look:
    """What was found.

    Attributes:
        pipeline: its class in diffusers.
        denoiser: component that draws, with its class.
        sites: addresses of the sites that the rule finds, in execution order.
        blocks: for every list of blocks of the denoiser: its name, blocks with a site, and all of its blocks.
        guidance: how guidance runs, in words.
        also: arguments of the denoiser by which a text may reach the picture beside the sites.
        encodes: parameters of its ``encode_prompt``; empty where it has none.
        open: what could not be told, a sentence each.
    """

    pipeline: str
    denoiser: str
    sites: tuple[str, ...]
    blocks: tuple[tuple[str, int, int], ...]
    guidance: str
    also: tuple[str, ...]
    encodes: tuple[str, ...]
    open: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """All of it, a line each."""
        counted = ", ".join(f"{having} of {all_} {name}" for name, having, all_ in self.blocks)
        return (
            f"pipeline: {self.pipeline}, denoiser: {self.denoiser}",
            f"sites: {len(self.sites)}, in {counted or 'no list of blocks'}" + (
                f": {spans(self.sites)}" if self.sites else ""
            ),
            f"guidance: {self.guidance}",
            f"text beside the sites: {', '.join(self.also) or 'none that is seen'}",
            f"encode_prompt: {', '.join(self.encodes) or 'none'}",
            *(f"could not be told: {each}" for each in self.open),
        )  # fmt: skip


def look(path: str, revision: str | None, dtype: str, device: str) -> Look:
    """Loads a pipeline, calls it once with a sentence, and looks at what its denoiser is given.

    Args:
        path: a folder or a hub id.
        revision: the hub's commit; None for a folder.
        dtype: number format.
        device: e.g. ``cuda`` or ``cpu``.

    Raises:
        ModelError: it cannot be loaded, has no denoiser, takes no sentence, or its call fails.
    """
    pipeline = load_pipeline("DiffusionPipeline", path, revision, dtype, None).to(device)
    name, denoiser = denoiser_of(pipeline)
    calls = _called(pipeline, denoiser)
    first, missing = calls[0], []
    text = first.get(TEXT)
    if not isinstance(text, torch.Tensor) or text.ndim != 3:
        raise ModelError(
            f"the denoiser of a {type(pipeline).__name__} is given no {TEXT} of (rows, tokens, width), so that nobody "
            "can say where its text enters"
        )
    try:
        with torch.no_grad():
            sites = record_sites(denoiser, lambda tokens: again(denoiser, first, tokens))
    except (RuntimeError, ValueError, IndexError) as error:
        # It reads texts of one length alone, so that two lengths cannot be told from each other.
        missing.append(f"sites by two lengths of text ({reason_of(error)})")
        with torch.no_grad():
            sites = record_sites(denoiser, lambda _: again(denoiser, first, text.shape[1]))
    names = tuple(site.name for site in sites)
    blocks = _blocks(denoiser, tuple(site.key_path for site in sites))
    missing += [f"what of {spread} has no site" for spread in (_bare(blocks),) if spread]
    missing.append("how a sentence becomes what the denoiser reads, and what is padding")
    encode = getattr(pipeline, "encode_prompt", None)
    return Look(
        type(pipeline).__name__, f"{name} ({type(denoiser).__name__})", names, blocks, _guidance(calls),
        _also(first), tuple(inspect.signature(encode).parameters) if encode else (), tuple(missing),
    )  # fmt: skip


def _called(pipeline: Any, denoiser: torch.nn.Module) -> list[dict[str, Any]]:
    """Calls a pipeline with a sentence; returns the arguments of every call of its denoiser, by name."""
    takes = inspect.signature(pipeline.__call__).parameters
    calls: list[dict[str, Any]] = []
    if "prompt" not in takes:
        raise ModelError(f"the call of a {type(pipeline).__name__} takes no prompt: no text reaches its pictures")
    options = {"num_inference_steps": STEPS, **CALL}
    try:
        with noted(denoiser, calls.append), torch.no_grad():
            pipeline(prompt=PROMPT, **{name: value for name, value in options.items() if name in takes})
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a pipeline that nobody knows raises
        raise ModelError(
            f"the call of a {type(pipeline).__name__} with a sentence fails: {reason_of(error)}"
        ) from error
    if not calls:
        raise ModelError(f"the call of a {type(pipeline).__name__} never runs its {type(denoiser).__name__}")
    return calls


def _blocks(denoiser: torch.nn.Module, paths: tuple[str, ...]) -> tuple[tuple[str, int, int], ...]:
    lists = {name: part for name, part in denoiser.named_children() if isinstance(part, torch.nn.ModuleList)}
    counted = {
        name: sum(any(path.startswith(f"{name}.{number}.") for path in paths) for number in range(len(part)))
        for name, part in lists.items()
    }
    return tuple((name, counted[name], len(part)) for name, part in lists.items() if len(part) > 1)


def _bare(blocks: tuple[tuple[str, int, int], ...]) -> str:
    return ", ".join(f"{all_ - having} of {all_} {name}" for name, having, all_ in blocks if having < all_)


def _guidance(calls: list[dict[str, Any]]) -> str:
    rows, each = [call[TEXT].shape[0] if isinstance(call.get(TEXT), torch.Tensor) else 0 for call in calls], len(calls)
    if each == STEPS and set(rows) == {2}:
        return "both halves in one batch (STACKED)"
    if each == STEPS and set(rows) == {1}:
        return "none as it is called (UNGUIDED)"
    if each == 2 * STEPS and set(rows) == {1}:
        return "two calls a step (SEPARATE, whichever is first)"
    return f"{each} calls in {STEPS} steps, of {sorted(set(rows))} rows: none of STACKED, SEPARATE and UNGUIDED"


def _also(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns arguments that may carry a text beside the sites."""
    signs = ("pooled", "text_embeds", "added_cond", "class_labels", "text_states", "guidance")
    return tuple(name for name, value in given.items() if value is not None and any(sign in name for sign in signs))
