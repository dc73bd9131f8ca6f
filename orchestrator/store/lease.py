"""One driver at a time: a lease by compare-and-swap.

No clock is compared with another machine's. The holder writes its lease anew every few seconds; a contender that sees
it unchanged for long enough, by its own clock, takes it over. On the holder's own machine a contender need not wait: it
looks whether that process lives. A holder that finds its lease taken must stop.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.store import layout
from orchestrator.store.blobs import Blobs, Versioned
from orchestrator.store.checksums import decode_document, encode_document
from orchestrator.store.errors import DamagedFileError, LeaseHeldError, LeaseLostError, StoreError
from orchestrator.store.held import HeldBlobs

if TYPE_CHECKING:
    from orchestrator.store.store import Store

BEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0

_log = logging.getLogger(__name__)


class Lease:
    """The right to drive one sweep."""

    def __init__(
        self,
        blobs: Blobs,
        *,
        beat: float = BEAT_SECONDS,
        dead_after: float = DEAD_AFTER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Makes a contender; nothing is read or written yet.

        Args:
            blobs: of the results root.
            beat: seconds between two renewals.
            dead_after: seconds without a change after which a holder counts as dead; several beats.
            clock: seconds of a clock that never goes back.
            sleep: pauses for seconds.
        """
        self._blobs, self._beat, self._dead_after = blobs, beat, dead_after
        self._clock, self._sleep = clock, sleep
        self._token = uuid.uuid4().hex
        self._died: datetime | None = None
        self._since = ""
        self._beats = 0
        self._version: str | None = None
        self._renewed = 0.0

    def acquire(self) -> None:
        """Takes the lease; waits only where it must find out whether another machine's driver is dead.

        Raises:
            LeaseHeldError: another driver is at work.
        """
        self._since = _now()
        found = self._blobs.read_versioned(layout.LEASE)
        if found is not None and not _is_free(found):
            self._watch(found)
        self._died = _seen_alive(found)
        if not self._write(found.version if found else None):
            raise self._held(self._blobs.read_versioned(layout.LEASE))

    @property
    def died(self) -> datetime | None:
        """When the holder before this one was seen last, if it never gave the lease back; else None."""
        return self._died

    def renew(self) -> None:
        """Shows that the holder lives, if a beat has passed; cheap to call often.

        A storage that fails for a moment is no reason to stop: the lease counts as lost only when it was not renewed
        for as long as a contender waits.

        Raises:
            LeaseLostError: another driver took over, or may have.
        """
        if self._version is None:
            raise LeaseLostError(f"{self._blobs.root}: the lease is not held")
        if self._clock() - self._renewed < self._beat:
            return
        try:
            if self._write(self._version) or self._is_own():
                return
        except StoreError as error:
            if self._clock() - self._renewed < self._dead_after:
                _log.warning("the lease could not be renewed, trying again: %s", error)
                return
            raise LeaseLostError(f"{self._blobs.root}: the lease could not be renewed ({error})") from error
        raise LeaseLostError(f"{self._blobs.root}: another driver took over these results; this one stops")

    def is_overdue(self) -> bool:
        """Tells whether it was not renewed for so long that a contender may have taken it over."""
        return self._clock() - self._renewed >= self._dead_after

    def release(self) -> None:
        """Gives the lease back, if it is still held."""
        if self._version is not None:
            self._blobs.compare_and_swap(
                layout.LEASE, encode_document({"owner": None, "by": self._token, "at": _now()}), self._version
            )
            self._version = None

    def _watch(self, seen: Versioned) -> None:
        """Returns when the holder is dead or gone; raises when it moves."""
        start = self._clock()
        while self._clock() - start < self._dead_after:
            self._sleep(min(self._beat / 4, 1.0))
            now = self._blobs.read_versioned(layout.LEASE)
            if now is None or now.version != seen.version:
                raise self._held(now)

    def _write(self, expected: str | None) -> bool:
        self._beats += 1
        # The time of the write counts from before it: a contender may have seen it at once.
        started = self._clock()
        # For people who look: no driver decides by what another machine's clock says.
        times = {"since": self._since, "at": _now()}
        content = {"owner": self._token, "beat": self._beats, **times, **_this_process()}
        version = self._blobs.compare_and_swap(layout.LEASE, encode_document(content), expected)
        if version is None:
            return False
        self._version, self._renewed = version, started
        return True

    def _is_own(self) -> bool:
        """Tells whether the lease as it stands is this holder's after all: a write whose answer was lost."""
        found = self._blobs.read_versioned(layout.LEASE)
        if found is None or _content(found).get("owner") != self._token:
            return False
        self._version, self._renewed = found.version, self._clock()
        return True

    def _held(self, found: Versioned | None) -> LeaseHeldError:
        content = _content(found) if found else {}
        who = f"process {content['pid']} on {content['host']}" if "pid" in content else "another process"
        return LeaseHeldError(
            f"{self._blobs.root}: {who} is running this sweep; wait for it or stop it, then run the command again"
        )


class LeaseRenewer(threading.Thread):
    """Renews a lease until it is stopped, or lost."""

    def __init__(self, lease: Lease) -> None:
        """Takes a lease that is held.

        Args:
            lease: the lease to renew.
        """
        super().__init__(daemon=True, name="lease")
        self._lease, self._over, self._lost = lease, threading.Event(), False
        self._renewing = threading.Lock()

    def alive(self) -> bool:
        """Tells whether the lease is still held; asks the storage where this process stood still for long."""
        return not self._lost and not (self._lease.is_overdue() and self._is_lost())

    def run(self) -> None:
        """Renews until it is asked to stop."""
        while not self._over.wait(1.0):
            with self._renewing:
                if not self._renewed():
                    return

    def stop(self) -> None:
        """Ends the thread; returns when no renewal is under way."""
        self._over.set()
        self.join()

    def _renewed(self) -> bool:
        try:
            self._lease.renew()
        except LeaseLostError:
            self._lost = True
        return not self._lost

    def _is_lost(self) -> bool:
        # A renewal that does not come back tells as much as one that fails.
        if not self._renewing.acquire(timeout=BEAT_SECONDS):
            return True
        try:
            return not self._renewed()
        finally:
            self._renewing.release()


@dataclass(frozen=True)
class Held:
    """Results that are one command's for now.

    Attributes:
        store: the results; writing raises `LeaseLostError` once another driver took them over.
        alive: tells whether the lease is still held.
        died: when the command before this one was seen last, if it died: killed, or its machine is gone.
    """

    store: Store
    alive: Callable[[], bool]
    died: datetime | None = None


@contextmanager
def leased(store: Store) -> Iterator[Held]:
    """Holds the lease, and renews it beside whatever this process is busy with: a unit, a model, a large part.

    Raises:
        LeaseHeldError: another driver is at work.
    """
    lease = Lease(store.blobs)
    lease.acquire()
    renewer = LeaseRenewer(lease)
    renewer.start()
    blobs = HeldBlobs(store.blobs, renewer.alive)
    try:
        yield Held(store.over(blobs), renewer.alive, lease.died)
    finally:
        written = False
        try:
            # A thread that is at work still has written its last file.
            written = blobs.close(DEAD_AFTER_SECONDS)
        finally:
            renewer.stop()
            # Where a write hangs, the next driver waits until the lease has run out.
            if written:
                lease.release()


def holder(blobs: Blobs) -> str | None:
    """Returns a mark of the lease as it stands, which changes while its driver lives; None where nobody holds it."""
    found = blobs.read_versioned(layout.LEASE)
    return None if found is None or _is_free(found) else found.version


@dataclass(frozen=True)
class DriverState:
    """Whether a command is at work on results, for a person who looks.

    Attributes:
        works: whether one is.
        since: when it took the lease; None where none is at work.
        stopped: when the last one gave the lease back, or was seen last; None where none ever was, or one is at work.
        died: whether the last one never gave the lease back: it was killed, or its machine is gone.
    """

    works: bool = False
    since: datetime | None = None
    stopped: datetime | None = None
    died: bool = False


def driver_state(blobs: Blobs, now: datetime) -> DriverState:
    """Tells whether a command is at work, from its lease: one that is not renewed for long has died.

    Args:
        blobs: of the results root.
        now: the time, with which the times of the lease are compared.
    """
    return state_of(blobs.read_versioned(layout.LEASE), now)


def state_of(found: Versioned | None, now: datetime) -> DriverState:
    """Tells the same from a lease that was read.

    Args:
        found: the lease; None where there is none.
        now: as of `driver_state`.
    """
    if found is None:
        return DriverState()
    content = _content(found)
    since, seen = _time(content.get("since")), _time(content.get("at"))
    if _is_free(found) or seen is None or (now - seen).total_seconds() > DEAD_AFTER_SECONDS:
        return DriverState(stopped=seen, died=_seen_alive(found) is not None)
    return DriverState(works=True, since=since)


def _seen_alive(found: Versioned | None) -> datetime | None:
    """Returns when a lease was renewed last that was not given back; None of one that was."""
    content = _content(found) if found else {}
    return _time(content.get("at")) if content.get("owner") is not None else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None


def _content(found: Versioned) -> dict[str, Any]:
    try:
        return decode_document(found.data, layout.LEASE)
    except DamagedFileError:
        return {}


def _is_free(found: Versioned) -> bool:
    """Tells whether nobody holds the lease: it was given back, or its process on this machine is gone."""
    content = _content(found)
    if "owner" in content and content["owner"] is None:
        return True
    here = _this_process()
    known = here["machine"] and content.get("machine") == here["machine"]
    return bool(known) and _start_of(int(content["pid"])) != content["started"]


def _this_process() -> dict[str, Any]:
    """Returns who this is. ``machine`` is empty where processes cannot be told apart surely."""
    try:
        # Process numbers mean something within one boot and one container only.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        machine = ""
    return {"pid": os.getpid(), "host": socket.gethostname(), "machine": machine, "started": _start_of(os.getpid())}


def _start_of(pid: int) -> str:
    """Returns when a process started, in kernel ticks; empty if it is gone. Numbers are used again, starts are not."""
    try:
        # The name of the program, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, started = fields[0], fields[19]
    return "" if state in "ZX" else started
