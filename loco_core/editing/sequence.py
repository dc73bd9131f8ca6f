"""Edits one after the other, each fitted on the weights that the earlier ones left, and all of them as one.

Two edits at one site do not add up: the later one reads what the earlier one wrote, and writes over it. So their order
matters there, and what the earlier one took out may come back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from loco_core.diffusion.model import LoadedModel
from loco_core.errors import EditError

if TYPE_CHECKING:
    import torch

    from loco_core.editing.deltas import Change, Provenance, WeightDelta


def fit_after(model: LoadedModel, before: WeightDelta | None, fit: Callable[[], WeightDelta]) -> WeightDelta:
    """Fits an edit on the weights that earlier ones left.

    Args:
        model: a loaded model, as it is without any edit, and as it will be again.
        before: the earlier edits as one; None where there is none.
        fit: fits the edit on the model as it is then.

    Returns:
        all of them as one edit of the model as it is.

    Raises:
        EditError: the two cannot be put into one, see `one_after_the_other`.
    """
    if before is None:
        return fit()
    with left_by(model, before):
        then = fit()
    return one_after_the_other(model, before, then)


@contextmanager
def left_by(model: LoadedModel, delta: WeightDelta) -> Iterator[None]:
    """Gives a model the weights that an edit leaves, for the time of a ``with`` block.

    What is held in one half of guidance is no weight, and left out: where prompts are read to fit an edit there are no
    halves.
    """
    from loco_core.editing.deltas import WeightDelta, applied

    kept = tuple(replace(change, conditional=None) for change in delta.changes)
    with applied(model, WeightDelta(delta.provenance, kept), None):
        yield


def one_after_the_other(model: LoadedModel, first: WeightDelta, then: WeightDelta) -> WeightDelta:
    """Returns two edits as one: the rows of the later one over those of the earlier one.

    Args:
        model: the model without either of them.
        first: the earlier edit.
        then: the one that was fitted after it.

    Raises:
        EditError: both change one projection, and one holds outputs where the other changes weights alone.
    """
    from loco_core.editing.deltas import WeightDelta

    found = {(change.component, change.module): change for change in first.changes}
    for change in then.changes:
        at = change.component, change.module
        found[at] = _over(model, found[at], change) if at in found else change
    return WeightDelta(_provenance(first.provenance, then.provenance), tuple(found.values()))


def _over(model: LoadedModel, first: Change, then: Change) -> Change:
    import torch

    from loco_core.editing.deltas import PARTS, Change, changed_projection

    rows = torch.tensor(sorted({*first.rows.tolist(), *then.rows.tolist()}))
    module, parts = changed_projection(model, then), dict[str, torch.Tensor | None]()
    for part in PARTS:
        old, new = getattr(first, part), getattr(then, part)
        if old is None and new is None:
            parts[part] = None
            continue
        held = {"weight": module.weight, "bias": module.bias}.get(part)
        given = [(change.rows, value) for change, value in ((first, old), (then, new)) if value is not None]
        parts[part] = _filled(rows, given, held, f"{then.module}: the later edit")
    covered = len(rows) == len(then.rows)
    return Change(
        then.module, rows, component=then.component, ridge=then.ridge if covered or first.ridge == then.ridge else None,
        **parts,
    )  # fmt: skip


def _filled(
    rows: torch.Tensor, given: list[tuple[torch.Tensor, torch.Tensor]], held: torch.Tensor | None, what: str
) -> torch.Tensor:
    """Returns values of all rows: the last that are given, else those that the model holds."""
    import torch

    lacking = set(rows.tolist()) - {row for mine, _ in given for row in mine.tolist()}
    if lacking and held is None:
        raise EditError(f"{what} changes weights where the earlier one holds outputs, or the reverse; no one edit can")
    example = given[0][1]
    found = torch.zeros(len(rows), *example.shape[1:], dtype=example.dtype)
    if held is not None:
        found[:] = held.detach().cpu()[rows]
    for mine, values in given:
        found[torch.searchsorted(rows, mine)] = values
    return found


def _provenance(first: Provenance, then: Provenance) -> Provenance:
    earlier = json.loads(first.settings)
    before = [*earlier.pop("earlier", ()), earlier]
    return replace(
        then,
        sites=tuple(sorted({*first.sites, *then.sites})),
        attributes=(*first.attributes, *then.attributes),
        components=tuple(dict.fromkeys((*first.components, *then.components))),
        prompts=(*first.prompts, *then.prompts),
        settings=json.dumps({**json.loads(then.settings), "earlier": before}, sort_keys=True),
    )
