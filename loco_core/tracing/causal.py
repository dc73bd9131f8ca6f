"""Causal tracing: which single layer, restored from a clean run, brings an attribute back into a corrupted one.

Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022, section 2.1, for text-to-image models as
in Basu et al., "Localizing and Editing Knowledge in Text-to-Image Generative Models", ICLR 2024, section 3: Gaussian
noise on the embeddings of the subject's words corrupts the prompt; then one layer's output is that of the clean run. Of
the denoiser these are the attentions of the sites, at every step, in the conditional half, which alone reads the prompt
(where text and image attend to each other, what the attention gives to both); of the text encoders every self-attention
and MLP, at the last word of the subject. The subject's words are here those that the donor changes.

Noise is put on what the sites read: a pooled text of an encoder whose tokens no site reads, as FLUX has, stays clean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import torch

from loco_core.diffusion.generate import Pictures, generate
from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.diffusion.packed import aligned
from loco_core.diffusion.sites import removed
from loco_core.diffusion.tokens import padded
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


@dataclass(frozen=True)
class EncoderLayer:
    """A self-attention or an MLP of a text encoder.

    Attributes:
        component: the encoder, as the pipeline names it.
        name: readable address.
        module: what is restored.
    """

    component: str
    name: str
    module: torch.nn.Module


def encoder_layers(model: LoadedModel) -> list[EncoderLayer]:
    """Returns the self-attentions and MLPs of a model's text encoders, in execution order."""
    found = []
    for component in model.facts.traced_encoders:
        # SD3 may be saved without its T5.
        encoder = getattr(model.pipeline, component)
        pairs = _layers_of(encoder) if encoder is not None else []
        for number, pair in enumerate(pairs):
            found += [
                EncoderLayer(component, f"{component}.layers.{number}.{part}", module)
                for part, module in zip(("self_attn", "mlp"), pair, strict=True)
            ]
    return found


def _layers_of(encoder: torch.nn.Module) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    """Returns self-attention and MLP of every layer: of CLIP and language models, of ChatGLM, BERT and T5."""
    found = []
    for name, module in encoder.named_modules():
        part: Any = module
        if name.startswith(("vision", "visual")) or ".vis" in name:
            continue
        if hasattr(part, "self_attn") and hasattr(part, "mlp"):
            found.append((part.self_attn, part.mlp))
        elif hasattr(part, "self_attention") and hasattr(part, "mlp"):
            found.append((part.self_attention, part.mlp))
        elif hasattr(part, "attention") and hasattr(part, "intermediate") and hasattr(part, "output"):
            found.append((part.attention.self, part.output.dense))
        elif isinstance(layers := getattr(part, "layer", None), torch.nn.ModuleList) and hasattr(
            layers[0], "SelfAttention"
        ):
            last: Any = layers[-1]
            found.append((layers[0].SelfAttention, last.DenseReluDense))
    return found


def layers(model: LoadedModel) -> tuple[Layer, ...]:
    """Returns every layer that a trace restores: the sites, then the text encoders' layers."""
    sites = [Layer("denoiser", site.index, site.name) for site in model.sites]
    return (*sites, *(Layer("text_encoder", i, layer.name) for i, layer in enumerate(encoder_layers(model))))


def trace(
    model: LoadedModel, prompt: str, donor: str, seed: int, settings: Generation, batch_size: int
) -> Iterator[Traced]:
    """Draws a prompt clean, corrupted, and corrupted with each layer restored.

    Args:
        model: of a family that says which text encoders its sites read.
        prompt: the sentence.
        donor: tells which of its words are the subject.
        seed: of the initial noise and, with the prompt, of the noise on the words.
        settings: of the generation.
        batch_size: rows a batch; each batch has a clean row of its own.

    Yields:
        the clean picture, the corrupted one, then one a layer of `layers`.

    Raises:
        ModelError: the family says none, the prompt equals its donor, or a batch has room for one row only.
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

    Each is encoded alone, as some families encode their prompts one by one.

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
    every = encoder_layers(model)
    if not every:
        raise ModelError("causal tracing restores layers of text encoders, and of this model none are known")
    both = model.family.encode(model.pipeline, [prompt, donor])
    words = changed_words(both.take([0]), both.take([1]), 0)
    if not words:
        raise ModelError(f'the prompt "{prompt}" equals its donor; no word of it is a subject')
    subjects = _subjects(model, both, words, positions)
    # Of prompt and seed alone, on the CPU: the same noise in every unit, on every device.
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
    clean: dict[int, torch.Tensor] = {}
    with ExitStack() as stack:
        for number, layer in enumerate(every):
            subject = subjects[layer.component]
            stack.enter_context(_hooked(layer.module, partial(_keep, clean, number, subject)))
        for component, subject in subjects.items():
            for embedding in _embeddings(getattr(model.pipeline, component)):
                stack.enter_context(_hooked(embedding, subject.find, given=True))
        rows = [model.family.encode(model.pipeline, [prompt])]
    with ExitStack() as noisy:
        for component, subject in subjects.items():
            embeddings = _embeddings(getattr(model.pipeline, component))
            weight: Any = embeddings[0].weight
            noise = torch.randn(len(subject.words), weight.shape[1], generator=generator)
            noise *= NOISE * float(weight.detach().float().std())
            for embedding in embeddings:
                noisy.enter_context(_hooked(embedding, partial(_disturb, subject, noise)))
        # A trace of the sites asks for the same corrupted text at every one of them.
        wanted = list(dict.fromkeys(tuple(numbers) for numbers in restored))
        for numbers in wanted:
            with ExitStack() as stack:
                for number in numbers:
                    layer = every[number]
                    put = partial(_put, clean[number], subjects[layer.component])
                    stack.enter_context(_hooked(layer.module, put))
                rows.append(model.family.encode(model.pipeline, [prompt]))
    return _stacked(rows).take([0, *(1 + wanted.index(tuple(numbers)) for numbers in restored)])


def _embeddings(encoder: Any) -> list[torch.nn.Module]:
    """Returns the modules that hold an encoder's word embeddings: T5 has two, of which one is called.

    Language models may share the weight with what predicts the next word, which is no embedding.
    """
    weight = encoder.get_input_embeddings().weight
    embeddings = [module for module in encoder.modules() if isinstance(module, torch.nn.Embedding)]
    return [module for module in embeddings if module.weight is weight]


def _subjects(
    model: LoadedModel, texts: PromptEmbeds, words: Sequence[int], positions: Sequence[int] | None
) -> dict[str, _Subject]:
    """Returns where each encoder reads the subject."""
    parts = list(accumulate(texts.segments or (texts.ids.shape[1],), initial=0))
    found = {}
    for component, part in model.facts.traced_encoders.items():
        if getattr(model.pipeline, component) is not None:
            within = range(parts[part], parts[part + 1])
            own = [at - within.start for at in words if at in within]
            asked = own[-1:] if positions is None else [at - within.start for at in positions if at in within]
            said = texts.words[0, within.start : within.stop].nonzero().flatten().tolist()
            end = max(said, default=-1) + 1
            found[component] = _Subject(texts.ids[0, within.start : within.stop], end, own, asked)
    return found


def _stacked(rows: Sequence[PromptEmbeds]) -> PromptEmbeds:
    """Returns texts that were encoded alone as one."""

    def together(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        found = [part for part in parts if part is not None]
        return torch.cat(found) if found else None

    return replace(
        rows[0],
        embeds=torch.cat([row.embeds for row in rows]),
        ids=torch.cat([row.ids for row in rows]),
        words=torch.cat([row.words for row in rows]),
        mask=together([row.mask for row in rows]),
        pooled=together([row.pooled for row in rows]),
    )


class _Subject:
    """Where an encoder reads the subject of a prompt.

    What it is given may begin with an instruction that is cut off its output.

    Attributes:
        words: positions of the subject's words in the output.
        restored: positions whose layers are restored.
        shift: how much further behind they stand in what the encoder is given; known once it was given something.
    """

    def __init__(self, ids: torch.Tensor, end: int, words: Sequence[int], restored: Sequence[int]) -> None:
        self.words, self.restored, self.shift = list(words), list(restored), 0
        # Up to the end of the sentence: the subject's words alone may stand in it twice, or in what is around it.
        self._ids = ids[words[0] : end].tolist() if words else []

    def find(self, given: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """Finds the words among the token ids ``(1, tokens)`` that an embedding is given.

        Raises:
            ModelError: they are not there.
        """
        row, count = given[0].tolist(), len(self._ids)
        # The prompt stands behind instructions and examples.
        at = next((at for at in range(len(row) - count, -1, -1) if row[at : at + count] == self._ids), None)
        if at is None:
            raise ModelError("the text encoder is not given the prompt's words as its tokenizer cuts them")
        self.shift = at - self.words[0] if self.words else 0
        return made


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
        model: of any family.
        texts: a row an image, at most ``batch_size``.
        restored: the sites of each row whose output in the conditional half is the first row's.
        seed: of the initial noise.
        settings: of the generation.
        batch_size: rows of the batch, which is filled up.
    """
    rows = [Row(str(number), str(number), seed) for number in range(len(texts.embeds))]
    during = partial(_restoring, model, restored)
    encode = partial(_read, model, texts)
    (pictures,) = generate(model, rows, settings, batch_size, encode=encode, during=during)
    return pictures


def _read(model: LoadedModel, texts: PromptEmbeds, names: list[str]) -> PromptEmbeds:
    """Stands for the family's encoder: the first is the empty prompt, others are numbers of texts."""
    empty = model.family.encode(model.pipeline, names[:1])
    taken = texts.take([int(name) for name in names[1:]])
    longest = max(empty.embeds.shape[1], taken.embeds.shape[1])
    if empty.embeds.shape[1] != taken.embeds.shape[1]:
        if not model.family.mask_argument:
            # Of a family whose texts have lengths of their own.
            return aligned([empty, taken])
        empty, taken = _padded(empty, longest), _padded(taken, longest)
    return PromptEmbeds(
        torch.cat([empty.embeds, taken.embeds]),
        torch.cat([empty.ids, taken.ids]),
        torch.cat([empty.words, taken.words]),
        None if empty.mask is None or taken.mask is None else torch.cat([empty.mask, taken.mask]),
        None if empty.pooled is None or taken.pooled is None else torch.cat([empty.pooled, taken.pooled]),
        taken.segments,
    )


def _padded(texts: PromptEmbeds, length: int) -> PromptEmbeds:
    """Returns texts with masked padding behind them."""
    return replace(
        texts,
        embeds=padded(texts.embeds, length),
        ids=padded(texts.ids, length),
        words=padded(texts.words, length),
        mask=None if texts.mask is None else padded(texts.mask, length),
    )


@contextmanager
def _restoring(model: LoadedModel, restored: Sequence[Sequence[int]]) -> Iterator[None]:
    denoiser = model.family.denoiser(model.pipeline)
    with ExitStack() as stack:
        for site in model.sites:
            rows = [row for row, sites in enumerate(restored) if site.index in sites]
            if rows:
                branch: Any = denoiser.get_submodule(site.attention_path)
                if getattr(branch, "residual_connection", False):
                    # That of DeepFloyd IF adds what it was given, which is not the attention's.
                    branch = branch.to_out[0]
                stack.enter_context(_hooked(branch, partial(_conditional_from_first, rows, model)))
        yield


@contextmanager
def _hooked(module: torch.nn.Module, change: Any, *, given: bool = False) -> Iterator[None]:
    """Replaces what comes out of a module; ``change`` is called with what went in too where it is asked for."""
    handle = module.register_forward_hook(lambda _, args, made: change(args[0], made) if given else change(made))
    with removed([handle]):
        yield


def _disturb(subject: _Subject, noise: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    made = made.clone()
    if subject.words:
        made[:, [at + subject.shift for at in subject.words]] += noise.to(made)
    return made


def _keep(kept: dict[int, torch.Tensor], number: int, subject: _Subject, made: Any) -> Any:
    whole = made[0] if isinstance(made, tuple) else made
    kept[number] = _by_token(whole)[[at + subject.shift for at in subject.restored]].clone()
    return made


def _put(kept: torch.Tensor, subject: _Subject, made: Any) -> Any:
    if isinstance(made, tuple):
        return (_put(kept, subject, made[0]), *made[1:])
    made = made.clone()
    _by_token(made)[[at + subject.shift for at in subject.restored]] = kept
    return made


def _by_token(made: torch.Tensor) -> torch.Tensor:
    """Returns a view ``(tokens, width)`` of what a layer makes of one sentence: tokens come first in ChatGLM."""
    return made[0] if len(made) == 1 else made[:, 0]


def _conditional_from_first(rows: Sequence[int], model: LoadedModel, made: Any) -> Any:
    if isinstance(made, tuple):
        return tuple(_conditional_from_first(rows, model, part) for part in made)
    assert model.running.conditional is not None
    conditional = model.running.conditional.nonzero().flatten().tolist()
    if not conditional or made is None:
        return made
    made = made.clone()
    made[[conditional[row] for row in rows]] = made[conditional[0]].clone()
    return made
