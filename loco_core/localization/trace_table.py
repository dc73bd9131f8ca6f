"""Reads traces of one (model, attribute) into arrays over prompts, seeds and layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from loco_core.errors import LocalizationError, did_you_mean
from loco_core.statistics import Bools, Floats

REQUIRED = (
    "model", "attribute", "attribute_kind", "mode", "component", "layer", "layer_name", "control", "prompt_id", "seed",
    "value", "status",
)  # fmt: skip
NAMES = ("model", "attribute", "attribute_kind", "mode")


@dataclass(frozen=True)
class Values:
    """What was measured at some layers.

    Attributes:
        layers: numbers within their component, in order; one -1 where there are no layers.
        names: readable addresses of them.
        value: ``(P, S, layers)``; NaN where there is none.
        present: likewise: whether there is one.
    """

    layers: tuple[int, ...]
    names: tuple[str, ...]
    value: Floats
    present: Bools


@dataclass(frozen=True)
class TraceTable:
    """The traces of one (model, attribute).

    Attributes:
        model: id.
        attribute: name.
        attribute_kind: kind.
        mode: ``remove`` or ``replace``.
        prompts: ids in sorted order; the first axis of all arrays.
        seeds: in sorted order; the second axis.
        rows: columns of the rows that were read.
        site_names: the model's sites in execution order; empty where they are not known.
    """

    model: str
    attribute: str
    attribute_kind: str
    mode: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[dict[str, Any], ...]
    site_names: tuple[str, ...] = ()

    @property
    def n_sites(self) -> int:
        """How many sites were traced."""
        return len({row["layer"] for row in self.rows if row["component"] == "denoiser"})

    @property
    def cells(self) -> int:
        """How many rows were read."""
        return len(self.rows)

    def sites(self, control: str) -> Values:
        """Returns the values of one control at all sites.

        Raises:
            LocalizationError: as of `values`, or not every site has some.
        """
        found = self.values(control, "denoiser")
        count = len(found.layers)
        if found.layers != tuple(range(count)) or (self.site_names and len(self.site_names) != count):
            raise LocalizationError(f"{self.model}, {self.attribute}: traces of {count} sites, not of all")
        return found

    def values(self, control: str, component: str | None = None) -> Values:
        """Returns the values of one control, of one component's layers where it has any.

        Raises:
            LocalizationError: there are no such rows, or two for one prompt, seed and layer.
        """
        rows = [row for row in self.rows if row["control"] == control and row["component"] == component]
        if not rows:
            what = f"{control} {component or ''}".strip()
            raise LocalizationError(f'{self.model}, {self.attribute}: there are no "{what}" traces')
        names = {(-1 if row["layer"] is None else row["layer"]): row["layer_name"] or "" for row in rows}
        layers = sorted(names)
        shape = (len(self.prompts), len(self.seeds), len(layers))
        value, present, seen = np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_), set[tuple[int, int, int]]()
        places = (_ranks(self.prompts), _ranks(self.seeds), _ranks(layers))
        for row in rows:
            layer = -1 if row["layer"] is None else row["layer"]
            at = (places[0][row["prompt_id"]], places[1][row["seed"]], places[2][layer])
            if at in seen:
                raise LocalizationError(
                    f"{self.model}, {self.attribute}: several {control} traces of layer {layer} for one prompt and seed"
                )
            seen.add(at)
            if row["status"] == "ok" and row["value"] is not None and np.isfinite(row["value"]):
                value[at], present[at] = row["value"], True
        return Values(tuple(layers), tuple(names[layer] for layer in layers), value, present)


def read_traces(traces: pa.Table, site_names: Sequence[str] = ()) -> TraceTable:
    """Turns rows of traces into a table; the order of the rows does not matter.

    Args:
        traces: rows of one (model, attribute) and method, with at least the columns `REQUIRED`.
        site_names: the model's sites in execution order.

    Raises:
        LocalizationError: columns are missing, there are no rows, or they are of several attributes.
    """
    for name in REQUIRED:
        if name not in traces.column_names:
            raise LocalizationError(f'traces have no column "{name}"{did_you_mean(name, traces.column_names)}')
    if not traces.num_rows:
        raise LocalizationError("there are no traces: run the sweep with this localizer in its localize block")
    rows = traces.select(list(REQUIRED)).to_pylist()
    found = {}
    for name in NAMES:
        values = sorted({str(row[name]) for row in rows})
        if len(values) > 1:
            raise LocalizationError(f"traces hold several values of {name} ({', '.join(values[:4])})")
        found[name] = values[0]
    prompts, seeds = (tuple(sorted({row[name] for row in rows})) for name in ("prompt_id", "seed"))
    return TraceTable(**found, prompts=prompts, seeds=seeds, rows=tuple(rows), site_names=tuple(site_names))


def two_sided(confidence: float) -> float:
    """Confidence of each end of an interval."""
    return (1 + confidence) / 2


def _ranks(items: Iterable[Any]) -> dict[Any, int]:
    return {item: i for i, item in enumerate(items)}


def window_sums(values: Floats, size: int) -> Floats:
    """Sums of ``size`` neighbours along the last axis."""
    return np.stack([values[..., i : i + size].sum(axis=-1) for i in range(values.shape[-1] - size + 1)], axis=-1)
