"""Which weights a model of a sweep is loaded from: a known model, a folder, a hub id, or one file. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loco_core.diffusion.checkpoints import family_of_index, lender, lent, named_class
from loco_core.diffusion.checks import Place, Weights
from loco_core.diffusion.facts import find_model, left_out
from loco_core.diffusion.folders import INDEX
from loco_core.diffusion.hub import cached_folder, pipeline_needs
from loco_core.diffusion.weights import read_json
from loco_core.types import Extras
from orchestrator.resolve.resolved import ResolvedDonor, ResolvedModel
from orchestrator.spec import ModelSpec


@dataclass(frozen=True)
class Checkpoint:
    """Where the weights of a model are.

    Attributes:
        path: folder, hub id, or file.
        revision: revision on the hub that the sweep asks for, of a single file that of its configuration.
        extras: what it is loaded with beside its path.
        family: key of its family.
        index: index of its pipeline.
        seconds: cost of an image that its family says of it; 0 where it does not know it.
    """

    path: str
    revision: str | None
    extras: Extras
    family: str
    index: Mapping[str, Any]
    seconds: float = 0.0

    @property
    def described_in(self) -> str:
        """Folder or hub id of its index and its configurations."""
        return self.extras.config if self.extras.parts else self.path


def checkpoint(spec: ModelSpec) -> Checkpoint:
    """Looks up where the weights of a model are, and of which family they are.

    Raises:
        SpecError: no model has this name.
        ModelError: it is none of a known family, or a single file has no configuration.
    """
    if spec.path is None:
        family, known = find_model(spec.id)
        path, revision = str(known.path or known.hub_id), spec.revision or known.revision
        index = read_json(path, revision, INDEX)
        # Refuses an index that names no class.
        named_class(index, path)
        return Checkpoint(path, revision, spec.extras, family, index, known.seconds_per_image)
    if spec.is_single_file:
        found = lent(spec.path, spec.revision, spec.extras)
        index = read_json(found.extras.config, found.revision, INDEX)
        return Checkpoint(spec.path, found.revision, found.extras, found.family, index)
    index = read_json(spec.path, spec.revision, INDEX)
    return Checkpoint(spec.path, spec.revision, spec.extras, family_of_index(index, spec.path), index)


def described_in(spec: ModelSpec) -> str:
    """Returns the folder or hub id of a model's configurations, without asking the hub; empty where nobody says it.

    Raises:
        SpecError: no model has this name.
        ModelError: a single file is none of a known family.
    """
    if spec.path is None:
        known = find_model(spec.id)[1]
        return str(known.path or known.hub_id)
    return lender(spec.path, spec.config or "") if spec.is_single_file else spec.path


def looked_at(model: ResolvedModel | ResolvedDonor, place: Place) -> tuple[Weights, ...]:
    """Returns what is to be looked at of a model's weights; nothing of a hub model that is not on this machine.

    Args:
        model: the model, or the donor of one.
        place: where the sweep names it.
    """
    without, extras = left_out(model.family), model.extras
    folder = cached_folder(model.described_in, model.revision, INDEX)
    whole = pipeline_needs(without, extras.variant, extras.parts).is_whole
    on_hub = folder is not None and not Path(model.described_in).is_dir()
    if folder is None or (on_hub and not whole(folder, True)):
        return ()
    file = model.path if extras.parts else None
    return (Weights(str(folder), model.weights, tuple(sorted(without)), place, file, extras),)
