"""Does a model know an attribute, as a scorer sees it? A few pictures of the prompt against those of its donor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from loco_core.checking.certificate import AttributeMargin, Check
from loco_core.diffusion.generate import generate, of_one_colour
from loco_core.diffusion.model import LoadedModel
from loco_core.scoring.base import Scorer
from loco_core.statistics import wilson
from loco_core.types import Attribute, Generation, Row

PROMPTS = 2


def margin_of(
    model: LoadedModel,
    scorer: Scorer,
    attribute: Attribute,
    seeds: Sequence[int],
    settings: Generation,
    batch_size: int,
) -> AttributeMargin | None:
    """Draws an attribute's first prompts and their donors from the same noise, and scores both.

    Args:
        model: a loaded model.
        scorer: what compares pictures with texts.
        attribute: what is to be known.
        seeds: seeds of the noise.
        settings: settings of the pictures.
        batch_size: rows per batch.

    Returns:
        what was seen; None where a picture is broken.
    """
    pairs = [(record, seed) for record in attribute.records[:PROMPTS] for seed in seeds]
    rows = [Row(text, text, seed) for record, seed in pairs for text in (record.prompt, record.donor)]
    images = torch.cat([found.images for found in generate(model, rows, settings, batch_size)])
    if bool(of_one_colour(images).any()):
        return None
    embeddings = scorer.embed_images(images)
    margins = []
    for number, (record, _) in enumerate(pairs):
        own, donor = scorer.score(embeddings[2 * number : 2 * number + 2], [record.score_text])[:, 0]
        margins.append(float(own - donor))
    closer = sum(margin > 0 for margin in margins)
    low, high = wilson(closer, len(margins))
    return AttributeMargin(attribute.key, len(pairs), closer, sum(margins) / len(margins), low, high)


def in_words(found: Sequence[AttributeMargin]) -> Check:
    """Says what margins tell, and what they do not."""
    parts = [
        f"{each.attribute}: {each.closer} of {each.pairs} closer to the score text than the donor's picture "
        f"({each.low:.0%} to {each.high:.0%} of such pairs), mean margin {each.margin:+.3f}"
        for each in found
    ]
    unknown = [each.attribute for each in found if 2 * each.closer <= each.pairs]
    doubt = f"; nothing here shows that the model knows {', '.join(unknown)}" if unknown else ""
    few = "; a few pictures of two prompts tell little: 95 % intervals, for these prompts"
    return Check("margin", "measured", "; ".join(parts) + doubt + few)
