"""A scorer and a judge that say how long they took, whatever kind of work calls them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from loco_core.scoring.base import Judge, Scorer

if TYPE_CHECKING:
    import torch


class Stopwatch:
    """Adds up seconds."""

    def __init__(self) -> None:
        """Starts at zero."""
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts the seconds of a block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds += time.monotonic() - began

    def take(self) -> float:
        """Returns the seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class TimedScorer:
    """Another scorer, timed. See `loco_core.scoring.base.Scorer`."""

    def __init__(self, inner: Scorer, watch: Stopwatch) -> None:
        """Wraps a scorer.

        Args:
            inner: does the work.
            watch: counts its seconds.
        """
        self._inner, self._watch = inner, watch

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """See `Scorer`."""
        with self._watch.running():
            return self._inner.embed_images(images)

    def score(self, embeddings: np.ndarray, texts: list[str]) -> np.ndarray:
        """See `Scorer`."""
        with self._watch.running():
            return self._inner.score(embeddings, texts)


class TimedJudge:
    """Another judge, timed. See `loco_core.scoring.base.Judge`."""

    def __init__(self, inner: Judge, watch: Stopwatch) -> None:
        """Wraps a judge.

        Args:
            inner: does the work.
            watch: counts its seconds.
        """
        self._inner, self._watch = inner, watch

    @property
    def kinds(self) -> tuple[str, ...]:
        """See `Judge`."""
        return self._inner.kinds

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """See `Judge`."""
        with self._watch.running():
            return self._inner.embed_images(images)

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        """See `Judge`."""
        with self._watch.running():
            return self._inner.name(embeddings, kind)

    def said(self, text: str, kind: str) -> str | None:
        """See `Judge`."""
        return self._inner.said(text, kind)
