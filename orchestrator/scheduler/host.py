"""What surrounds a worker in the process where it runs: its model, its threads, and what becomes of its exceptions."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from loco_core.errors import LocoError, StoreError
from loco_core.masking import masked
from orchestrator.scheduler.protocol import Attempt, MakeWorker, Unit, UnitReport, Worker

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MESSAGE_LENGTH = 500

logger = logging.getLogger(__name__)


class WorkerHost:
    """Holds one model at a time and turns exceptions into reports.

    Args:
        name: of the worker, for the reports.
        make_worker: loads a model.
        threads: CPU threads of its computations. Sums depend on how they are split over threads, so results are equal
            bit for bit only between equal counts.
    """

    def __init__(self, name: str, make_worker: MakeWorker, threads: int) -> None:
        self._name = name
        self._make_worker = make_worker
        self._threads = threads
        self._worker: Worker | None = None
        # Read by the libraries when they are first imported, which make_worker does.
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))

    def bind(self, model: str) -> str:
        """Loads a model, after the one before has left the memory. Raises whatever loading raises.

        Returns:
            name of the device: that of a GPU where torch sees one, else ``cpu``.
        """
        self._worker = None
        release_memory()
        self._limit_threads()
        self._worker = self._make_worker(model)
        self._limit_threads()
        torch = sys.modules.get("torch")
        return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else "cpu"

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        """Runs a unit; an exception becomes the report of a failed attempt, and its traceback goes to the log."""
        if self._worker is None:
            raise RuntimeError(f"worker {self._name} was given a unit before a model")
        start = time.monotonic()
        try:
            report = self._worker.run(unit, attempt)
        except Exception as error:
            ids = {"unit_id": unit.unit_id, "attempt": attempt.number, "model": unit.model}
            logger.exception("unit %s, attempt %d", unit.unit_id, attempt.number, extra=ids)
            return UnitReport(
                unit.unit_id,
                attempt.number,
                "unstored" if isinstance(error, StoreError) else "failed",
                error_type=type(error).__name__,
                error=failure(error),
                seconds=time.monotonic() - start,
                worker=self._name,
            )
        return replace(report, worker=self._name)

    def _limit_threads(self) -> None:
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(self._threads)


def one_line(error: BaseException | str) -> str:
    """Returns a message on one line of bounded length, without credentials."""
    return _bounded(error, MESSAGE_LENGTH)


def failure(error: BaseException) -> str:
    """Returns what made a unit or a load fail, on one line.

    An error that was not written for a person, such as "[Errno 2] No such file or directory", ends with where it arose.
    """
    frames = [] if isinstance(error, LocoError) else traceback.extract_tb(error.__traceback__)
    place = f" ({'/'.join(Path(frames[-1].filename).parts[-2:])}, line {frames[-1].lineno})" if frames else ""
    return _bounded(error, MESSAGE_LENGTH - len(place)) + place


def _bounded(error: BaseException | str, length: int) -> str:
    text = " ".join(masked(str(error)).split()) or type(error).__name__
    return text if len(text) <= length else text[: length - 1] + "…"


def release_memory() -> None:
    """Frees what nothing refers to any more, torch's cache on a GPU included."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
