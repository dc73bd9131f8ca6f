"""Attention contribution: how much of what each site writes into the image comes from the words of a concept.

Zarei et al., "Localizing Knowledge in Diffusion Transformers", NeurIPS 2025, section 3: the contribution of text tokens
C to an image token is the norm of the sum over heads h of attn_h[:, C] V_h[C] W_O,h; a site's is the mean over image
tokens and steps of one pass over the clean prompt. The concept's tokens are here the words that the donor changes. The
output's bias, which belongs to no token, is left out; the authors' released code leaves out W_O too, unless asked.

Observed is the attention's own call, behind norms of queries and keys and rotary embeddings. Where text and image share
one softmax, the image tokens among its queries count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from loco_core.diffusion.attention_calls import AttentionCall, attention_calls
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.diffusion.sites import outputs
from loco_core.editing.token_pairs import changed_words
from loco_core.errors import ModelError
from loco_core.types import Generation, Row, Site

ATTENDED = 2**25
"""Attention weights held at once, as numbers of float32 (128 MiB)."""


def contributions(model: LoadedModel, rows: Sequence[Row], settings: Generation, batch_size: int) -> torch.Tensor:
    """Draws rows and returns what the words that their donors change contribute at every site.

    Args:
        model: of any family.
        rows: prompts with donors and seeds, without interventions.
        settings: of the generation.
        batch_size: rows a batch.

    Returns:
        ``(rows, sites)`` float64 on the CPU, in units of the sites' outputs.

    Raises:
        ModelError: a prompt equals its donor, or an attention cannot be observed.
    """
    # Nobody looks at the pictures.
    model = replace(model, super_resolution=None)
    parts = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return torch.cat([_batch(model, part, settings, batch_size) for part in parts])


def _batch(model: LoadedModel, rows: Sequence[Row], settings: Generation, batch_size: int) -> torch.Tensor:
    words = _concepts(model, rows)
    sums: list[list[torch.Tensor]] = [[] for _ in model.sites]
    during = partial(_watched, model, words, sums)
    for _ in generate(model, rows, settings, batch_size, during=during):
        pass
    return torch.stack([torch.stack(calls).mean(0) for calls in sums], dim=1)


def _concepts(model: LoadedModel, rows: Sequence[Row]) -> torch.Tensor:
    """Returns ``(rows, tokens)``: which positions hold words that the donor changes."""
    alone = model.family.encode(model.pipeline, [row.prompt for row in rows])
    # Together, as some families pad to the longest of a list.
    texts, count = [row.prompt for row in rows] + [row.donor for row in rows], len(rows)
    both = model.family.encode(model.pipeline, texts)
    prompts, donors = both.take(list(range(count))), both.take(list(range(count, 2 * count)))
    found = torch.zeros(prompts.ids.shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        places = changed_words(prompts, donors, number)
        if not places:
            raise ModelError(f'the prompt "{row.prompt}" equals its donor; no word of it is a concept')
        found[number, places] = True
    # Drawn are the prompts alone. Texts that no mask hides padding of are aligned at their ends.
    length = alone.ids.shape[1]
    behind = bool(model.family.mask_argument)
    return (found[:, :length] if behind else found[:, found.shape[1] - length :]).to(prompts.embeds.device)


@contextmanager
def _watched(model: LoadedModel, words: torch.Tensor, sums: list[list[torch.Tensor]]) -> Iterator[None]:
    """Adds to ``sums``, at every call of every site, the contribution ``(rows,)`` of the rows' words."""
    denoiser = model.family.denoiser(model.pipeline)
    sites = {site.attention_path: site for site in model.sites}

    def seen(path: str, call: AttentionCall) -> AttentionCall:
        conditional = model.running.conditional
        assert conditional is not None
        # Behind the rows it is filled up with copies.
        rows = conditional.nonzero().flatten()[: len(words)].to(call.query.device)
        if len(rows):
            site = sites[path]
            tokens = tokens_of(model, site, call, made.get(site.value_path), words.shape[1])
            weight = output_weight(denoiser, site, call.value.shape[1] * call.value.shape[3])
            sums[site.index].append(_contributed(weight, call, rows, tokens, words))
        return call

    texts = [site.value_path for site in model.sites if site.text_only]
    with outputs(denoiser, texts) as made, attention_calls(denoiser, list(sites), seen):
        yield


@dataclass(frozen=True)
class Tokens:
    """Where text and image stand in one call of an attention.

    Attributes:
        text: the keys that are text tokens.
        image: the queries that are image tokens.
    """

    text: slice
    image: slice


def tokens_of(model: LoadedModel, site: Site, call: AttentionCall, value: torch.Tensor | None, count: int) -> Tokens:
    """Finds the text among the keys of an attention's call, and the image among its queries.

    Families put them in either order. Values pass no norm and no rotary embedding, so that what the text's projection
    made is found among them as it is.

    Args:
        model: the model.
        site: the site that the attention belongs to.
        call: what the attention computes with.
        value: what the projection of V made of the text, where it serves the text alone.
        count: tokens of the text, where it serves the image too.

    Raises:
        ModelError: the text is at neither end.
    """
    keys, queries = call.key.shape[2], call.query.shape[2]
    if value is None:
        last = model.facts.text_last
    else:
        columns = slice(*site.value_columns) if site.value_columns else slice(None)
        text = value[..., columns].reshape(*value.shape[:2], call.value.shape[1], -1).transpose(1, 2)
        count = text.shape[2]
        last = not torch.equal(call.value[:, :, :count], text)
        if last and not torch.equal(call.value[:, :, keys - count :], text):
            raise ModelError(f"{site.name} has its text at neither end; its attention cannot be observed")
    text_at = slice(keys - count, keys) if last else slice(0, count)
    if queries != keys or count == keys:
        return Tokens(text_at, slice(None))
    return Tokens(text_at, slice(0, keys - count) if last else slice(count, keys))


def output_weight(denoiser: torch.nn.Module, site: Site, width: int) -> torch.Tensor:
    """Returns the weight ``(output width, width)`` of what takes the heads of an attention to its output.

    Where it takes the feed-forward of the block too, these are its first columns.

    Raises:
        ModelError: nothing does that is known.
    """
    attention: Any = denoiser.get_submodule(site.attention_path)
    block: Any = denoiser.get_submodule(site.attention_path.rpartition(".")[0])
    named = [getattr(attention, name, None) for name in ("to_out", "out_layer")] + [getattr(block, "proj_out", None)]
    for found in named:
        layer = found[0] if isinstance(found, torch.nn.ModuleList) else found
        if isinstance(layer, torch.nn.Linear) and layer.in_features >= width:
            return layer.weight[:, :width]
    raise ModelError(f"{site.name} writes its output in a way that is not known; its attention cannot be observed")


def _contributed(
    weight: torch.Tensor, call: AttentionCall, rows: torch.Tensor, tokens: Tokens, words: torch.Tensor
) -> torch.Tensor:
    """Returns the mean contribution ``(rows,)`` of words to the image tokens of some rows of a call."""
    keys = call.key.shape[2]
    taken = torch.zeros(len(rows), keys, dtype=torch.bool, device=call.key.device)
    count = min(words.shape[1], len(range(keys)[tokens.text]))
    first = tokens.text.start or 0
    taken[:, first : first + count] = words[:, :count]
    query = call.query[:, :, tokens.image]
    mask = call.attn_mask
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., tokens.image, :]
    # One row of FLUX at 1,024 pixels has 450 million weights: rows are cut, and queries where that is not enough.
    together = max(1, ATTENDED // (query.shape[1] * query.shape[2] * keys))
    queries = max(1, ATTENDED // (query.shape[1] * keys)) if together == 1 else query.shape[2]
    sums = torch.zeros(len(rows), dtype=torch.float64)
    for begin in range(0, len(rows), together):
        at = rows[begin : begin + together]
        own = mask if mask is None or len(mask) == 1 else mask[at]
        for first in range(0, query.shape[2], queries):
            some = slice(first, first + queries)
            masked = own if own is None or own.shape[-2] == 1 else own[..., some, :]
            part = replace(call, query=query[at][:, :, some], key=call.key[at], value=call.value[at], attn_mask=masked)
            written = written_by(weight, part, taken[begin : begin + together])
            sums[begin : begin + together] += written.norm(dim=-1).double().sum(dim=1).cpu()
    return sums / query.shape[2]


def written_by(weight: torch.Tensor, call: AttentionCall, taken: torch.Tensor) -> torch.Tensor:
    """Returns the part of an attention's output that some of the tokens that it reads write.

    Summed over all tokens it is the output of the attention before the output's bias.

    Args:
        weight: ``(output width, heads * width)`` of the output projection.
        call: what the attention computes with.
        taken: ``(rows, tokens)``: which of the keys.

    Returns:
        ``(rows, queries, output width)`` float32.
    """
    query, key, value = (each.float() for each in (call.query, call.key, call.value))
    if call.enable_gqa:
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if call.scale is None else call.scale)
    if call.attn_mask is not None:
        mask = call.attn_mask
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.float()
    weights = scores.softmax(dim=-1) * taken[:, None, None]
    mixed = (weights @ value).transpose(1, 2).flatten(2)
    return torch.nn.functional.linear(mixed, weight.float())
