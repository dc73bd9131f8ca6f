"""``batch_size: auto``: measured once a model by a worker of the sweep, then frozen in the results."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from loco_core.batches import LARGEST, STEPS, probe_batches
from loco_core.models import LoadedModel
from loco_core.types import Generation
from orchestrator import identity
from orchestrator.resolve import Resolved
from orchestrator.scheduler.protocol import Unit, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.store import Store, encode_document, layout
from orchestrator.store.documents import BatchSize


@dataclass(frozen=True)
class ProbeUnit:
    """A measurement of one model.

    Attributes:
        model: its id.
        prompt: what is drawn.
        donor: what swapped sites read.
    """

    kind: ClassVar[Literal["probe"]] = "probe"
    unit_id: str
    model: str
    order: int
    expected_seconds: float
    prompt: str
    donor: str


class Unrecorded:
    """A journal of units that write one small file and may be measured again."""

    def previous(self) -> Mapping[str, int]:
        """Returns no attempts."""
        return {}

    def record(self, attempts: Mapping[str, int]) -> None:
        """Keeps nothing."""

    def give_up(self, unit: Unit, report: UnitReport) -> bool:
        """Records nothing: a probe that fails ends the run."""
        return False


def with_batch_sizes(store: Store, spec: SweepSpec, resolved: Resolved) -> Resolved:
    """Returns names with the batch sizes that were measured for them, where the sweep leaves them to a probe."""
    if spec.generation.batch_size != "auto":
        return resolved
    models = tuple(model.model_copy(update={"probed_batch": recorded(store, model.id)}) for model in resolved.models)
    return resolved.model_copy(update={"models": models})


def recorded(store: Store, model: str) -> int | None:
    """Returns the batch size that was measured for a model, if it was."""
    path = layout.batch_size(identity.safe_name(model))
    found = store.document(path, BatchSize)
    return found.batch_size if found else None


def probes(spec: SweepSpec, resolved: Resolved) -> list[ProbeUnit]:
    """Returns a unit for every model whose batch size is to be measured and was not yet."""
    if spec.generation.batch_size != "auto":
        return []
    record = resolved.attributes[0].records[0]
    lacking = [model for model in resolved.models if model.probed_batch is None]
    return [
        ProbeUnit(
            identity.safe_name(f"probe {model.id}"), model.id, order,
            # Two of every size, each size as much as all before it.
            4 * LARGEST * model.seconds_per_image * STEPS / 50, record.prompt, record.donor,
        )
        for order, model in enumerate(lacking)
    ]  # fmt: skip


def probe(
    store: Store, model: LoadedModel, device: str, generation: Generation, unit: ProbeUnit, attempt: int
) -> UnitReport:
    """Measures a model and records what was found, unless it is recorded already: the first word stands."""
    found = probe_batches(model, unit.prompt, unit.donor, generation)
    document = {**asdict(found), "model": unit.model, "device": device}
    path = layout.batch_size(identity.safe_name(unit.model))
    outcome = store.blobs.put_if_absent(path, encode_document(document), uuid.uuid4().hex)
    return UnitReport(unit.unit_id, attempt, "committed" if outcome == "won" else "already")
