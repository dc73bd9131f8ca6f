"""What compares pictures of an edited model with those that it draws without the edit; one file each in `metrics`.

A *picture metric* compares two pictures of one prompt and seed, a *set metric* two sets of such pictures. A file has a
class ``Metric`` that is built from a path, a revision and a device, and fulfils :class:`PictureMetric`, or
:class:`SetMetric` beside a function ``distances`` (:class:`Distances`). The driver calls the latter, on features that
workers have written: it has neither torch nor pictures. What a file says of itself is ``INFO``, a :class:`MetricInfo`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from loco_core import plugins
from loco_core.quiet import quiet_libraries
from loco_core.statistics import Floats

if TYPE_CHECKING:
    import torch

Numbers = NDArray[np.intp]


@dataclass(frozen=True)
class MetricInfo:
    """What a metric says of itself, without torch.

    Attributes:
        weights: folder or hub id of its weights where a sweep names none; empty where a sweep must, None where it has
            no weights.
        model_types: what ``model_type`` of the weights' ``config.json`` may be; empty where that is not asked.
        lacks: of set metrics, called with the number of pictures of a set and that of features of a picture: what is
            wrong with values of so few, in words; empty where nothing is. Such values have no interval, nor have those
            of which a resample has so few.
        least_side: shorter side in pixels of the smallest picture that it compares; 0 where it compares all.
        least: what no true value is below, and no end of an interval is either.
        text: what the report's text on methods says of it.
    """

    weights: str | None = None
    model_types: tuple[str, ...] = ()
    lacks: Callable[[int, int], str] = lambda pictures, width: ""
    least_side: int = 0
    least: float = -math.inf
    text: str = ""


class PictureMetric(Protocol):
    """Compares pictures one by one."""

    def compare(self, before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
        """Returns float64 ``(n,)`` of pictures ``(n, 3, height, width)`` in [0, 1] without and with an edit."""


class SetMetric(Protocol):
    """Turns pictures into what sets of them are compared by."""

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns float32 features ``(n, width)`` of pictures ``(n, 3, height, width)`` in [0, 1]."""


class Distances(Protocol):
    """The function ``distances`` of a set metric; numpy alone."""

    def __call__(self, before: Floats, after: Floats, prompts: Numbers, weights: Floats) -> Floats:
        """Returns the distance of two sets, once for each row of weights.

        Args:
            before: ``(n, width)`` features of pictures without the edit.
            after: ``(n, width)`` of pictures of the same prompts and seeds with it.
            prompts: ``(n,)`` number of the prompt of each, from 0.
            weights: ``(b, prompts)`` how many times each prompt is in the sets.

        Returns:
            ``(b,)``; not-a-number where a row of weights leaves too few pictures.
        """


def metric_info(name: str) -> MetricInfo:
    """Returns what a metric says of itself.

    Args:
        name: a key of the plug-in group, or a Python file.

    Raises:
        SpecError: there is no such metric, or it has no ``Metric``.
    """
    plugins.function("metrics", name, "Metric")
    return plugins.declared("metrics", name, "INFO", MetricInfo())


def text_of_results(name: str) -> str:
    """Returns what a report says of a metric that results name; of a file, or one that is not here, nothing."""
    return metric_info(name).text if name in plugins.keys("metrics") else ""


def compares_sets(name: str) -> bool:
    """Tells whether a metric compares sets of pictures; else it compares pictures one by one."""
    return hasattr(plugins.load("metrics", name), "distances")


def metric_id(name: str, weights: str) -> str:
    """Returns what a metric is called in results: its name, and what tells versions of its code and weights apart.

    Args:
        name: a key of the plug-in group, or a Python file.
        weights: hash of its weights; empty where it has none.
    """
    return plugins.identity("metrics", name, weights)


def load_picture_metric(name: str, path: str, revision: str | None, device: str) -> PictureMetric:
    """Loads a metric that compares pictures one by one.

    Args:
        name: a key of the plug-in group, or a Python file.
        path: folder or hub id of its weights; empty where it has none.
        revision: the hub's commit; None for a folder or no weights.
        device: e.g. ``cuda`` or ``cpu``.

    Raises:
        ModelError: its weights cannot be loaded.
        SpecError: there is no such metric.
    """
    quiet_libraries()
    metric: PictureMetric = plugins.function("metrics", name, "Metric")(path, revision, device)
    return metric


def load_set_metric(name: str, path: str, revision: str | None, device: str) -> SetMetric:
    """Loads what a metric of sets embeds pictures with; arguments and errors as of `load_picture_metric`."""
    quiet_libraries()
    metric: SetMetric = plugins.function("metrics", name, "Metric")(path, revision, device)
    return metric
