"""Causal tracing: pictures clean, with noise on the subject's words, and so with one layer restored at a time.

See `loco_core.tracing.causal`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from loco_core.diffusion.facts import FamilyInfo
from loco_core.diffusion.model import LoadedModel
from loco_core.tracing.base import Cost, Trace, TracedModel, TracerInfo
from loco_core.types import Generation, PromptRecord


def cost(model: TracedModel, pairs: int, most: int) -> Cost:
    """Returns what it takes: corrupted, and every layer restored; each batch has a clean row of its own."""
    rows = 1 + model.n_sites + model.encoder_layers
    batches = math.ceil(rows / max(1, most - 1))
    return Cost(1 + math.ceil(rows / batches), rows + batches)


def refuses(facts: FamilyInfo) -> str:
    """Says why a family cannot be traced."""
    return "" if facts.traced_encoders else "it restores layers of text encoders, and of this family none are known"


INFO = TracerInfo(cost, refuses, scores=True, not_alone="draws the clean picture beside others", encoder_layers=True)


def trace(
    model: LoadedModel, items: Sequence[tuple[PromptRecord, int]], settings: Generation, batch_size: int
) -> Iterator[Trace]:
    """Yields the clean picture, the corrupted one, and one per layer; see :class:`loco_core.tracing.base.Tracer`."""
    from loco_core.tracing import causal

    for number, (record, seed) in enumerate(items):
        for found in causal.trace(model, record.prompt, record.donor, seed, settings, batch_size):
            yield Trace(number, found.control, found.layer, picture=found.picture)
