"""DiffQuickFix: the closed-form edit of the CLIP text encoder's first self-attention (Basu et al., ICLR 2024).

The output projection of layer 0 is fitted as LocoEdit fits K and V, with an absolute lambda of 0.01: its inputs at the
last word of the attribute, at the end of the text and at all padding after it are to come out as those of the donors
do. It changes what the denoiser is given, and leaves the denoiser alone. Models with two CLIP encoders are edited in
both, each by itself.

As published: four short texts ("X", "A photo of X", ..) are read from their last token on, and the weights alone are to
give what the module gives of the anchors, its bias included. The bias stays, so that it is counted twice.
Paired, our variant: prompts with contents stand in place of these texts, and the bias cancels.
"""

from __future__ import annotations

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import PLACEBO, EditorInfo, EditSettings, Published, Target
from loco_core.editing.deltas import Change, component
from loco_core.errors import EditError

INFO = EditorInfo(
    settings=(), absolute=True, preserves=(), place="text_encoder", baselines=(PLACEBO,),
    published=Published(tokens="tail", strength=0.01),
)  # fmt: skip
# Some encoders hold their layers in `text_model`, some do not.
PROJECTION = "encoder.layers.0.self_attn.out_proj"


def edit(model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
    """Fits DiffQuickFix; see :class:`loco_core.editing.base.Editor`."""
    from loco_core.editing.ridge import edit_module
    from loco_core.editing.token_pairs import encoder_pairs

    if not model.facts.clip_encoders:
        raise EditError(
            f"diff_quick_fix edits the CLIP text encoder that cross-attention reads; this model reads "
            f"{model.facts.encoders}"
        )
    changes, published = [], settings.targets == "published"
    for where in model.facts.clip_encoders:
        path = _path(model, where)
        pairs = [
            encoder_pairs(model, concept, settings.tokens, where, path, published=published)
            for concept in target.concepts
        ]
        changes.append(edit_module(model, pairs, settings.strength, path, where, bias_again=published))
    return tuple(changes)


def _path(model: LoadedModel, where: str) -> str:
    for name, _ in component(model, where).named_modules():
        if name.endswith(PROJECTION):
            return str(name)
    raise EditError(f"{where} has no {PROJECTION}; diff_quick_fix edits CLIP text encoders")
