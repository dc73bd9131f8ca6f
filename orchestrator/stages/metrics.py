"""The metrics of a worker: loaded when the first picture is compared, as sweeping needs none of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from loco_core.scoring.metric import PictureMetric, SetMetric, load_picture_metric, load_set_metric
from orchestrator.resolve.resolved import ResolvedMetric
from orchestrator.stages.timing import Stopwatch

if TYPE_CHECKING:
    import torch


class Metrics:
    """What compares pictures with and without an edit; its time counts as scoring."""

    def __init__(
        self, resolved: Sequence[ResolvedMetric] = (), device: str = "cpu", watch: Stopwatch | None = None
    ) -> None:
        """Loads nothing yet.

        Args:
            resolved: the metrics.
            device: e.g. ``cuda`` or ``cpu``.
            watch: counts their seconds.
        """
        self._resolved, self._device, self._watch = resolved, device, watch or Stopwatch()
        self._pictures: dict[str, PictureMetric] = {}
        self._sets: dict[str, SetMetric] = {}

    def compared(
        self, wanted: Collection[str], before: torch.Tensor, after: torch.Tensor
    ) -> Iterator[tuple[ResolvedMetric, list[float]]]:
        """Yields each wanted picture metric with one value per picture.

        Args:
            wanted: ids of metrics.
            before: ``(n, 3, height, width)`` in [0, 1], without the edit.
            after: the same pictures with it.

        Raises:
            ModelError: a metric cannot be loaded.
        """
        for item in self._wanted(wanted, sets=False):
            with self._watch.running():
                if item.id not in self._pictures:
                    self._pictures[item.id] = load_picture_metric(item.source, item.path, item.revision, self._device)
                values = self._pictures[item.id].compare(before, after)
            yield item, np.asarray(values, np.float64).tolist()

    def embedded(
        self, wanted: Collection[str], pictures: torch.Tensor
    ) -> Iterator[tuple[ResolvedMetric, list[list[float]]]]:
        """Yields each wanted set metric with the features of each picture; arguments and errors as of `compared`."""
        for item in self._wanted(wanted, sets=True):
            with self._watch.running():
                if item.id not in self._sets:
                    self._sets[item.id] = load_set_metric(item.source, item.path, item.revision, self._device)
                features = self._sets[item.id].embed_images(pictures)
            yield item, np.asarray(features, np.float32).tolist()

    def _wanted(self, wanted: Collection[str], *, sets: bool) -> list[ResolvedMetric]:
        return [item for item in self._resolved if item.id in wanted and item.sets == sets] if wanted else []
