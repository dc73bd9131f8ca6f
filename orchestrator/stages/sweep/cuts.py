"""How what is missing of a block is cut into units: whole batches of one size, and the clean image in the first one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loco_core.diffusion.cutting import in_batches, reads_own
from loco_core.types import PromptRecord, Row
from orchestrator import identity
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import Count, batch_size, images_in, seconds_per_image
from orchestrator.stages.sweep.variants import BASELINES, CellVariant, Variants


@dataclass(frozen=True)
class Cut:
    """A unit before it has a prompt and a seed.

    Attributes:
        variants: beside the baselines.
        clean: whether the clean image is scored here.
        donor: whether the donor image is.
        leads: whether the clean image is in the batches of this unit, scored or not.
        images: in its batches.
        batch_size: rows per forward pass.
        seconds: expected.
    """

    variants: Variants
    clean: bool
    donor: bool
    leads: bool
    images: int
    batch_size: int
    seconds: float

    @property
    def cells(self) -> int:
        """How many cells it scores."""
        return len(self.variants) + self.clean + self.donor

    @property
    def count(self) -> Count:
        """The unit, counted."""
        return Count(1, self.images, self.cells, self.seconds, 0 if self.leads else self.batch_size)


def cut(
    spec: SweepSpec, model: ResolvedModel, missing: Sequence[CellVariant], record: PromptRecord, seconds: float
) -> Iterator[Cut]:
    """Cuts what is missing of a block into units.

    All batches of the block have one size, as few as there may be and as small as that allows: images of equal shape
    are equal bit for bit, so that one clean image serves all units.

    Args:
        spec: the sweep.
        model: of the block.
        missing: variants that are to be scored.
        record: the block's texts.
        seconds: how long a unit may take.
    """
    wanted = set(missing)
    led_by = [each for each in BASELINES if each in wanted or each == BASELINES[0]]
    groups: dict[tuple[str, str, object], list[CellVariant]] = {}
    for variant in [*led_by, *(each for each in missing if each not in BASELINES)]:
        groups.setdefault(_image(variant.of(model), record, spec.generation.steps), []).append(variant)
    images = list(groups.values())
    drawn_as = [held[0].of(model) for held in images]
    rows = [Row(*each.texts(record), 0, each.intervention) for each in drawn_as]
    size, counts = _batches(rows, spec, model)
    together = max(1, int(images_in(seconds, spec, model) / size))
    # Units of equal length, as few as there may be.
    together = math.ceil(len(counts) / math.ceil(len(counts) / together))
    if together == 1 and counts[0] == 1 and wanted.isdisjoint(images[0]):
        # A clean image that is not scored makes no unit of its own: it is drawn with the next one.
        counts = [counts[0] + counts[1], *counts[2:]]
    cost, start = seconds_per_image(spec, model), 0
    for first in range(0, len(counts), together):
        count = sum(counts[first : first + together])
        held = {variant: None for group in images[start : start + count] for variant in group}
        clean, donor = (each in held and each in wanted for each in BASELINES)
        variants = tuple(variant for variant in held if variant not in BASELINES)
        # A row that reads from its own picture has a second one drawn beside it.
        drawn = count + sum(reads_own(row) for row in rows[start : start + count])
        yield Cut(variants, clean, donor, start == 0, drawn, size, drawn * cost)
        start += count


def _image(variant: CellVariant, record: PromptRecord, steps: int) -> tuple[str, str, object]:
    """Returns what tells images of a block apart: labels may share one."""
    prompt, donor = variant.texts(record)
    held = identity.held_intervention(variant.intervention, steps)
    return prompt, donor if held else "", held


def _batches(rows: Sequence[Row], spec: SweepSpec, model: ResolvedModel) -> tuple[int, list[int]]:
    """Returns the size of batches, and how many of the rows each one draws."""
    beside = model.facts.stream == "evolving"

    def cut_by(size: int) -> list[int]:
        return [len(batch) for batch, _ in in_batches(rows, size, beside=beside)]

    most = batch_size(spec, model)
    fewest = len(cut_by(most))
    size = math.ceil(len(rows) / fewest)
    if beside:
        size = max(2, size)
    while len(counts := cut_by(size)) > fewest:
        size += 1
    return size, counts
