"""How an attribute's prompts are split, so that an edit is never measured on what it was fitted or chosen on.

``fit``, ``select`` and ``report`` share no content text. The latter two share none with ``localize`` (the sweep's own)
either, where the sweep leaves contents enough: see `contents_were_swept`. The paraphrases of ``report`` share no
template with ``fit``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from loco_core.errors import SpecError
from loco_core.types import Attribute, PromptRecord

Split = Literal["localize", "fit", "select", "report"]
LEAST_CONTENTS = 3
"""Content texts that an attribute needs, so that fit, select and report have one each."""


def splits(attribute: Attribute, localized_on: int) -> dict[Split, tuple[PromptRecord, ...]]:
    """Splits an attribute's records by content, and what is fitted from what paraphrases by template.

    Args:
        attribute: the attribute.
        localized_on: how many of its records the sweep takes.

    Returns:
        records by split. ``report`` holds target prompts (templates of ``fit``) and paraphrases (other templates).

    Raises:
        SpecError: a split would be empty.
    """
    used, rest = attribute.records[:localized_on], attribute.records[localized_on:]
    seen = dict.fromkeys(record.content_text for record in used)
    unseen = [text for text in dict.fromkeys(record.content_text for record in rest) if text not in seen]
    if len(unseen) >= LEAST_CONTENTS - 1:
        fit, held = list(seen), unseen
    else:
        every = list(dict.fromkeys(record.content_text for record in attribute.records))
        if len(every) < LEAST_CONTENTS:
            raise SpecError(
                f"{attribute.key}: to measure edits its records need {LEAST_CONTENTS} different content texts or more; "
                f"it has {len(every)}"
            )
        third = math.ceil(len(every) / 3)
        fit, held = every[:third], every[third:]
    half = max(1, len(held) // 2)
    select, report = held[:half], held[half:]
    familiar = fit_templates(attribute)

    def taken(records: Sequence[PromptRecord], contents: Sequence[str]) -> tuple[PromptRecord, ...]:
        return tuple(record for record in records if record.content_text in contents)

    known = tuple(record for record in attribute.records if record.template_id in familiar)
    for contents in (fit, select, report):
        if not taken(known, contents):
            raise SpecError(
                f"{attribute.key}: to measure edits its records need the template {' or '.join(sorted(familiar))!r} "
                f"with one of the contents {', '.join(map(repr, contents))}, too; all that is fitted on has it"
            )
    return {
        "localize": used,
        "fit": taken(known, fit),
        "select": taken(known, select),
        "report": taken(attribute.records, report),
    }


def contents_were_swept(attribute: Attribute, localized_on: int) -> bool:
    """Tells whether edits are measured on contents that the attribute was localized on, as the sweep takes all.

    Args:
        attribute: the attribute.
        localized_on: how many of its records the sweep takes.
    """
    found = splits(attribute, localized_on)
    swept = {record.content_text for record in found["localize"]}
    return any(record.content_text in swept for record in found["report"])


def fit_templates(attribute: Attribute) -> frozenset[str]:
    """Returns the first half of an attribute's templates; the others are paraphrases."""
    templates = sorted({record.template_id for record in attribute.records})
    return frozenset(templates[: max(1, math.ceil(len(templates) / 2))])
