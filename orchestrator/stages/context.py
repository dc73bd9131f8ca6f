"""What a worker hands to the work of a unit, and what it gets back; the worker loads, retries and commits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from loco_core.diffusion.model import LoadedModel
from loco_core.scoring.base import Judge, Scorer
from loco_core.types import Attribute, Generation
from orchestrator.resolve.resolved import ResolvedModel, ResolvedScorer
from orchestrator.scheduler.protocol import Attempt, Unit
from orchestrator.stages.metrics import Metrics

if TYPE_CHECKING:
    import torch


KEPT_BYTES = 256 * 2**20
"""Main memory that a worker gives to what units may find again."""


class Kept:
    """What the work of units leaves in memory for later ones: the latest, up to a number of bytes.

    It is as old as the loaded model, and gone with it.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        """Starts empty.

        Args:
            most_bytes: what is used least recently goes when there is more.
        """
        self._most, self._held = most_bytes, 0
        self._items: dict[Hashable, tuple[Any, int]] = {}

    def get(self, key: Hashable) -> Any:
        """Returns what was put under a key; None where it is gone."""
        item = self._items.pop(key, None)
        if item is None:
            return None
        self._items[key] = item
        return item[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keeps a value of so many bytes; one that is larger than all there is room for is not kept."""
        _, before = self._items.pop(key, (None, 0))
        self._items[key] = (value, size)
        self._held += size - before
        while self._held > self._most:
            _, gone = self._items.pop(next(iter(self._items)))
            self._held -= gone


@dataclass(frozen=True)
class WorkerContext:
    """A worker of one model, as its work sees it.

    Attributes:
        model: the loaded pipeline.
        info: the model with its names looked up.
        scorer: what scores pictures.
        scorer_info: its name and the hash of its weights.
        judge: what names what a picture shows; None where the sign of the CLIP margin does.
        generation: settings of every picture.
        sweep_id: identity of the sweep.
        attributes: attributes of the sweep.
        kept_seeds: seeds whose pictures are kept.
        device: name of the device, as in the column ``device``.
        torch_version: version of torch, as in the column ``torch_version``.
        kept: what units leave for later ones. Nothing that an edit had a hand in: whoever changes weights puts them
            back before its unit ends.
        metrics: what compares pictures with and without an edit.
    """

    model: LoadedModel
    info: ResolvedModel
    scorer: Scorer
    scorer_info: ResolvedScorer
    judge: Judge | None
    generation: Generation
    sweep_id: str
    attributes: tuple[Attribute, ...]
    kept_seeds: frozenset[int]
    device: str
    torch_version: str
    kept: Kept = field(default_factory=Kept)
    metrics: Metrics = field(default_factory=Metrics)

    def is_valid(self, picture: torch.Tensor) -> bool:
        """Tells whether a picture is one, see `orchestrator.stages.pictures.is_valid`."""
        from orchestrator.stages.pictures import is_valid

        return is_valid(picture, self.generation, self.model.enlargement)


@dataclass(frozen=True)
class Result:
    """What became of a unit.

    Attributes:
        tables: rows by table, committed all or nothing; a column ``unit_id`` names the unit.
        files: other files by path under the results root, written before the tables are committed.
        rows: how many rows are ok.
        invalid: how many rows have an invalid image; committed too.
        failed_rows: how many rows are recorded as failures.
        reported: value for the driver's stage, small and picklable; see `UnitReport.reported`.
    """

    tables: Mapping[str, pa.Table]
    files: Mapping[str, bytes] = field(default_factory=dict)
    rows: int = 0
    invalid: int = 0
    failed_rows: int = 0
    reported: Any = None


Work = Callable[[WorkerContext, Unit, Attempt], Result]
"""What a stage's ``work.py`` exports under the name ``work``."""
