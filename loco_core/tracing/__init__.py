"""What is observed while a model draws, beside what swapping windows changes: the methods, and which models admit them.

A localizer's file says with ``READS`` what it reads: ``scores`` of swapped windows, or traces of one of these methods.
"""

from __future__ import annotations

from typing import Literal, get_args

from loco_core import registry
from loco_core.errors import SpecError, did_you_mean
from loco_core.models import families

Method = Literal["attention_contribution", "causal_tracing"]
METHODS: tuple[Method, ...] = get_args(Method)
SCORES = "scores"


def reads(localizer: str) -> Method | None:
    """Returns the method whose traces a localizer reads; None where it reads scores.

    Args:
        localizer: its key, or a Python file.

    Raises:
        SpecError: there is no such localizer, or it reads what nothing writes.
    """
    said = getattr(registry.load("localizers", localizer), "READS", SCORES)
    if said == SCORES:
        return None
    for method in METHODS:
        if said == method:
            return method
    raise SpecError(f'{localizer} reads "{said}"{did_you_mean(str(said), (SCORES, *METHODS))}')


def check_traceable(family: str, method: Method, model: str) -> None:
    """Refuses a method that a family does not admit.

    Attention contribution needs text that is the same at every step: where it evolves with the image, keys of text and
    image stand in one attention whose text also looks at itself. Causal tracing restores layers of CLIP's text encoder.

    Args:
        family: key of the family.
        method: what is to be traced.
        model: id of the model, for the message.

    Raises:
        SpecError: it does not, with the families that do.
    """
    facts = families()
    able = {
        "attention_contribution": [key for key, info in facts.items() if info.stream == "fixed"],
        "causal_tracing": [key for key, info in facts.items() if info.stream == "fixed" and info.clip_encoders],
    }[method]
    if family not in able:
        raise SpecError(f"{model} ({family}) cannot be traced by {method}; supported: {', '.join(able)}")
