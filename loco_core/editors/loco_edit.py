"""LocoEdit: the closed-form edit of K and V at the localized sites (Basu et al., ICML 2024, section 5, eq. 7).

Lambda is a share of the mean squared norm of the keys, so that it means the same in every model; the paper's is
absolute. Prompts that are to read as before are read at all positions. Measured on the bundled planted model: with the
styles beside it preserved, an edit of a style spoils none of them at strengths at which it spoils most without.
"""

from __future__ import annotations

from loco_core.deltas import Change
from loco_core.editors import EditSettings, Target
from loco_core.models import LoadedModel
from loco_core.ridge import edit_sites
from loco_core.token_pairs import read_texts


def edit(model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
    """Fits LocoEdit; see :class:`loco_core.editors.Editor`."""
    prompts = [record.prompt for record in target.preserve]
    return edit_sites(model, target, settings, read_texts(model, prompts, target.sites) if prompts else None)
