"""LocoEdit: the closed-form edit of K and V at the localized sites (Basu et al., ICML 2024, section 5, eq. 7).

As published: the keys are the last tokens of a few texts without contents ("a painting in the style of X"), every one
is to read as the last token of one anchor ("a painting"), lambda is an absolute 0.01, and nothing is preserved.

Paired, our variant: prompts with contents are paired word by word with their donors, lambda is a share of the mean
squared norm of the keys, so that it means the same in every model, and prompts of other attributes may be given that
are to read as before, at all positions. Measured on the bundled planted model: with the styles beside it preserved, an
edit of a style spoils none of them at strengths at which it spoils most without.
"""

from __future__ import annotations

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import EditorInfo, EditSettings, Published, Target
from loco_core.editing.deltas import Change

INFO = EditorInfo(published=Published(tokens="last_subject", strength=0.01))


def edit(model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
    """Fits LocoEdit; see :class:`loco_core.editing.base.Editor`."""
    from loco_core.editing.ridge import edit_sites
    from loco_core.editing.token_pairs import read_texts

    if settings.targets == "published":
        return edit_sites(model, target, settings, None, absolute=True)
    prompts = [record.prompt for record in target.preserve]
    return edit_sites(model, target, settings, read_texts(model, prompts, target.sites) if prompts else None)
