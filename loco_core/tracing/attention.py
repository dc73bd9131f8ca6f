"""Attention contribution: how much of what each site writes into the image comes from the words of a concept.

Zarei et al., "Localizing Knowledge in Diffusion Transformers", NeurIPS 2025, section 3: the contribution of text tokens
C to an image token is the norm of the sum over heads h of attn_h[:, C] V_h[C] W_O,h; a site's is the mean over image
tokens and steps of one pass over the clean prompt. The concept's tokens are here the words that the donor changes. The
output's bias, which belongs to no token, is left out; the authors' released code leaves out W_O too, unless asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.token_pairs import changed_words
from loco_core.errors import ModelError
from loco_core.types import Generation, Row, Site

ATTENDED = 2**25
"""Attention weights held at once, as numbers of float32 (128 MiB)."""


def contributions(model: LoadedModel, rows: Sequence[Row], settings: Generation, batch_size: int) -> torch.Tensor:
    """Draws rows and returns what the words that their donors change contribute at every site.

    Args:
        model: of a family whose text is the same at every step.
        rows: prompts with donors and seeds, without interventions.
        settings: of the generation.
        batch_size: rows a batch.

    Returns:
        ``(rows, sites)`` float64 on the CPU, in units of the sites' outputs.

    Raises:
        ModelError: text and image attend to each other, an attention normalizes its queries or keys head by head, or a
            prompt equals its donor.
    """
    if model.facts.stream != "fixed":
        raise ModelError("attention contribution needs text that is the same at every step; this model's evolves")
    # Nobody looks at the pictures.
    model = replace(model, super_resolution=None)
    parts = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return torch.cat([_batch(model, part, settings, batch_size) for part in parts])


def _batch(model: LoadedModel, rows: Sequence[Row], settings: Generation, batch_size: int) -> torch.Tensor:
    words = _concepts(model, rows)
    sums: list[list[torch.Tensor]] = [[] for _ in model.sites]
    during = partial(_watched, model, words, batch_size, sums)
    for _ in generate(model, rows, settings, batch_size, during=during):
        pass
    return torch.stack([torch.stack(calls).mean(0) for calls in sums], dim=1)


def _concepts(model: LoadedModel, rows: Sequence[Row]) -> torch.Tensor:
    """Returns ``(rows, tokens)``: which positions hold words that the donor changes."""
    prompts = model.family.encode(model.pipeline, [row.prompt for row in rows])
    donors = model.family.encode(model.pipeline, [row.donor for row in rows])
    found = torch.zeros(prompts.ids.shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        places = changed_words(prompts, donors, number)
        if not places:
            raise ModelError(f'the prompt "{row.prompt}" equals its donor; no word of it is a concept')
        found[number, places] = True
    return found.to(prompts.embeds.device)


@contextmanager
def _watched(
    model: LoadedModel, words: torch.Tensor, batch_size: int, sums: list[list[torch.Tensor]]
) -> Iterator[None]:
    """Adds to ``sums``, at every call of every site, the contribution ``(rows,)`` of the rows' words."""
    denoiser = model.family.denoiser(model.pipeline)
    handles = []
    try:
        for site in model.sites:
            attention = denoiser.get_submodule(site.attention_path)
            seen: dict[str, torch.Tensor] = {}
            for name, module in _projections(attention, site).items():
                keep = partial(_keep, seen, name)
                handles.append(attention.get_submodule(module).register_forward_hook(keep))
            note = partial(_note, seen, words, batch_size, sums[site.index])
            handles.append(attention.register_forward_hook(note, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _projections(attention: Any, site: Site) -> dict[str, str]:
    """Returns the modules that an attention takes queries, keys and values from, by their projections, text first.

    Where queries and keys pass a norm, over all heads at once, it is the norm.
    """
    names = ("to_q", "add_k_proj", "to_k", "add_v_proj", "to_v")
    found = {name: name for name in names if getattr(attention, name, None) is not None}
    for name, norm in (("to_q", "norm_q"), ("to_k", "norm_k")):
        if getattr(attention, norm, None) is not None:
            weight = getattr(getattr(attention, norm), "weight", None)
            if weight is None or len(weight) != getattr(attention, name).out_features:
                raise ModelError(f"{site.name} normalizes queries or keys head by head; its attention is not observed")
            found[name] = norm
    return found


def _keep(seen: dict[str, torch.Tensor], name: str, _: Any, __: Any, made: torch.Tensor) -> None:
    seen[name] = made


def _note(
    seen: dict[str, torch.Tensor],
    words: torch.Tensor,
    batch_size: int,
    into: list[torch.Tensor],
    attention: Any,
    _: Any,
    given: dict[str, Any],
    __: Any,
) -> None:
    mask = given.get("attention_mask")
    count = len(seen["to_q"])
    # The conditional half is the last; behind the rows it is filled up with copies.
    rows = range(count - batch_size, count - batch_size + len(words))
    keys, values = (
        torch.cat([seen[name] for name in names if name in seen], dim=1)
        for names in (("add_k_proj", "to_k"), ("add_v_proj", "to_v"))
    )
    together = max(1, ATTENDED // (attention.heads * seen["to_q"].shape[1] * keys.shape[1]))
    parts = []
    for first in range(0, len(rows), together):
        at = slice(rows[first], rows[first] + min(together, len(rows) - first))
        written = written_by(
            attention, seen["to_q"][at], keys[at], values[at], words[first : first + together],
            None if mask is None else mask[at],
        )  # fmt: skip
        parts.append(written.norm(dim=-1).double().mean(dim=1))
    into.append(torch.cat(parts).cpu())
    seen.clear()


def written_by(
    attention: Any,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    words: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the part of an attention's output that some of the tokens that it reads write.

    Summed over all tokens it is the output of the attention before the output's bias.

    Args:
        attention: its module, for heads and output projection.
        queries: ``(n, image tokens, width)``.
        keys: ``(n, tokens, width)``, those of the text in front.
        values: likewise.
        words: ``(n, text tokens)``: which of them.
        mask: ``(n, 1, tokens)`` added to the scores.

    Returns:
        ``(n, image tokens, output width)`` float32.
    """

    def split(made: torch.Tensor) -> torch.Tensor:
        return made.float().reshape(*made.shape[:2], attention.heads, -1).transpose(1, 2)

    query, key, value = split(queries), split(keys), split(values)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask[:, None].float()
    taken = torch.nn.functional.pad(words.to(scores.device), (0, keys.shape[1] - words.shape[1]))
    weights = scores.softmax(dim=-1) * taken[:, None, None]
    mixed = (weights @ value).transpose(1, 2).flatten(2)
    written: torch.Tensor = torch.nn.functional.linear(mixed, attention.to_out[0].weight.float())
    return written
