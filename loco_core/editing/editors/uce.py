"""UCE: the closed-form edit of K and V at all sites (Gandikota et al., WACV 2024, eq. 7), which needs no localization.

``W = (lambda W0 + sum v* c^T + sum W0 c c^T) (lambda I + sum c c^T + sum c c^T)^-1`` with ``v* = W0 c'``: the first
sums run over the concepts to edit, with ``c'`` of the guide, the second ones over those to preserve; both weights
(alpha, beta) are 1 and lambda is an absolute 0.5. It is LocoEdit's system at all sites, one token a text.

As published: a concept is read at the last token of its bare name, its guide and what is preserved likewise.
Paired, our variant: prompts with contents stand in place of names, read at the last word of what their donors change.
"""

from __future__ import annotations

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import PLACEBO, EditorInfo, EditSettings, Published, Target
from loco_core.editing.deltas import Change

INFO = EditorInfo(
    settings=(), absolute=True, preserves=("published", "paired"), place="all_sites", baselines=(PLACEBO,),
    published=Published(tokens="last_subject", strength=0.5),
)  # fmt: skip


def edit(model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
    """Fits UCE; see :class:`loco_core.editing.base.Editor`."""
    from loco_core.editing.ridge import edit_sites
    from loco_core.editing.token_pairs import read_last, read_subjects

    kept = None
    if target.preserve and settings.targets == "published":
        kept = read_last(model, [record.prompt for record in target.preserve], target.sites)
    elif target.preserve:
        kept = read_subjects(model, target.preserve, target.sites)
    return edit_sites(model, target, settings, kept, absolute=True)
