"""Connecting to a Ray without letting it take over this process, and noticing when its head is gone."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants

from orchestrator.scheduler.host import one_line
from orchestrator.scheduler.protocol import BackendError

CONNECT_SECONDS = 10.0
HEAD_POLL_SECONDS, WAIT_SECONDS = 2.0, 0.5
LOOPBACK_ONLY = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
RECONNECT_VARIABLE, RECONNECT_SECONDS = "RAY_gcs_rpc_server_reconnect_timeout_s", 60.0
"""After so long without its head Ray ends this process, with no word to Python."""


class Head:
    """Whether the head of a cluster answers; asked through a socket, as Ray's own calls wait for it without end.

    Args:
        address: HOST:PORT of its GCS.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._next, self._silent_since = 0.0, 0.0
        self.gone = False
        self._patience = float(os.environ.get(RECONNECT_VARIABLE) or RECONNECT_SECONDS) * 2 / 3

    def answers(self) -> bool:
        """Tells whether it did when it was asked last.

        Raises:
            BackendError: it has not for so long that Ray is about to end this process.
        """
        now = time.monotonic()
        if now >= self._next:
            self._next = now + HEAD_POLL_SECONDS
            try:
                _reach(self._address, 1.0)
                self._silent_since = 0.0
            except OSError:
                self._silent_since = self._silent_since or now
        if self._silent_since and now - self._silent_since > self._patience:
            self.gone = True
            raise BackendError(f"the head of the Ray cluster at {self._address} is gone; the same command resumes")
        return not self._silent_since

    def wait(self) -> None:
        """Returns when it answers.

        Raises:
            BackendError: see :meth:`answers`.
        """
        while not self.answers():
            time.sleep(WAIT_SECONDS)


def knock(address: str) -> None:
    """Checks that something listens: where nothing does, Ray waits for minutes and then ends this process."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise BackendError(
            f'"{address}" is no address of a Ray cluster; expected HOST:PORT of its head (10.0.0.1:6379), or auto'
        )
    try:
        _reach(address, CONNECT_SECONDS)
    except (OSError, OverflowError) as error:
        raise BackendError(f"no Ray cluster answers at {address}: {one_line(error)}") from error


def _reach(address: str, timeout: float) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()


@contextmanager
def own_signals() -> Iterator[None]:
    """Keeps this process's SIGTERM handler, which ray.init replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def own_logging() -> Iterator[None]:
    """Keeps this process's logging as it is, for people, whatever format ray.init sets for the job."""
    loggers = [logging.getLogger(), logging.getLogger("ray")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    disabled = logging.root.manager.disable
    # That it connects, and to what, is nothing that a person must know.
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(disabled)
        for logger, (level, handlers) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers = handlers


@contextmanager
def loopback() -> Iterator[None]:
    """Makes a Ray that is started here listen on loopback only; Ray itself does so on systems without clusters."""
    before = os.environ.get(LOOPBACK_ONLY), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK_ONLY], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        del os.environ[LOOPBACK_ONLY]
        if before[0] is not None:
            os.environ[LOOPBACK_ONLY] = before[0]
        ray_constants.ENABLE_RAY_CLUSTER = before[1]


def leave_at_once() -> None:
    """Ends this process as one that failed, without what is still registered for its exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
