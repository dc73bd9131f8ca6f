"""An editor: K and V of the sites, made smaller by the strength."""

from __future__ import annotations

import torch

from loco_core.deltas import Change, module_paths, projection
from loco_core.editors import EditSettings, Target
from loco_core.models import LoadedModel


def edit(model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
    """Shrinks whole projections."""
    found = []
    for path in module_paths(model, target.sites):
        weight = projection(model, path).weight.detach().cpu()
        found.append(Change(path, torch.arange(len(weight)), weight / (1 + settings.strength)))
    return tuple(found)
