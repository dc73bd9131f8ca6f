"""A tracer: how far what each site reads of a prompt is from what it reads of the donor; and who takes the largest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.token_pairs import read_texts
from loco_core.localization.base import Effect, Localization, LocalizeSettings
from loco_core.localization.trace_table import read_traces
from loco_core.tracing.base import Cost, Layer, Trace, TracerInfo
from loco_core.types import Generation, PromptRecord

INFO = TracerInfo(
    cost=lambda model, pairs, most: Cost(batch_size=1, images=1),
    refuses=lambda facts: "" if facts.stream == "fixed" else "its text evolves",
)
READS = "outside-tracer"
BOUNDS = False


def trace(
    model: LoadedModel, items: Sequence[tuple[PromptRecord, int]], settings: Generation, batch_size: int
) -> Iterator[Trace]:
    """Yields one trace per site."""
    sites = [site.index for site in model.sites]
    for number, (record, _) in enumerate(items):
        pairs = zip(*(read_texts(model, [text], sites) for text in (record.prompt, record.donor)), strict=True)
        for site, (here, there) in zip(model.sites, pairs, strict=True):
            change = (here.mean(0) - there.mean(0)).norm() * (1 + site.index)
            yield Trace(number, "difference", Layer("denoiser", site.index, site.name), float(change))


def localize(traces: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
    """Picks the site with the largest difference."""
    table = read_traces(traces, site_names)
    values = table.sites("difference").value.mean(axis=(0, 1))
    effects = [Effect(site, 1, float(value / values.sum())) for site, value in enumerate(values)]
    best = max(effects, key=lambda row: row.effect or 0.0)
    return Localization.of(table, "localized", "largest difference", best=best.window, effects=effects)
