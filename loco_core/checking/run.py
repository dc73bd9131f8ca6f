"""All checks of one model, in order; each needs what those before it have found."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import torch

from loco_core.checking.certificate import AttributeMargin, BatchCost, Certificate, Check
from loco_core.checking.comparisons import (
    Alone,
    Subject,
    check_pictures,
    compare_engine,
    compare_precision,
    compare_strictly,
    draw_alone,
    draw_with_engine,
)
from loco_core.checking.margins import in_words, margin_of
from loco_core.diffusion.batches import probe_batches
from loco_core.diffusion.facts import DEFAULT
from loco_core.diffusion.model import LoadedModel
from loco_core.diffusion.site_check import SitesError
from loco_core.errors import LocoError, OutOfMemoryError, first_line
from loco_core.scoring.base import load_scorer
from loco_core.types import Attribute, Engine, Generation
from loco_core.versions import versions_of

STEPS = 4
"""Denoising steps of the pictures that are compared bit by bit."""
LARGEST = 4
"""Rows of the largest batch that is measured."""
ROOM = 1.3
"""Memory that loading in float32 takes, of what the weights alone do."""
FAMILY = (
    "the family reads this denoiser wrongly: correct its `site_names`, or write a family for this class of pipelines "
    "(how-to: plug-ins)"
)
PACKAGES = ("loco-sweep", "torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Wanted:
    """A model that is to be checked.

    Attributes:
        model: name of the model.
        family: key of its family.
        source: hub id, or name of its folder.
        weights: hash of its weights.
        site_names: its sites, as the configuration tells them.
        dtype: number format.
        device: device that it is checked on.
        engine: how it computes.
        load: loads it in a number format.
        settings: settings of the pictures that are scored.
        attributes: attributes that are drawn.
        scorer: scorer of their pictures.
        seeds: number of seeds.
    """

    model: str
    family: str
    source: str
    weights: str
    site_names: tuple[str, ...]
    dtype: str
    device: str
    engine: Engine
    load: Callable[[str], LoadedModel] = field(repr=False)
    settings: Generation = field(repr=False)
    attributes: tuple[Attribute, ...]
    scorer: str
    seeds: int

    @property
    def subject(self) -> Subject:
        """What is compared: the first prompt of the first attribute."""
        record = self.attributes[0].records[0]
        return Subject(record.prompt, record.donor, 0, replace(self.settings, steps=min(STEPS, self.settings.steps)))


@dataclass
class _Found:
    """What was found so far."""

    pipeline: str = ""
    sites: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    checks: list[Check] = field(default_factory=list)
    costs: tuple[BatchCost, ...] = ()
    best: int = 1
    image_seconds: float | None = None
    margins: tuple[AttributeMargin, ...] = ()
    scored: bool = False


def check_model(wanted: Wanted, say: Callable[[str], None] = lambda _: None) -> Certificate:
    """Checks a model.

    Args:
        wanted: the model.
        say: called with what is done now.

    Raises:
        ModelError: it cannot be loaded.
        OutOfMemoryError: it does not fit.
    """
    began, found = time.monotonic(), _Found(expected=wanted.site_names)
    say("loading")
    try:
        model = wanted.load(wanted.dtype)
    except SitesError as error:
        found.sites = error.found
        found.checks = [Check("sites", "failed", error.difference, advice=FAMILY)]
        return _certificate(wanted, found, time.monotonic() - began)
    found.pipeline, found.sites = type(model.pipeline).__name__, tuple(site.name for site in model.sites)
    found.checks.append(
        Check("sites", "passed", f"{len(found.sites)} of {len(found.expected)} sites, as the configuration tells them")
    )
    alone = _compare(wanted, model, found, say)
    if alone is not None:
        _measure(wanted, model, found, say)
        del model
        _release()
        say("comparing with float32")
        found.checks.append(_precision(wanted, alone))
    return _certificate(wanted, found, time.monotonic() - began)


def _compare(wanted: Wanted, model: LoadedModel, found: _Found, say: Callable[[str], None]) -> Alone | None:
    """Compares the engine with the pipeline; returns what the pipeline draws, None where that is no picture."""
    say("drawing with the pipeline alone")
    alone = draw_alone(model, wanted.subject)
    say("drawing with the engine")
    latents, pictures = draw_with_engine(model, wanted.subject)
    seen = check_pictures(pictures, wanted.dtype, finite=alone.finite)
    found.checks.append(seen)
    if not alone.finite:
        found.checks += [
            Check(name, "skipped", "the pipeline alone draws no numbers") for name in ("identity", "all_sites", "batch")
        ]
        return None
    if wanted.family == DEFAULT:
        found.checks += compare_strictly(model, alone, latents, pictures)
    else:
        found.checks += compare_engine(model, alone, latents)
    return alone if seen.state == "passed" else None


def _measure(wanted: Wanted, model: LoadedModel, found: _Found, say: Callable[[str], None]) -> None:
    """Measures what pictures cost, and what the scorer sees in them."""
    say("measuring batches")
    subject = wanted.subject
    try:
        probe = probe_batches(model, subject.prompt, subject.donor, wanted.settings, LARGEST)
    except OutOfMemoryError as error:
        advice = "generation.batch_size: 1 with engine.offload, dtype: bfloat16, or a larger device"
        found.checks.append(Check("cost", "failed", str(error), advice=advice))
        return
    found.costs = tuple(BatchCost(size, each, probe.gigabytes.get(size)) for size, each in probe.seconds.items())
    found.best, found.image_seconds = probe.batch_size, probe.image_seconds
    found.checks.append(Check("cost", "measured", _cost_in_words(found, wanted.settings.steps)))
    say("drawing attributes")
    found.checks.append(_margin(wanted, model, found))


def _cost_in_words(found: _Found, steps: int) -> str:
    sizes = ", ".join(
        f"{each.size}: {each.seconds:.2g} s" + (f" and {each.gigabytes:.1f} GB" if each.gigabytes is not None else "")
        for each in found.costs
    )
    memory = "" if any(each.gigabytes is not None for each in found.costs) else "; memory is not measured on a CPU"
    return f"{found.image_seconds:.2g} s per picture of {steps} steps; of {STEPS} steps by batch size {sizes}{memory}"


def _margin(wanted: Wanted, model: LoadedModel, found: _Found) -> Check:
    try:
        scorer = load_scorer(wanted.scorer, None, wanted.device)
    except LocoError as error:
        return Check("margin", "skipped", f"no scorer: {error}")
    seeds, rows = range(wanted.seeds), max(found.best, model.facts.least_batch)
    margins = []
    for item in wanted.attributes:
        margin = margin_of(model, scorer, item, seeds, wanted.settings, rows)
        if margin is None:
            return Check(
                "margin", "failed", f"{item.key}: a picture has no numbers, or one colour",
                advice=f"pictures of {wanted.settings.steps} steps break where those of {STEPS} do not: a wider dtype",
            )  # fmt: skip
        margins.append(margin)
    found.margins, found.scored = tuple(margins), True
    return in_words(margins)


def _precision(wanted: Wanted, half: Alone) -> Check:
    if wanted.dtype == "float32":
        return Check("precision", "skipped", "float32 is full precision")
    try:
        return compare_precision(half, wanted.load("float32"), wanted.subject, wanted.dtype)
    except (torch.OutOfMemoryError, OutOfMemoryError) as error:
        return Check("precision", "skipped", f"float32 does not fit: {first_line(error)}")


def best_device() -> str:
    """Returns where a model is checked if nobody says so: on a GPU where torch sees one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _certificate(wanted: Wanted, found: _Found, seconds: float) -> Certificate:
    return Certificate(
        model=wanted.model, family=wanted.family, pipeline=found.pipeline, source=wanted.source,
        weights=wanted.weights, dtype=wanted.dtype, device=_device(wanted.device), engine=wanted.engine.bits,
        checked_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version(), **versions_of(PACKAGES, "unknown")},
        steps=wanted.settings.steps, guidance_scale=wanted.settings.guidance_scale, seeds=wanted.seeds,
        sites=found.sites, sites_found=len(found.sites),
        sites_expected=len(found.expected), checks=tuple(found.checks), costs=found.costs,
        image_seconds=found.image_seconds, margins=found.margins, scorer=wanted.scorer if found.scored else "",
        seconds=round(seconds, 1),
    )  # fmt: skip


def _device(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else device
