"""What an edit is fitted on: positions of prompts as projections read them, and those of donors to be read instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate, pairwise
from typing import TypeVar

import torch

from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.diffusion.sites import inputs
from loco_core.editing.base import Concept, TokenSet
from loco_core.editing.deltas import component
from loco_core.errors import EditError
from loco_core.types import PromptRecord

T = TypeVar("T")
# Prompts a forward pass: an evolving text is read beside a picture.
TOGETHER = {"fixed": 16, "evolving": 2}


@dataclass(frozen=True)
class TokenPairs:
    """Positions of prompts, and those of their donors that they are to read as.

    Attributes:
        keys: ``(n, input width)`` float64, what a projection reads at the prompts' positions.
        donors: ``(n, input width)`` float64, the same at the donors' positions.
    """

    keys: torch.Tensor
    donors: torch.Tensor


def token_pairs(
    model: LoadedModel, concept: Concept, tokens: TokenSet, sites: Sequence[int], *, published: bool = False
) -> tuple[TokenPairs, ...]:
    """Encodes a concept's prompts and donors and pairs their positions, as every site reads them.

    Words that both sentences share are paired with each other; a word that the donor replaces with the last word of the
    replacement; one that it leaves out with the word before it; end and padding by their distance from the last word.
    Where a donor only adds words, the word after them is what changes, as it has read them in the donor ("a doctor",
    "a female doctor"). Positions that cross-attention never looks at are left out. Where several encoders stand behind
    each other, each is paired by itself.

    Args:
        model: a loaded model.
        concept: the prompts and their donors.
        tokens: which positions.
        sites: that read them.
        published: whether the prompts are published texts, of which the last token is read, or ``tail``, or ``all``
            positions by their place, and the same of the donor, whatever words they share.

    Returns:
        pairs of every site; the same object for sites that read the same.

    Raises:
        EditError: a prompt equals its donor.
    """
    prompts, donors = _encoded(model, concept.records)
    segments = _segments(prompts)
    rows, at, to = (
        _last_tokens(prompts, donors, tokens, segments)
        if published
        else _positions(prompts, donors, concept, tokens, segments)
    )
    keys, values = _read(model, prompts, sites), _read(model, donors, sites)
    return _once(keys, lambda number: TokenPairs(keys[number][rows, at], values[number][rows, to]))


def encoder_pairs(
    model: LoadedModel, concept: Concept, tokens: TokenSet, where: str, path: str, *, published: bool = False
) -> TokenPairs:
    """Pairs the positions of a concept's prompts and donors as a module inside a CLIP text encoder reads them.

    Args:
        model: a loaded model whose text begins with what its CLIP encoders read.
        concept: the prompts and their donors.
        tokens: which positions.
        where: the encoder, by its name in the pipeline.
        path: of the module inside it.
        published: see :func:`token_pairs`.

    Raises:
        EditError: a prompt equals its donor.
    """
    read = []
    for texts in ([record.prompt for record in concept.records], [record.donor for record in concept.records]):
        with inputs(component(model, where), [path]) as found:
            read.append((model.family.encode(model.pipeline, texts), found))
    (prompts, keys), (donors, values) = read
    # Two encoders of CLIP side by side split sentences alike; they differ in padding, which is paired by its place.
    segments = _segments(prompts)[:1]
    rows, at, to = (
        _last_tokens(prompts, donors, tokens, segments)
        if published
        else _positions(prompts, donors, concept, tokens, segments)
    )
    return TokenPairs(keys[path][rows, at], values[path][rows, to])


def changed_words(prompts: PromptEmbeds, donors: PromptEmbeds, row: int) -> list[int]:
    """Returns the positions of a prompt's words that its donor changes, of those that are looked at.

    Args:
        prompts: the prompts.
        donors: their donors.
        row: which of them.
    """
    return [at for at, _ in _wanted(prompts, donors, row, "subject", _segments(prompts))]


def read_texts(model: LoadedModel, prompts: Sequence[str], sites: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Returns what sites read of prompts: ``(positions, text width)`` float64, all positions that they look at.

    Of an evolving text it is the words alone: hundreds of positions of padding, at every site, would fill any memory.
    """
    encoded = model.family.encode(model.pipeline, list(prompts))
    seen = torch.ones_like(encoded.ids, dtype=torch.bool) if encoded.mask is None else encoded.mask.bool().cpu()
    if model.facts.stream == "evolving":
        seen = encoded.words.cpu()
    read = _read(model, encoded, sites)
    return _once(read, lambda number: read[number][seen])


def read_subjects(
    model: LoadedModel, records: Sequence[PromptRecord], sites: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """Returns what sites read of the last word of what prompts say beside their donors: ``(n, text width)`` float64.

    Of a prompt that equals its donor it is the last word.
    """
    prompts, donors = _encoded(model, records)
    rows, at = [], []
    for row in range(len(records)):
        for start, end in _segments(prompts):
            found = _wanted(prompts, donors, row, "last_subject", [(start, end)])
            rows.append(row)
            at.append(found[0][0] if found else _last_word(prompts, row, start, end))
    read = _read(model, prompts, sites)
    return _once(read, lambda number: read[number][rows, at])


def read_last(model: LoadedModel, prompts: Sequence[str], sites: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Returns what sites read of the last tokens of prompts: ``(n, text width)`` float64."""
    encoded = model.family.encode(model.pipeline, list(prompts))
    rows, at, _ = _last_tokens(encoded, encoded, "last_subject", _segments(encoded))
    read = _read(model, encoded, sites)
    return _once(read, lambda number: read[number][rows, at])


def _encoded(model: LoadedModel, records: Sequence[PromptRecord]) -> tuple[PromptEmbeds, PromptEmbeds]:
    # Not remembered: prompts of a fit are many, and what is remembered stays on the GPU.
    # Together, as some families pad prompts to the longest of a list.
    texts = [item.prompt for item in records] + [item.donor for item in records]
    both, count = model.family.encode(model.pipeline, texts), len(records)
    return both.take(list(range(count))), both.take(list(range(count, 2 * count)))


def _positions(
    prompts: PromptEmbeds,
    donors: PromptEmbeds,
    concept: Concept,
    tokens: TokenSet,
    segments: Sequence[tuple[int, int]],
) -> tuple[list[int], list[int], list[int]]:
    """Returns rows of a concept's prompts, positions in them, and positions in their donors."""
    rows, at, to = [], [], []
    for row, record in enumerate(concept.records):
        found = _wanted(prompts, donors, row, tokens, segments)
        if not found:
            raise EditError(f'{concept.attribute}: the prompt "{record.prompt}" equals its donor; nothing to edit')
        for here, there in found:
            rows.append(row)
            at.append(here)
            to.append(there)
    return rows, at, to


def _last_tokens(
    prompts: PromptEmbeds, donors: PromptEmbeds, tokens: TokenSet, segments: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int], list[int]]:
    """Returns rows, positions of the prompts' last tokens and of their donors'; with ``tail`` all behind them too.

    With ``all`` it is every position that is looked at, words first. Where the donor's positions run out its last one
    stands for the rest.
    """
    rows, at, to = [], [], []
    for row in range(len(prompts.ids)):
        for start, end in segments:
            if tokens == "all":
                here, there = (_seen(texts, row, _in_order(texts, row, start, end)) for texts in (prompts, donors))
            else:
                first, other = (_last_word(texts, row, start, end) for texts in (prompts, donors))
                here = _seen(prompts, row, range(first, end if tokens == "tail" else first + 1))
                there = _seen(donors, row, range(other, end))
            rows += [row] * len(here)
            at += here
            to += [there[min(place, len(there) - 1)] for place in range(len(here))]
    return rows, at, to


def _seen(texts: PromptEmbeds, row: int, places: Iterable[int]) -> list[int]:
    return [at for at in places if _looked_at(texts, row, at)]


def _last_word(texts: PromptEmbeds, row: int, start: int, end: int) -> int:
    return _in_order(texts, row, start, end)[max(int(texts.words[row, start:end].sum()) - 1, 0)]


def _in_order(texts: PromptEmbeds, row: int, start: int, end: int) -> list[int]:
    """Returns an encoder's positions, words first, then those behind them; those in front last, the nearest first."""
    said = texts.words[row, start:end].tolist()
    first = said.index(True) if True in said else 0
    return [*range(start + first, end), *reversed(range(start, start + first))]


def _once(read: Sequence[torch.Tensor], make: Callable[[int], T]) -> tuple[T, ...]:
    """Makes something for every site by its number, one object for sites in a row that read one tensor."""
    made: list[T] = []
    for number, tensor in enumerate(read):
        made.append(made[-1] if number and tensor is read[number - 1] else make(number))
    return tuple(made)


def _read(model: LoadedModel, prompts: PromptEmbeds, sites: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Returns what the projections of sites read: ``(prompts, tokens, width)`` float64; one tensor where it is equal.

    Where the text evolves with the image, it is what they read at the first step, beside noise.
    """
    paths, count = [model.sites[site].key_path for site in sites], TOGETHER[model.facts.stream]
    parts: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
    for first in range(0, len(prompts.embeds), count):
        numbers = range(first, min(first + count, len(prompts.embeds)))
        with inputs(model.family.denoiser(model.pipeline), paths) as found, torch.no_grad():
            model.family.forward(model.pipeline, prompts.take(list(numbers)))
        for path in paths:
            parts[path].append(found[path])
    made: list[torch.Tensor] = []
    for number, path in enumerate(paths):
        before = parts[paths[number - 1]] if number else []
        same = bool(before) and all(a is b for a, b in zip(before, parts[path], strict=True))
        made.append(made[-1] if same else torch.cat(parts[path]))
    return tuple(made)


def _wanted(
    prompts: PromptEmbeds, donors: PromptEmbeds, row: int, tokens: TokenSet, segments: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Returns positions of a prompt and of its donor that a token set takes; none if the two sentences are equal."""
    found, changes = [], False
    for start, end in segments:
        places = paired_positions(prompts, donors, row, start, end)
        changed = [at for at, (_, same) in enumerate(places) if not same]
        changes |= bool(changed)
        if tokens == "last_position":
            pair = (_last_looked_at(prompts, row, start, end), _last_looked_at(donors, row, start, end))
            found += [pair] if _looked_at(prompts, row, pair[0]) else []
            continue
        if tokens in ("all", "tail"):
            beyond = int(donors.words[row, start:end].sum())
            tail = (min(beyond + at, end - start - 1) for at in range(end - start - len(places)))
            pairs = list(enumerate([*(to for to, _ in places), *tail]))
            if tokens == "tail":
                pairs = pairs[changed[-1] :] if changed else []
        else:
            pairs = [(at, places[at][0]) for at in (changed[-1:] if tokens == "last_subject" else changed)]
        here, there = (_in_order(texts, row, start, end) for texts in (prompts, donors))
        found += [(here[at], there[to]) for at, to in pairs if _looked_at(prompts, row, here[at])]
    return found if changes else []


def _segments(prompts: PromptEmbeds) -> list[tuple[int, int]]:
    lengths = prompts.segments or (prompts.ids.shape[1],)
    return list(pairwise(accumulate(lengths, initial=0)))


def _looked_at(prompts: PromptEmbeds, row: int, at: int) -> bool:
    return prompts.mask is None or bool(prompts.mask[row, at])


def _last_looked_at(texts: PromptEmbeds, row: int, start: int, end: int) -> int:
    """Returns the last position of an encoder that cross-attention looks at."""
    return max((at for at in range(start, end) if _looked_at(texts, row, at)), default=start)


def paired_positions(
    prompts: PromptEmbeds, donors: PromptEmbeds, row: int, start: int = 0, end: int | None = None
) -> list[tuple[int, bool]]:
    """Returns for every word of a prompt the number of the donor's word in its place, and whether they are equal.

    Args:
        prompts: the prompts.
        donors: their donors.
        row: which of them.
        start: first position of the encoder that is asked about; positions count from it.
        end: first position after it.
    """
    source = prompts.ids[row, start:end][prompts.words[row, start:end].cpu()].tolist()
    donor = donors.ids[row, start:end][donors.words[row, start:end].cpu()].tolist()
    places: list[tuple[int, bool]] = []
    added = None
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, source, donor, autojunk=False).get_opcodes():
        if kind == "equal":
            places += [(j1 + i - i1, True) for i in range(i1, i2)]
        elif kind == "insert":
            added = (i1, j2)
        else:
            places += [(max(j2 - 1 if kind == "replace" else j1 - 1, 0), False)] * (i2 - i1)
    if added is not None and places and all(same for _, same in places):
        at, to = added
        places[min(at, len(places) - 1)] = (to if at < len(places) else to - 1, False)
    return places
