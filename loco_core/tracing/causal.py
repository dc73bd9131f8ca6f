"""Causal tracing: which single layer, restored from a clean run, brings an attribute back into a corrupted one.

Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022, section 2.1, for text-to-image models as
in Basu et al., "Localizing and Editing Knowledge in Text-to-Image Generative Models", ICLR 2024, section 3: Gaussian
noise on the embeddings of the subject's words corrupts the prompt; then one layer's output is that of the clean run. Of
the denoiser these are the cross-attention sites, at every step, in the conditional half, which alone reads the prompt;
of the text encoders every self-attention and MLP, at the last word of the subject. The subject's words are here those
that the donor changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from loco_core.diffusion.generate import Pictures, generate
from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.editing.token_pairs import changed_words
from loco_core.errors import ModelError
from loco_core.tracing.base import Layer
from loco_core.types import Generation, Row

NOISE = 3.0
"""Standard deviation of the noise, in those of the encoder's word embeddings (Meng et al., section 2.1)."""


@dataclass(frozen=True)
class Traced:
    """One picture of a trace.

    Attributes:
        control: ``clean``, ``corrupted``, or ``restored``: corrupted, with one layer's output from the clean run.
        layer: which; None of the other two.
        picture: ``(3, height, width)``.
    """

    control: Literal["clean", "corrupted", "restored"]
    layer: Layer | None
    picture: torch.Tensor


def encoder_layers(model: LoadedModel) -> list[tuple[str, torch.nn.Module]]:
    """Returns the self-attentions and MLPs of a model's CLIP text encoders by address, in execution order."""
    found = []
    for component in model.facts.clip_encoders:
        encoder = getattr(model.pipeline, component)
        for number, layer in enumerate(getattr(encoder, "text_model", encoder).encoder.layers):
            found += [(f"{component}.layers.{number}.{part}", getattr(layer, part)) for part in ("self_attn", "mlp")]
    return found


def layers(model: LoadedModel) -> tuple[Layer, ...]:
    """Returns every layer that a trace restores: the sites, then the text encoders' layers."""
    sites = [Layer("denoiser", site.index, site.name) for site in model.sites]
    return (*sites, *(Layer("text_encoder", i, name) for i, (name, _) in enumerate(encoder_layers(model))))


def trace(
    model: LoadedModel, prompt: str, donor: str, seed: int, settings: Generation, batch_size: int
) -> Iterator[Traced]:
    """Draws a prompt clean, corrupted, and corrupted with each layer restored.

    Args:
        model: of a family with CLIP text encoders whose text is the same at every step.
        prompt: the sentence.
        donor: tells which of its words are the subject.
        seed: of the initial noise and, with the prompt, of the noise on the words.
        settings: of the generation.
        batch_size: rows a batch; each batch has a clean row of its own.

    Yields:
        the clean picture, the corrupted one, then one a layer of `layers`.

    Raises:
        ModelError: the family has no such encoders, the prompt equals its donor, or a batch has room for one row only.
    """
    if batch_size < 2:
        raise ModelError("a batch_size of 1 is too small: every corrupted row of a trace has a clean one beside it")
    every = layers(model)
    restored = [[layer.index] if layer.component == "text_encoder" else [] for layer in every]
    texts = corrupt(model, prompt, donor, seed, [[], *restored])
    items: list[Layer | None] = [None, *every]
    for first in range(0, len(items), batch_size - 1):
        part = items[first : first + batch_size - 1]
        sites = [(layer.index,) if layer and layer.component == "denoiser" else () for layer in part]
        numbers = [0, *range(first + 1, first + 1 + len(part))]
        drawn = draw(model, texts.take(numbers), [(), *sites], seed, settings, batch_size).images
        if not first:
            yield Traced("clean", None, drawn[0])
        for layer, picture in zip(part, drawn[1:], strict=True):
            yield Traced("restored" if layer else "corrupted", layer, picture)


def corrupt(
    model: LoadedModel,
    prompt: str,
    donor: str,
    seed: int,
    restored: Sequence[Sequence[int]],
    positions: Sequence[int] | None = None,
) -> PromptEmbeds:
    """Encodes a prompt clean, and with noise on its subject's words and some layers restored.

    All are rows of one batch, so that what is restored was made beside it.

    Args:
        model: see :func:`trace`.
        prompt: the sentence.
        donor: tells which of its words are the subject.
        seed: of the noise, with the prompt.
        restored: a corrupted row each, with the numbers of the encoders' layers whose output is the clean row's.
        positions: at which tokens; None is the last word of the subject.

    Returns:
        the clean row, then the corrupted ones.
    """
    if not model.facts.clip_encoders or model.facts.stream != "fixed":
        raise ModelError("causal tracing restores layers of CLIP text encoders; this model reads other text too")
    both = model.family.encode(model.pipeline, [prompt, donor])
    words = changed_words(both.take([0]), both.take([1]), 0)
    if not words:
        raise ModelError(f'the prompt "{prompt}" equals its donor; no word of it is a subject')
    at = list(words[-1:] if positions is None else positions)
    # Of prompt and seed alone, on the CPU: the same noise in every unit, on every device.
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
    with ExitStack() as stack:
        for component in model.facts.clip_encoders:
            embedding = getattr(model.pipeline, component).get_input_embeddings()
            noise = torch.randn(len(words), embedding.weight.shape[1], generator=generator)
            noise *= NOISE * float(embedding.weight.detach().float().std())
            stack.enter_context(_hooked(embedding, partial(_disturb, words, noise)))
        for number, (_, layer) in enumerate(encoder_layers(model)):
            rows = [1 + row for row, numbers in enumerate(restored) if number in numbers]
            if rows:
                stack.enter_context(_hooked(layer, partial(_from_first, rows, at)))
        return model.family.encode(model.pipeline, [prompt] * (1 + len(restored)))


def draw(
    model: LoadedModel,
    texts: PromptEmbeds,
    restored: Sequence[Sequence[int]],
    seed: int,
    settings: Generation,
    batch_size: int,
) -> Pictures:
    """Draws encoded texts from one noise, some sites' outputs taken from the first row at every step.

    Args:
        model: of a family whose text is the same at every step.
        texts: a row an image, at most ``batch_size``.
        restored: the sites of each row whose output in the conditional half is the first row's.
        seed: of the initial noise.
        settings: of the generation.
        batch_size: rows of the batch, which is filled up.
    """
    rows = [Row(str(number), str(number), seed) for number in range(len(texts.embeds))]
    during = partial(_restoring, model, restored, batch_size)
    encode = partial(_read, model, texts)
    (pictures,) = generate(model, rows, settings, batch_size, encode=encode, during=during)
    return pictures


def _read(model: LoadedModel, texts: PromptEmbeds, names: list[str]) -> PromptEmbeds:
    """Stands for the family's encoder: the first is the empty prompt, others are numbers of texts."""
    empty = model.family.encode(model.pipeline, names[:1])
    taken = texts.take([int(name) for name in names[1:]])
    return PromptEmbeds(
        torch.cat([empty.embeds, taken.embeds]),
        torch.cat([empty.ids, taken.ids]),
        torch.cat([empty.words, taken.words]),
        None if empty.mask is None or taken.mask is None else torch.cat([empty.mask, taken.mask]),
        None if empty.pooled is None or taken.pooled is None else torch.cat([empty.pooled, taken.pooled]),
        taken.segments,
    )


@contextmanager
def _restoring(model: LoadedModel, restored: Sequence[Sequence[int]], batch_size: int) -> Iterator[None]:
    denoiser = model.family.denoiser(model.pipeline)
    with ExitStack() as stack:
        for site in model.sites:
            rows = [row for row, sites in enumerate(restored) if site.index in sites]
            if rows:
                attention = denoiser.get_submodule(site.attention_path)
                stack.enter_context(_hooked(attention, partial(_conditional_from_first, rows, batch_size)))
        yield


@contextmanager
def _hooked(module: torch.nn.Module, change: Any) -> Iterator[None]:
    """Replaces what comes out of a module."""
    handle = module.register_forward_hook(lambda _, __, made: change(made))
    try:
        yield
    finally:
        handle.remove()


def _disturb(words: Sequence[int], noise: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    made = made.clone()
    made[1:, words] += noise.to(made)
    return made


def _from_first(rows: Sequence[int], positions: Sequence[int], made: Any) -> Any:
    if isinstance(made, tuple):
        return (_from_first(rows, positions, made[0]), *made[1:])
    made = made.clone()
    for row in rows:
        made[row, positions] = made[0, positions]
    return made


def _conditional_from_first(rows: Sequence[int], batch_size: int, made: torch.Tensor) -> torch.Tensor:
    first = len(made) - batch_size
    made = made.clone()
    made[[first + row for row in rows]] = made[first].clone()
    return made
