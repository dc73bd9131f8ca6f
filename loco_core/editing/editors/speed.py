"""SPEED: the closed-form edit of V at all sites that leaves retained texts alone (Li et al., ICLR 2026).

The update ``D`` of a weight ``W`` minimizes ``||(W + D) C1 - W C*||^2 + lambda ||D||^2`` (eq. 3) among those with
``D C0 = 0`` and ``D C2 = 0`` (eq. 10): ``C1`` are the concepts to erase, ``C*`` their anchors, ``C0`` what is retained,
``C2`` what no prompt changes. What is retained is refined for every projection by itself (section 4):

- *Influence-based prior filtering*. Of the texts that must read as before those stay that an update by ``C1`` and
  ``C*`` alone would move by the mean of all of them or more. ``retain: all`` keeps all of them, as the authors do where
  there are few (100 celebrities).
- *Directed prior augmentation*. Beside each stand ten copies with noise along the direction that ``W`` shortens most,
  filtered likewise.
- *Invariant equality constraints*. ``C2`` is the first position of the empty text (with CLIP the start token) and three
  k-means centroids of its other positions.

Directions in which the mean of ``c0 c0^T`` is below 0.1 count as free, as published for few concepts. With as few texts
as a sweep preserves, hardly any is: their outputs stay what they were up to rounding.

What differs from the paper: it is solved in the complement of ``C0`` and ``C2`` in float64, instead of by inverses of
the text's width; the noise has a fixed seed. The published retain sets are lists of 1,734 artists and 1,352 characters;
here it is the names of the nearest attributes of the kind, 16 at most. Anchors of objects and facts are their
replacements, where the authors take the empty text for characters.

Paired, our variant: prompts with contents stand in place of names, read at the last word of what their donors change,
and 0.1 is taken relative to the norms of a layer norm of gain 1 (the width in squares, 768 in Stable Diffusion 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import PLACEBO, EditorInfo, EditSettings, Published, Retain, Target
from loco_core.editing.deltas import Change, module_paths, projection
from loco_core.errors import EditError

if TYPE_CHECKING:
    import torch

NULL = 0.1
"""Mean square along a direction below which it counts as free, where retained texts have the squared norm `NORM`."""
NORM = 768.0
AUGMENTED = 10
"""Copies with noise of every retained text."""
CENTROIDS = 3
SEED = 0
TINY = 1e-10

INFO = EditorInfo(
    settings=(), options=("retain",), absolute=True, preserves=("published", "paired"), preserve=16, place="all_sites",
    baselines=(PLACEBO,), published=Published(tokens="last_subject", strength=1.0),
    fixed_text="the outputs of retained texts are kept for what sites read of them at every step",
    methods="SPEED changes the values of all sites in the directions that retained texts leave free.",
)  # fmt: skip


def edit(model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
    """Fits SPEED; see :class:`loco_core.editing.base.Editor`.

    Raises:
        EditError: see there; or what is retained leaves no direction free.
    """
    from loco_core.editing.ridge import solve, stacked, updated
    from loco_core.editing.token_pairs import read_last, read_subjects, read_texts, token_pairs

    paths = module_paths(model, target.sites)[1::2]
    for path in paths:
        projection(model, path)
    published = settings.targets == "published"
    read = [token_pairs(model, item, settings.tokens, target.sites, published=published) for item in target.concepts]
    empty = read_texts(model, [""], target.sites)
    kept: Sequence[torch.Tensor] = [item[:0] for item in empty]
    if target.preserve and published:
        kept = read_last(model, [record.prompt for record in target.preserve], target.sites)
    elif target.preserve:
        kept = read_subjects(model, target.preserve, target.sites)
    changes = []
    for number, path in enumerate(paths):
        keys, donors = stacked([sites[number] for sites in read], published=published)
        weight, shift = projection(model, path).weight.detach().double().cpu(), donors - keys
        # The published sums over concepts are means, so that the lambda grows with their number.
        erased = weight @ solve(keys, shift, float(len(keys)), absolute=True).update
        retained = refined(kept[number], weight, erased, settings.retain)
        norms = NORM if published or not len(retained) else float(retained.square().sum(1).mean())
        held = span(retained, invariants(empty[number]), NULL * norms / NORM)
        free = keys - keys @ held.T @ held
        if float(free.norm()) <= TINY * float(keys.norm()):
            raise EditError(
                f"what {len(kept[number])} retained texts read at {path} leaves no direction free in which the concept "
                "could change; preserve fewer attributes"
            )
        changes.append(updated(model, path, solve(free, shift, settings.strength * len(keys), absolute=True)))
    return tuple(changes)


def refined(kept: torch.Tensor, weight: torch.Tensor, erased: torch.Tensor, retain: Retain) -> torch.Tensor:
    """Returns what a projection retains: texts that an edit would move, and copies of them with directed noise.

    Args:
        kept: ``(n, width)`` float64, what is read of the texts that must read as before.
        weight: ``(out, width)`` float64, of the projection.
        erased: ``(out, width)`` float64, the update that retains nothing.
        retain: whether all of the texts are retained, or those that it moves by the mean or more.
    """
    import torch

    if not len(kept):
        return kept
    found = kept if retain == "all" else _moved(kept, erased)
    # Of width coordinates with standard normal noise this is the one along the least singular vector.
    least = torch.linalg.svd(weight, full_matrices=False)[2][-1]
    noise = torch.randn(AUGMENTED * len(found), 1, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    return torch.cat([found, _moved(found.repeat(AUGMENTED, 1) + noise * least, erased)])


def _moved(texts: torch.Tensor, erased: torch.Tensor) -> torch.Tensor:
    """Returns the texts whose outputs an update moves by the mean of all of them or more."""
    shifts = (texts @ erased.T).norm(dim=1)
    # Of equal ones rounding must not leave none.
    return texts[shifts >= (1 - TINY) * shifts.mean()]


def invariants(empty: torch.Tensor) -> torch.Tensor:
    """Returns what no prompt changes: the first position of the empty text, and centroids of the others.

    Args:
        empty: ``(positions, width)`` float64, what is read of the empty text.
    """
    import torch

    first, others = empty[:1], torch.unique(empty[1:], dim=0)
    if len(others) > CENTROIDS:
        from scipy.cluster.vq import kmeans2

        centroids, _ = kmeans2(others.numpy(), CENTROIDS, minit="++", rng=SEED)
        others = torch.from_numpy(centroids)
    return torch.cat([first, others])


def span(retained: torch.Tensor, fixed: torch.Tensor, least: float) -> torch.Tensor:
    """Returns an orthonormal basis of what an update must not touch, ``(r, width)``.

    Args:
        retained: ``(n, width)`` float64.
        fixed: ``(m, width)`` float64; directions of it count however short.
        least: mean square of the retained texts along a direction, from which on it counts.
    """
    import torch

    basis = fixed[:0]
    if len(retained):
        _, sizes, directions = torch.linalg.svd(retained / len(retained) ** 0.5, full_matrices=False)
        basis = directions[sizes.square() >= least]
    rest = fixed - fixed @ basis.T @ basis
    _, sizes, directions = torch.linalg.svd(rest, full_matrices=False)
    return torch.cat([basis, directions[sizes > TINY * float(fixed.norm())]])
