"""Connecting to a Ray without letting it take over this process, and noticing when its head is gone."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from ray._private import ray_constants, services
from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from loco_core.errors import wants_token
from orchestrator.backends.ray.local import AUTH_MODE, AUTH_TOKEN, refresh
from orchestrator.scheduler.host import one_line
from orchestrator.scheduler.protocol import BackendError

CONNECT_SECONDS = 10.0
HEAD_POLL_SECONDS, WAIT_SECONDS = 2.0, 0.5
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
METRICS_PORTS = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
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


def _check_language(address: str) -> None:
    """Checks that what listens speaks HTTP/2, as heads do: for anything else Ray waits most of a minute."""
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    host, _, port = address.rpartition(":")
    answer = b""
    with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as sock:
        sock.sendall(GREETING)
        while len(answer) < len(SETTINGS) and (more := sock.recv(len(SETTINGS) - len(answer))):
            answer += more
    # The kind of the first frame.
    if answer[3:4] != SETTINGS[3:4]:
        raise BackendError(
            f"what answers at {address} is no head of a Ray cluster; expected the address that `ray start --head` "
            "prints for other nodes to join (10.0.0.1:6379)"
        )


def _reach(address: str, timeout: float) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()


@contextmanager
def admitted(address: str) -> Iterator[str]:
    """Yields the address at which the head of a cluster lets this process in, prepared so that Ray finds it there.

    Args:
        address: HOST:PORT of its GCS, or ``auto`` for the cluster of this machine.

    Raises:
        BackendError: nothing answers there, or it wants another token.
    """
    if address == "auto":
        try:
            address = services.get_ray_address_from_environment("auto", None)
        except ConnectionError as error:
            raise BackendError(
                "no Ray cluster runs on this machine; expected HOST:PORT of a head (10.0.0.1:6379)"
            ) from error
    knock(address)
    _check_language(address)
    with ExitStack() as stack:
        if _on_loopback_only(address):
            stack.enter_context(loopback())
        _check_token(address)
        yield address


def _on_loopback_only(address: str) -> bool:
    """Tells whether a head does not listen at the address of this machine, which Ray puts in place of loopback's."""
    host, _, port = address.rpartition(":")
    outside = services.resolve_ip_for_localhost(host.strip("[]"))
    if outside == host.strip("[]"):
        return False
    try:
        _reach(f"{outside}:{port}", 1.0)
    except OSError:
        return True
    return False


def _check_token(address: str) -> None:
    """Asks the head who it is, once: Ray would ask for minutes, and then not say that it was turned away."""
    refresh()
    try:
        token = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    except (AuthenticationError, RuntimeError) as error:
        why = one_line(error).split(". ")[0]
        raise BackendError(f"the token for {address} cannot be read: {why}") from error
    if not re.fullmatch(r"[!-~]*", os.environ.get(AUTH_TOKEN, "").strip()):
        # Ray would abort.
        raise BackendError(f"{AUTH_TOKEN} holds no token: expected one word, as `ray get-auth-token` prints it")
    if token:
        os.environ.setdefault(AUTH_MODE, "token")
    elif os.environ.get(AUTH_MODE) == "token":
        # Ray would end this process.
        raise _turned_away(address)
    refresh()
    with _heard() as said:
        try:
            GcsClient(address=address)
            return
        except (RayError, OSError) as error:
            # The reason is in what Ray's other half prints only.
            cause, turned_away = error, "Unauthenticated" in said()
    if turned_away:
        raise _turned_away(address) from cause
    raise BackendError(f"what answers at {address} is no head of a Ray cluster: {one_line(cause)}") from cause


def _turned_away(address: str) -> BackendError:
    mode = os.environ.get(AUTH_MODE, "token")
    return BackendError(
        wants_token(address) + ("" if mode == "token" else f"; {AUTH_MODE} is {mode} here, expected token")
    )


@contextmanager
def _heard() -> Iterator[Callable[[], str]]:
    """Keeps what is printed on this process's standard error from the terminal; yields what returns it."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def said() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)


@contextmanager
def own_signals() -> Iterator[None]:
    """Keeps this process's SIGTERM handler, which ray.init replaces, and a hangup from the processes it starts.

    A terminal that closes tells all of them: Ray would be gone before this process could leave it in order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)


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


@contextmanager
def unobserved() -> Iterator[None]:
    """Keeps monitor and dashboard of a Ray that is started here from serving metrics, which ask for no token."""
    before = {name: os.environ.get(name) for name in METRICS_PORTS}
    # No port: Ray notes that it cannot serve them, and goes on.
    os.environ.update(dict.fromkeys(METRICS_PORTS, "-1"))
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def leave_at_once() -> None:
    """Ends this process as one that failed, without what is still registered for its exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
