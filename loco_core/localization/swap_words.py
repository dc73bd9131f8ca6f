"""What swapped sites read, in the words of outcomes and reports. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from loco_core.types import Source


@dataclass(frozen=True)
class SwapWords:
    """Parts of sentences about a swap.

    Attributes:
        whole: what has the full effect, as the subject of a sentence.
        reads: what a swapped site reads, after "reads".
        picture: the picture that shows the full effect.
        under: where that picture is drawn, after "the drop" or "as much as".
    """

    whole: str
    reads: str
    picture: str
    under: str


DONOR_PROMPT = SwapWords(
    "the donor prompt",
    "a donor prompt in place of the prompt",
    "the image of the donor prompt",
    "under the donor prompt",
)
DONOR_MODEL = SwapWords(
    "the donor model at all sites",
    "the picture's own prompt through K and V of the donor model",
    "the image with all sites of the donor model",
    "with K and V of the donor model at all sites",
)


def swap_words(source: Source) -> SwapWords:
    """Returns how to speak of a swap.

    Args:
        source: what a swapped site reads, see `loco_core.types.Intervention`; with ``weights`` the donor prompt is
            not drawn.
    """
    return DONOR_MODEL if source == "weights" else DONOR_PROMPT
