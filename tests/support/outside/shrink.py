"""An editor: K and V of the sites, made smaller by the strength; held against the same made larger."""

from __future__ import annotations

from dataclasses import replace

import torch

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import ALL_SITES, LAMBDA, PLACEBO, TOKENS, Baseline, EditorInfo, EditSettings, Target
from loco_core.editing.deltas import Change, WeightDelta, module_paths, projection


def edit(model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
    """Shrinks whole projections."""
    found = []
    for path in module_paths(model, target.sites):
        weight = projection(model, path).weight.detach().cpu()
        found.append(Change(path, torch.arange(len(weight)), weight / (1 + settings.strength)))
    return tuple(found)


def grown(model: LoadedModel, target: Target, settings: EditSettings, delta: WeightDelta, seed: int) -> WeightDelta:
    """Grows them."""
    changes = (replace(change, weight=change.weight * (1 + settings.strength) ** 2) for change in delta.changes)
    return replace(delta, changes=tuple(changes))


INFO = EditorInfo(
    settings=(replace(TOKENS, values=("all",)), replace(LAMBDA, values=(0.1, 1.0))),
    baselines=(ALL_SITES, PLACEBO, Baseline("grown", "the same made larger", "grown", make=grown)),
    preserves=(),
)
