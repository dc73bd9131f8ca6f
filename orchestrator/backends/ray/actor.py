"""The process of one worker on Ray."""

from __future__ import annotations

import faulthandler
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import ray

from loco_core.errors import StoreError
from loco_core.masking import hide, mask_everything
from loco_core.quiet import without_terminal
from orchestrator.backends.machine import describe
from orchestrator.backends.ray import BEGAN
from orchestrator.scheduler.host import WorkerHost, failure
from orchestrator.scheduler.needs import Node
from orchestrator.scheduler.protocol import Attempt, MakeWorker, Unit, UnitReport


@dataclass(frozen=True)
class Place:
    """Where an actor runs, and for how many seconds it has."""

    worker_id: str
    node: Node
    pid: int
    seconds: float


class WorkerActor:
    """The process of one worker."""

    def __init__(self, name: str, make_worker: MakeWorker, threads: int) -> None:
        faulthandler.enable()
        without_terminal()
        mask_everything()
        self._folder = os.environ.get("PWD", "")
        self._host = WorkerHost(name, make_worker, threads)
        self._failed = 0

    def place(self, secrets: Mapping[str, str], gpus: int) -> Place:
        """Says where it runs; takes the secrets of the job, which this way stand in no log and no table of Ray."""
        os.environ.update(secrets)
        hide(secrets.values())
        context = ray.get_runtime_context()
        node, seconds = describe(context.get_node_id(), gpus), time.monotonic() - BEGAN
        return Place(context.get_worker_id(), node, os.getpid(), seconds)

    def bind(self, model: str) -> str | tuple[str, str, bool]:
        """Loads a model; returns the device, or what went wrong: an exception's class need not exist in the driver."""
        _stand_in(self._folder)
        try:
            return self._host.bind(model)
        except Exception as error:
            logging.getLogger(__name__).exception("loading %s", model)
            return type(error).__name__, failure(error), isinstance(error, StoreError)

    def run(self, unit: Unit, attempt: Attempt, heard: int) -> UnitReport | None:
        """Runs a unit, unless the driver has yet to hear of a failed one: this one might take that report with it.

        Args:
            unit: what to do.
            attempt: which attempt it is.
            heard: number of failed reports of this actor that the driver had when it called.

        Returns:
            the report; None where nothing was run. The driver calls again when it has heard.
        """
        if heard < self._failed:
            return None
        _stand_in(self._folder)
        report = self._host.run(unit, attempt)
        self._failed += is_failed(report)
        return report


def is_failed(report: UnitReport) -> bool:
    """Tells whether a report is one that its actor waits to be heard."""
    return report.outcome in ("failed", "unstored")


def _stand_in(folder: str) -> None:
    """Enters a job's folder again if Ray has unpacked it anew, as it does where several nodes share a machine.

    The folder that the process stood in is deleted then, and libraries that ask for it fail: importing torch aborts.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        os.chdir(folder if os.path.isdir(folder) else "/")
