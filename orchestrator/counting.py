"""How much a sweep that has no results is: counted block by block, without naming a single cell.

Blocks (a prompt and a seed of one model and attribute) differ in their texts and seeds alone, so that one stands for
all that ask for the same: a million seeds are counted as quickly as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from loco_core.localizers import Request
from loco_core.types import PromptRecord
from orchestrator.plan import Block, PlannedUnit, plan
from orchestrator.resolve import Resolved, ResolvedModel
from orchestrator.spec import SweepSpec


@dataclass(frozen=True)
class Count:
    """What units are, taken together.

    Attributes:
        units: how many.
        images: that they generate.
        cells: that they score.
        seconds: of work, by the cost table.
    """

    units: int = 0
    images: int = 0
    cells: int = 0
    seconds: float = 0.0

    def __add__(self, other: Count) -> Count:
        """Returns both together."""
        return Count(
            self.units + other.units, self.images + other.images, self.cells + other.cells, self.seconds + other.seconds
        )

    def times(self, number: int) -> Count:
        """Returns so many of it."""
        return Count(self.units * number, self.images * number, self.cells * number, self.seconds * number)


def count(spec: SweepSpec, resolved: Resolved, requests: Mapping[Block, Sequence[Request]] | None = None) -> Count:
    """Counts what :func:`orchestrator.plan.plan` would plan where nothing is planned yet.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        requests: as of a plan.
    """
    total, known = Count(), dict[tuple[str, tuple[Request, ...] | None, bool], Count]()
    for model in resolved.models:
        for attribute in resolved.attributes:
            asked = None if requests is None else requests.get((model.id, attribute.key), ())
            for record, blocks, wanted in _groups(spec, attribute.records[: spec.prompts], asked):
                key = (model.id, wanted, record.prompt == record.donor)
                if key not in known:
                    of_one = resolved.model_copy(
                        update={"models": (model,), "attributes": (replace(attribute, records=(record,)),)}
                    )
                    known[key] = _block(spec, of_one, model, attribute.key, wanted)
                total += known[key].times(blocks)
    return total


def _groups(
    spec: SweepSpec, records: Sequence[PromptRecord], asked: Sequence[Request] | None
) -> Iterator[tuple[PromptRecord, int, tuple[Request, ...] | None]]:
    """Yields a record, how many blocks of it are alike, and what is asked for in them; None is the whole grid."""
    cuts = {request.seeds for request in asked or () if request.seeds is not None and request.seeds < len(spec.seeds)}
    edges = sorted({0, *cuts, len(spec.seeds)})
    for number, record in enumerate(records):
        for start, end in pairwise(edges):
            wanted = None if asked is None else tuple(
                replace(request, prompts=None, seeds=None)
                for request in asked
                if (request.prompts is None or number < request.prompts)
                and (request.seeds is None or start < request.seeds)
            )  # fmt: skip
            if wanted != ():
                yield record, end - start, wanted


def _block(
    spec: SweepSpec, resolved: Resolved, model: ResolvedModel, attribute: str, wanted: tuple[Request, ...] | None
) -> Count:
    """Plans one block."""
    single = spec.model_copy(update={"prompts": 1, "seeds": spec.seeds[:1]})
    units = plan(single, resolved, requests=None if wanted is None else {(model.id, attribute): wanted})
    return counted(units)


def counted(units: Sequence[PlannedUnit]) -> Count:
    """Returns what units are, taken together."""
    return Count(
        units=len(units),
        images=sum(len({row.image_id for row in unit.rows}) for unit in units),
        cells=sum(row.emit for unit in units for row in unit.rows),
        seconds=sum(unit.expected_seconds for unit in units),
    )
