"""Attention contribution: what the words that the donor changes write into the image, site by site.

See `loco_core.tracing.attention`. The contributions of all sites come from one picture per prompt and seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loco_core.diffusion.model import LoadedModel
from loco_core.tracing.base import Layer, Trace, TracerInfo
from loco_core.types import Generation, PromptRecord, Row

INFO = TracerInfo()


def trace(
    model: LoadedModel, items: Sequence[tuple[PromptRecord, int]], settings: Generation, batch_size: int
) -> Iterator[Trace]:
    """Yields one trace per site; see :class:`loco_core.tracing.base.Tracer`."""
    from loco_core.tracing.attention import contributions

    rows = [Row(record.prompt, record.donor, seed) for record, seed in items]
    for number, values in enumerate(contributions(model, rows, settings, batch_size).tolist()):
        for site, value in zip(model.sites, values, strict=True):
            yield Trace(number, "contribution", Layer("denoiser", site.index, site.name), value)
