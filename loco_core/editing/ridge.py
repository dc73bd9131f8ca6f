"""Closed-form edits of linear projections: the ridge regression that LocoEdit, UCE and DiffQuickFix have in common.

``W = argmin ||C W^T - D W0^T||^2 + lambda ||W - W0||^2`` with keys ``C`` (positions of prompts with the attribute) and
``D`` (positions of their donors). Its solution is ``W = W0 + W0 (D - C)^T (C C^T + lambda I)^-1 C``: one system for
all projections that read the same, of the number of keys or of the width of what they read, whichever is smaller.
Biases cancel. It is solved in float64: the usual form in float32, with an inverse of the size of the text's width, is
wrong by 12 to 23 % of the edit at lambda 0.01. What is to read as before stands among the keys as its own donor.

Of several concepts the published sums run over concepts: UCE, SPEED and RECE have as many texts of each, and MEMIT
(Meng et al., ICLR 2023) has one mean key of each. So every concept counts the same there, and so it does here, see
:func:`stacked`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import EditSettings, Target
from loco_core.editing.deltas import DENOISER, Change, module_paths, projection
from loco_core.editing.token_pairs import TokenPairs, token_pairs
from loco_core.errors import EditError

RESIDUAL = 1e-6


@dataclass(frozen=True)
class Solved:
    """A system solved.

    Attributes:
        update: what times the weights is their change.
        ridge: the lambda that stands in the equation, absolute.
    """

    update: torch.Tensor
    ridge: float


def edit_sites(
    model: LoadedModel,
    target: Target,
    settings: EditSettings,
    kept: Sequence[torch.Tensor] | None,
    *,
    absolute: bool = False,
) -> tuple[Change, ...]:
    """Fits K and V of the text at the target's sites.

    Args:
        model: a loaded model.
        target: what is edited, and where.
        settings: which positions, and lambda.
        kept: what each site reads of the prompts that must read as before, ``(n, text width)``; None where there are
            none.
        absolute: see :func:`solve`.

    Raises:
        EditError: see :class:`loco_core.editing.base.Editor`.
    """
    paths = module_paths(model, target.sites)
    # Before anything is computed: all of them must admit an edit.
    for path in paths:
        projection(model, path)
    published = settings.targets == "published"
    concepts = [
        token_pairs(model, concept, settings.tokens, target.sites, published=published) for concept in target.concepts
    ]
    changes, solved = [], dict[int, Solved]()
    for number in range(len(target.sites)):
        pairs = [sites[number] for sites in concepts]
        if id(pairs[0]) not in solved:
            keys, donors = stacked(pairs, published=published)
            if kept:
                keys, donors = torch.cat([keys, kept[number]]), torch.cat([donors, kept[number]])
            solved[id(pairs[0])] = solve(keys, donors - keys, settings.strength, absolute=absolute)
        changes += [updated(model, path, solved[id(pairs[0])]) for path in paths[2 * number : 2 * number + 2]]
    return tuple(changes)


def edit_module(
    model: LoadedModel,
    pairs: Sequence[TokenPairs],
    strength: float,
    path: str,
    component: str,
    *,
    bias_again: bool = False,
) -> Change:
    """Fits one projection of a component, with an absolute lambda.

    Args:
        model: a loaded model.
        pairs: of each concept, what the projection reads.
        strength: lambda.
        path: of the projection inside its component.
        component: name of the component.
        bias_again: whether the weights are to give the donors' whole outputs, bias included, though the bias stays.

    Raises:
        EditError: the system has no unique solution in float64.
    """
    # Where a bias is among the outputs, texts are as published.
    keys, donors = stacked(pairs, published=bias_again)
    shift = donors - keys
    if bias_again:
        # An input more, always 1, whose weight is the bias.
        shift = torch.cat([shift, torch.ones(len(shift), 1, dtype=shift.dtype)], 1)
    return updated(model, path, solve(keys, shift, strength, absolute=True), component)


def updated(model: LoadedModel, path: str, solved: Solved, component: str = DENOISER) -> Change:
    """Returns all rows of a projection, changed by a solution of :func:`solve`."""
    module = projection(model, path, component)
    before = module.weight.detach().double().cpu()
    if len(solved.update) > before.shape[1]:
        bias = torch.zeros(len(before)) if module.bias is None else module.bias.detach()
        weight = before + torch.cat([before, bias.double().cpu()[:, None]], 1) @ solved.update
    else:
        weight = before + before @ solved.update
    rows = torch.arange(module.out_features)
    return Change(path, rows, weight.to(module.weight.dtype), component=component, ridge=solved.ridge)


def solve(keys: torch.Tensor, shift: torch.Tensor, strength: float, *, absolute: bool = False) -> Solved:
    """Returns ``S^T (C C^T + lambda I)^-1 C``, of as many rows as ``S`` has columns.

    Args:
        keys: ``C``, ``(n, width)`` float64.
        shift: ``S``, ``(n, m)``: how what is read is to move, ``D - C``.
        strength: lambda.
        absolute: whether it is lambda itself, or a share of ``trace(C C^T) / n``.

    Raises:
        EditError: the system has no unique solution in float64.
    """
    ridge = strength if absolute else strength * float(keys.square().sum(1).mean())
    # Of (C C^T + a I)^-1 C = C (C^T C + a I)^-1 the smaller system: n keys, or the width of what is read.
    dual = len(keys) <= keys.shape[1]
    gram, right = (keys @ keys.T, keys) if dual else (keys.T @ keys, keys.T @ shift)
    system = gram + ridge * torch.eye(len(gram), dtype=keys.dtype)
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info) == 0:
        solved = torch.cholesky_solve(right, factor)
        residual = float((system @ solved - right).norm() / keys.norm())
        if residual < RESIDUAL:
            return Solved(shift.T @ solved if dual else solved.T, ridge)
    raise EditError(f"the system of {len(keys)} keys is singular at lambda {strength:g}; take a larger lambda")


def stacked(pairs: Sequence[TokenPairs], *, published: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the keys and the donors of several concepts, each behind one another, ``(n, width)``.

    Paired prompts of one concept may be four times as many as those of another. A concept of ``n`` keys has them times
    the root of ``m / n``, with ``m`` the mean number of keys of a concept: the squares of all concepts weigh the same
    then, and those of all of them together what they did. One concept, or several of as many keys, stay as they are.

    Args:
        pairs: of each concept.
        published: whether they are of published texts: there every key counts once, as in the authors' sums.
    """
    keys, donors = torch.cat([item.keys for item in pairs]), torch.cat([item.donors for item in pairs])
    counts = [len(item.keys) for item in pairs]
    if published or len(set(counts)) == 1:
        return keys, donors
    numbers = torch.tensor(counts, dtype=keys.dtype)
    roots = (numbers.mean() / numbers).sqrt().repeat_interleave(torch.tensor(counts))[:, None]
    return keys * roots, donors * roots
