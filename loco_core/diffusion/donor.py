"""Another model as donor: its K and V projections of the sites, which rows read their own text through.

With the model before training as donor of the model after it, a swap at some sites undoes what was learned there and
nowhere else; the other way round it brings that into a model that never learned it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loco_core import plugins
from loco_core.diffusion.facts import FamilyInfo
from loco_core.errors import ModelError
from loco_core.types import Extras, Site

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Donor:
    """Where the other model is.

    Attributes:
        family: key of its family, or its file.
        path: a folder, a hub id, or a checkpoint in one file.
        revision: the hub's commit, of a single file that of its configuration; None for a folder.
        extras: what it is loaded with beside its path.
    """

    family: str
    path: str
    revision: str | None = None
    extras: Extras = field(default_factory=Extras)


def donor_projections(
    donor: Donor, sites: Sequence[Site], denoiser: torch.nn.Module, facts: FamilyInfo, dtype: str
) -> dict[str, torch.nn.Module]:
    """Returns the donor's K and V projections of a model's sites by their paths; the rest of the donor is let go.

    Args:
        donor: the other model.
        sites: sites of the model.
        denoiser: the model's own, to whose shapes the donor's must be equal.
        facts: facts of the model's family.
        dtype: dtype of the model's weights, which the donor's are taken to.

    Raises:
        ModelError: the donor cannot be loaded, or has other projections; or text and image attend to each other in
            this family.
    """
    from loco_core.diffusion.engine import device_of
    from loco_core.diffusion.single_files import identify, is_single_file

    if facts.stream != "fixed":
        raise ModelError(no_donor(donor.path))
    module, extras = plugins.load("families", donor.family), donor.extras
    if is_single_file(donor.path):
        parts = identify(donor.path, {donor.family: module.INFO.layouts}).parts
        extras = Extras(extras.config, extras.variant, extras.loras, (), parts)
    family = module.Family()
    other = family.denoiser(family.load(donor.path, donor.revision, dtype, None, extras))
    found: dict[str, torch.nn.Module] = {}
    for path in dict.fromkeys(path for site in sites for path in (site.key_path, site.value_path)):
        own = _shape(denoiser.get_submodule(path))
        try:
            projection = other.get_submodule(path)
        except AttributeError:
            raise ModelError(f"the donor {donor.path} has no {path}; expected the same sites as the model") from None
        if (theirs := _shape(projection)) != own:
            raise ModelError(
                f"{path} is of shape {theirs} in the donor {donor.path}, and of {own} in the model; expected the same"
            )
        # A copy, as weights of a file in the dtype that is asked for stay on the disk until somebody looks at them.
        found[path] = copy.deepcopy(projection).requires_grad_(False).to(device_of(denoiser))
    return found


def no_donor(path: str) -> str:
    """Says why a model in which text and image attend to each other has no donor."""
    return (
        f"no other model can be the donor where text and image attend to each other: K and V of the text follow from "
        f"all layers before; expected none, not {path}"
    )


def _shape(module: torch.nn.Module) -> str:
    parts = (f"{'x'.join(map(str, value.shape))} ({name})" for name, value in module.named_parameters())
    return " and ".join(parts)
