"""The tracers, one file each: what is observed while a model draws, beside what swapping windows changes.

A tracer's file exports a function ``trace`` with the signature of :class:`Tracer`, and may say more of itself in
``INFO`` (a :class:`TracerInfo`). A localizer says with ``READS`` what it reads: ``scores`` of swapped windows, or the
traces of a tracer, by its key or file; a path goes from the localizer's own file, which may be both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loco_core import plugins
from loco_core.diffusion.facts import FamilyInfo, families
from loco_core.diffusion.model import LoadedModel
from loco_core.errors import SpecError, did_you_mean
from loco_core.localization.base import name_of
from loco_core.types import Generation, PromptRecord

if TYPE_CHECKING:
    import torch

SCORES = "scores"


@dataclass(frozen=True)
class TracedModel:
    """What a plan knows of a model that is traced, without its weights.

    Attributes:
        facts: facts of its family.
        n_sites: how many sites it has.
        encoder_layers: self-attentions and MLPs of its text encoders; 0 where the tracer does not ask for them.
    """

    facts: FamilyInfo
    n_sites: int
    encoder_layers: int = 0


@dataclass(frozen=True)
class Cost:
    """What it takes to trace.

    Attributes:
        batch_size: rows per forward pass.
        images: pictures that are drawn per prompt and seed.
        together: prompts and seeds that share a batch; a unit has a multiple of them.
    """

    batch_size: int
    images: int
    together: int = 1


def one_picture_each(model: TracedModel, pairs: int, most: int) -> Cost:
    """Returns the cost of a tracer that draws one picture per prompt and seed.

    Args:
        model: what is traced.
        pairs: prompts and seeds that are traced in all; at least 1.
        most: rows that a forward pass may have.
    """
    batch = math.ceil(pairs / math.ceil(pairs / most))
    return Cost(batch, 1, batch)


@dataclass(frozen=True)
class TracerInfo:
    """What a tracer says of itself, without torch.

    Attributes:
        cost: what it takes, of a model, of so many prompts and seeds, with so many rows per forward pass at most.
        refuses: why models of a family cannot be traced, in words; empty where they can.
        scores: whether it yields pictures, whose margin is what is recorded: the score of the attribute's text less
            that of the donor's.
        not_alone: why a batch of one picture will not do, in words; empty where it will.
        encoder_layers: whether `cost` asks how many layers the text encoders have.
    """

    cost: Callable[[TracedModel, int, int], Cost] = one_picture_each
    refuses: Callable[[FamilyInfo], str] = lambda facts: ""
    scores: bool = False
    not_alone: str = ""
    encoder_layers: bool = False


@dataclass(frozen=True)
class Layer:
    """A layer that is traced.

    Attributes:
        component: ``denoiser`` for a cross-attention site, ``text_encoder`` for a self-attention or an MLP.
        index: among those of its component in execution order, several encoders behind each other.
        name: readable address.
    """

    component: str
    index: int
    name: str


@dataclass(frozen=True)
class Trace:
    """One trace: a row of ``traces``.

    Attributes:
        item: number of the prompt and seed, among those that were asked for.
        control: what was done, in one word, e.g. ``restored``.
        layer: the layer that it is about, if it is about one.
        value: what was observed; None of one that yields pictures.
        picture: ``(3, height, width)`` in [0, 1], of a tracer that yields pictures.
    """

    item: int
    control: str
    layer: Layer | None = None
    value: float | None = None
    picture: torch.Tensor | None = None


class Tracer(Protocol):
    """Observes a model while it draws."""

    def __call__(
        self, model: LoadedModel, items: Sequence[tuple[PromptRecord, int]], settings: Generation, batch_size: int
    ) -> Iterator[Trace]:
        """Traces prompts, each with a seed.

        Args:
            model: the loaded model, which is left as it was.
            items: the prompts with their seeds.
            settings: settings of the generation.
            batch_size: rows per forward pass, as its `Cost` says.

        Raises:
            ModelError: the model, or a prompt, cannot be traced.
        """


def tracer_info(tracer: str) -> TracerInfo:
    """Returns what a tracer says of itself.

    Raises:
        SpecError: there is no such tracer.
    """
    return plugins.declared("tracers", tracer, "INFO", TracerInfo())


def tracer_id(tracer: str) -> str:
    """Returns what a tracer is called in ``traces``; that of an outside one tells one version of its code from another.

    Raises:
        SpecError: there is no such tracer.
    """
    return plugins.identity("tracers", tracer)


def reads(localizer: str) -> str | None:
    """Returns the tracer whose traces a localizer reads, by key or file; None where it reads scores.

    Args:
        localizer: its key, or a Python file.

    Raises:
        SpecError: there is no such localizer, or it reads what nothing writes.
    """
    module = plugins.load("localizers", localizer)
    said = str(getattr(module, "READS", SCORES))
    if said == SCORES:
        return None
    if said.endswith(".py"):
        own = Path(module.__file__ or "").absolute()
        file = str(own if said == module.__file__ else own.parent / said)
        # Whoever named the localizer named what it reads.
        plugins.name([file])
        plugins.function("tracers", file, "trace")
        return file
    known = plugins.keys("tracers")
    if said not in known:
        raise SpecError(f'{localizer} reads "{said}"{did_you_mean(said, (SCORES, *known))}')
    return said


def check_traceable(family: str, tracer: str, model: str) -> None:
    """Refuses a tracer that a family does not admit.

    Args:
        family: key of the family.
        tracer: what traces.
        model: id of the model, for the message.

    Raises:
        SpecError: it does not, with the reason and the families that do.
    """
    facts, info = families(), tracer_info(tracer)
    if why := info.refuses(facts[family]):
        able = ", ".join(key for key, known in facts.items() if not info.refuses(known))
        raise SpecError(f"{model} ({family}) cannot be traced by {name_of(tracer)}: {why}; supported: {able or 'none'}")
