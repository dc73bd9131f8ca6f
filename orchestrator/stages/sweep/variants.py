"""Which cells a sweep has of every prompt and seed: their controls, windows and interventions.

A *block* is a prompt record of one (model, attribute) with one seed. Blocks that ask for the same have the same cells
but for their texts and seeds: a *variant* is what such cells share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from loco_core.localization.base import Grid, Request, rule
from loco_core.tracing.base import reads
from loco_core.types import Attribute, Control, Intervention, PromptRecord, Window
from orchestrator import identity
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.spec import SweepSpec
from orchestrator.spec.sweep import InterventionSpec

ModelAttribute = tuple[str, str]
"""Id of a model and key of an attribute: what is localized at a time."""


@dataclass(frozen=True, slots=True)
class CellVariant:
    """What a cell is before it has a prompt and a seed.

    Attributes:
        control: what the cell is for.
        window_start: first site of the window; None where there is none, as of a random set of sites.
        window_size: how many sites.
        intervention: what is swapped; its last step is None where that is the last one of the generation.
    """

    control: Control
    window_start: int | None
    window_size: int | None
    intervention: Intervention

    def to_json(self) -> list[Any]:
        """Returns the variant as a list for JSON; see `from_json`."""
        does = self.intervention
        return [
            self.control, self.window_start, self.window_size, list(does.sites), does.part, does.step_start,
            does.step_end, does.tokens, does.guidance_half, does.pooled, does.source,
        ]  # fmt: skip

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> CellVariant:
        """Returns the variant that `to_json` wrote."""
        control, start, size, sites, *options = values
        return cls(control, start, size, Intervention(tuple(sites), *options))

    def of(self, model: ResolvedModel) -> CellVariant:
        """Returns the variant as it is drawn: what a donor's weights do at all sites, its baseline shows."""
        if self.control != "donor" or model.donor is None:
            return self
        does = Intervention(tuple(range(model.n_sites)), guidance_half="both", source="weights")
        return replace(self, intervention=does)

    def texts(self, record: PromptRecord) -> tuple[str, str]:
        """Returns the prompt and the donor that an image of the variant is generated from."""
        if self.intervention.source == "weights":
            return record.prompt, record.prompt
        donor = record.prompt if self.control == "identity" else record.donor
        return (record.donor if self.control == "donor" else record.prompt), donor


BASELINES = (CellVariant("clean", None, None, Intervention()), CellVariant("donor", None, None, Intervention()))
"""What is scored once per block, and first."""
Variants = tuple[CellVariant, ...]


def described(variants: Sequence[CellVariant]) -> str:
    """Returns a text that tells variants from others, for identities."""
    return json.dumps([variant.to_json() for variant in variants], separators=(",", ":"))


def windows(spec: SweepSpec, n_sites: int) -> tuple[Window, ...]:
    """Returns the windows of a model, by size and start."""
    return tuple(
        Window(start, size)
        for size in spec.sizes(n_sites)
        for start in range(0, n_sites - size + 1, spec.windows.stride)
    )


def prompt_id(record: PromptRecord) -> str:
    """Returns a short name of a prompt record."""
    return identity.safe_name(f"{record.prompt} | {record.donor}")[-12:]


def grid(spec: SweepSpec, attribute: Attribute, n_sites: int) -> Grid:
    """Returns everything that a localizer may ask for of one (model, attribute)."""
    prompts = tuple(prompt_id(record) for record in attribute.records[: spec.prompts])
    return Grid(n_sites, windows(spec, n_sites), prompts, spec.seeds)


def random_sites(n_sites: int, size: int, count: int) -> list[tuple[int, ...]]:
    """Returns the first ``count`` of a fixed sequence of random site sets, none twice; a larger count only adds.

    There are at most as many as there are sets of that size.
    """
    found: dict[tuple[int, ...], None] = {}
    draws = 0
    while len(found) < min(count, math.comb(n_sites, size)):
        drawn = np.random.default_rng([n_sites, size, draws]).choice(n_sites, size, replace=False)
        found[tuple(sorted(int(s) for s in drawn))] = None
        draws += 1
    return list(found)


def whole_grid(spec: SweepSpec, n_sites: int) -> Variants:
    """Returns the variants of a block where nobody asks for fewer, the baselines first, each once."""
    swept = windows(spec, n_sites)
    found = [*BASELINES, *_references(spec, n_sites)]
    for option in spec.interventions:
        found += [_swapped(spec, "window", window, option, window.sites) for window in swept]
        found += [
            CellVariant("random", None, size, _at(spec, option, sites))
            for size in spec.sizes(n_sites)
            for sites in random_sites(n_sites, size, spec.controls.random)
        ]
    if spec.controls.complement:
        found += [_complement(spec, window, n_sites) for window in swept if window.size < n_sites]
    return tuple(dict.fromkeys(found))


def requested(spec: SweepSpec, n_sites: int, requests: Sequence[Request]) -> Variants:
    """Returns the variants that requests want, the baselines first, each once; none where nothing is wanted.

    Every intervention of the sweep is run at a window that is asked for, as in the whole grid.

    Args:
        spec: the sweep.
        n_sites: of the model.
        requests: of a localizer; for how many prompts and seeds is not looked at.
    """
    found = [*BASELINES, *_references(spec, n_sites)] if requests else []
    for request in requests:
        if request.window is None:
            continue
        if request.control == "window":
            found += [
                _swapped(spec, "window", request.window, option, request.window.sites) for option in spec.interventions
            ]
        if request.control == "complement" and request.window.size < n_sites:
            found.append(_complement(spec, request.window, n_sites))
    return tuple(dict.fromkeys(found))


def spans(spec: SweepSpec, requests: Sequence[Request], prompt: int) -> Iterator[tuple[int, int, tuple[Request, ...]]]:
    """Yields which requests hold in which seeds of a prompt: number of the first seed, of the last plus one, requests.

    Args:
        spec: the sweep.
        requests: of a localizer.
        prompt: number of the prompt.
    """
    seeds = len(spec.seeds)
    cuts = {request.seeds for request in requests if request.seeds is not None and 0 < request.seeds < seeds}
    for start, end in pairwise(sorted({0, *cuts, seeds})):
        yield start, end, tuple(
            request
            for request in requests
            if (request.prompts is None or prompt < request.prompts)
            and (request.seeds is None or start < request.seeds)
        )  # fmt: skip


def beginnings(spec: SweepSpec, resolved: Resolved) -> dict[ModelAttribute, Sequence[Request]] | None:
    """Returns what the sweep's localizers begin with, by model and attribute; None where that is the whole grid."""
    begins = [rule(name).begin for name in spec.localize.localizers if reads(name) is None]
    found: dict[ModelAttribute, list[Request]] = {}
    for begin in begins:
        if begin is None:
            return None
        for model in resolved.models:
            for attribute in resolved.attributes:
                asked = begin(grid(spec, attribute, model.n_sites), spec.localize)
                found.setdefault((model.id, attribute.key), []).extend(asked)
    return dict(found) if begins else None


def _references(spec: SweepSpec, n_sites: int) -> Variants:
    every = tuple(range(n_sites))
    found = [CellVariant("identity", None, None, Intervention(every))] if spec.controls.identity else []
    if spec.controls.all_sites:
        found += [CellVariant("all_sites", None, None, _at(spec, option, every)) for option in spec.interventions]
    return tuple(found)


def _complement(spec: SweepSpec, window: Window, n_sites: int) -> CellVariant:
    others = tuple(site for site in range(n_sites) if site not in window.sites)
    return _swapped(spec, "complement", window, spec.interventions[0], others)


def _swapped(
    spec: SweepSpec, control: Control, window: Window, option: InterventionSpec, sites: tuple[int, ...]
) -> CellVariant:
    return CellVariant(control, window.start, window.size, _at(spec, option, sites))


def _at(spec: SweepSpec, option: InterventionSpec, sites: tuple[int, ...]) -> Intervention:
    start, end = option.steps or (0, None)
    if end is not None and end >= spec.generation.steps:
        end = None
    return Intervention(
        sites, option.part, start, end, option.tokens, option.guidance_half, option.pooled, option.source
    )
