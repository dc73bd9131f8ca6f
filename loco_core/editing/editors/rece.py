"""RECE: UCE, and then again of the embeddings that would bring the concept back (Gong et al., ECCV 2024).

K and V of all sites are edited as UCE edits them. Then of a text ``c`` of the concept the embedding ``c'`` is derived
that the edited weights ``W`` read as the original ones ``W0`` read ``c``, as well as they can:

``c' = argmin sum ||W c' - W0 c||^2 + 0.001 ||c'||^2 = (sum W^T W + 0.001 I)^-1 (sum W^T W0) c``

with sums over K and V of all sites; and UCE's system maps every ``c'`` to the anchor, from ``W`` on, with a lambda of
0.1. That is one round, as the authors take for styles and objects (three for nudity, which is none of our kinds). The
concept is read as in their code: by UCE from the last token of its name on, later at every position, each with the
anchor's position in its place. The empty text and the names that must read as before stand in both systems at all
positions: of ``n`` texts each weighs ``max(0.1, 1 / n)`` in UCE's, as in its authors' code, and 0.1 later.

What differs from the paper: it is solved in float64, as one map of the text for all projections that read the same.
Where sites read different tensors of a text (DeepFloyd IF norms it at every site), ``c'`` is derived for each site by
itself. The published list of artists to preserve has 1,734 names; here it is the names of the nearest attributes of the
kind, 16 at most. Anchors of objects are their replacements, where the authors take the empty text; of objects that UCE
erases well, they regularize ``c'`` by 0.1. Where the anchor's positions run out, its last one stands for the rest,
which the authors leave out. The UCE that it begins with is not that of ``uce``, which reads the last token, weighs what
is preserved by 1 and does not hold the empty text.

Paired, our variant: prompts with contents stand in place of names, from the last word of what their donors change on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import PLACEBO, EditorInfo, EditSettings, Published, Target
from loco_core.editing.deltas import Change, module_paths, projection

if TYPE_CHECKING:
    import torch

FIRST = 0.5
"""Lambda of UCE, with which it begins."""
RETAINED = 0.1
"""Weight of what must read as before, the least in UCE's system; the concept has 1."""
REGULARIZED = 1e-3
ROUNDS = 1
"""How often the concept is brought back and erased again: once for styles and objects (the authors' README)."""

INFO = EditorInfo(
    settings=(), absolute=True, preserves=("published", "paired"), preserve=16, place="all_sites", baselines=(PLACEBO,),
    published=Published(tokens="tail", strength=0.1),
    fixed_text="embeddings that bring a concept back are derived for what sites read of a text at every step",
    methods="RECE edits K and V of all sites as UCE does, then again of embeddings that would bring the concept back.",
)  # fmt: skip


def edit(model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
    """Fits RECE; see :class:`loco_core.editing.base.Editor`."""
    from loco_core.editing.ridge import Solved, stacked, updated
    from loco_core.editing.token_pairs import read_texts, token_pairs

    paths = module_paths(model, target.sites)
    for path in paths:
        projection(model, path)
    published = settings.targets == "published"
    named = [token_pairs(model, item, settings.tokens, target.sites, published=published) for item in target.concepts]
    whole = named
    if published:
        whole = [token_pairs(model, item, "all", target.sites, published=True) for item in target.concepts]
    kept = read_texts(model, ["", *(record.prompt for record in target.preserve)], target.sites)
    changes: list[Change] = []
    for _, numbers in groupby(range(len(target.sites)), key=lambda number: id(named[0][number])):
        sites = list(numbers)
        mine = [path for number in sites for path in paths[2 * number : 2 * number + 2]]
        gram = sum_of_squares([projection(model, path).weight.detach().double().cpu() for path in mine])
        first, later = (
            stacked([concept[sites[0]] for concept in pairs], published=published) for pairs in (named, whole)
        )
        weight = max(RETAINED, 1 / (1 + len(target.preserve)))
        change = erased(gram, first, later, kept[sites[0]], weight, settings.strength)
        changes += [updated(model, path, Solved(change, settings.strength)) for path in mine]
    return tuple(changes)


def sum_of_squares(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns ``sum W^T W`` of projections that read the same, ``(width, width)`` float64."""
    total = weights[0].T @ weights[0]
    for weight in weights[1:]:
        total += weight.T @ weight
    return total


def erased(
    gram: torch.Tensor,
    named: tuple[torch.Tensor, torch.Tensor],
    whole: tuple[torch.Tensor, torch.Tensor],
    kept: torch.Tensor,
    weight: float,
    strength: float,
) -> torch.Tensor:
    """Returns what times the original weights is their change, ``(width, width)`` float64.

    Args:
        gram: :func:`sum_of_squares` of the original weights.
        named: keys of all concepts, ``(n, width)``, and what UCE maps them to.
        whole: the texts that embeddings are derived from, with what these are mapped to.
        kept: ``(n, width)``, what must read as before.
        weight: of it in UCE's system.
        strength: lambda of the later rounds.

    Raises:
        EditError: a system has no unique solution in float64.
    """
    import torch

    unchanged = torch.eye(len(gram), dtype=gram.dtype)
    change = unchanged + _mapped(*named, weight**0.5 * kept, FIRST)
    texts, anchors = whole
    kept = RETAINED**0.5 * kept
    for _ in range(ROUNDS):
        change = change @ (unchanged + _mapped(derived(gram, change, texts), anchors, kept, strength))
    return change - unchanged


def derived(gram: torch.Tensor, change: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Returns the embeddings that edited weights read as the original ones read texts, ``(n, width)`` float64.

    Args:
        gram: :func:`sum_of_squares` of the original weights ``W0``.
        change: ``(width, width)``, the edited weights are ``W0`` times it.
        texts: ``(n, width)``, embeddings of the texts.
    """
    import torch

    towards = change.T @ gram
    system = towards @ change + REGULARIZED * torch.eye(len(gram), dtype=gram.dtype)
    found: torch.Tensor = torch.linalg.solve(system, towards @ texts.T)
    return found.T


def _mapped(keys: torch.Tensor, anchors: torch.Tensor, kept: torch.Tensor, strength: float) -> torch.Tensor:
    """Returns UCE's update, what times the weights is their change; what is kept comes times the root of its weight."""
    import torch

    from loco_core.editing.ridge import solve

    shift = torch.cat([anchors - keys, torch.zeros_like(kept)])
    return solve(torch.cat([keys, kept]), shift, strength, absolute=True).update
