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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.store import layout
from orchestrator.store.blobs import Blobs, Versioned
from orchestrator.store.errors import DamagedFileError, LeaseHeldError, LeaseLostError, StoreError
from orchestrator.store.sealed import decode_document, encode_document

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
        self._beats = 0
        self._version: str | None = None
        self._renewed = 0.0

    def acquire(self) -> None:
        """Takes the lease; waits only where it must find out whether another machine's driver is dead.

        Raises:
            LeaseHeldError: another driver is at work.
        """
        found = self._blobs.read_versioned(layout.LEASE)
        if found is not None and not _is_free(found):
            self._watch(found)
        if not self._write(found.version if found else None):
            raise self._held(self._blobs.read_versioned(layout.LEASE))

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
                layout.LEASE, encode_document({"owner": None, "by": self._token}), self._version
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
        content = {"owner": self._token, "beat": self._beats, **_this_process()}
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


class Beating(threading.Thread):
    """Renews a lease until it is stopped, or lost."""

    def __init__(self, lease: Lease) -> None:
        """Takes a lease that is held.

        Args:
            lease: to be renewed.
        """
        super().__init__(daemon=True, name="lease")
        self._lease, self._over, self._lost = lease, threading.Event(), False
        self._renewing = threading.Lock()

    def alive(self) -> bool:
        """Tells whether the lease is still held; asks the storage where this process stood still for long."""
        return not self._lost and not (self._lease.is_overdue() and self._is_lost())

    def run(self) -> None:
        """Renews until told to stop."""
        while not self._over.wait(1.0):
            with self._renewing:
                if not self._renewed():
                    return

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

    def stop(self) -> None:
        """Ends the thread; returns when no renewal is under way."""
        self._over.set()
        self.join()

    def check(self) -> None:
        """Returns if the lease is still held; for work that writes for longer than a contender waits.

        Raises:
            LeaseLostError: another driver took over.
        """
        if not self.alive():
            raise LeaseLostError("another driver took these results over; this command stops")


@contextmanager
def leased(store: Store) -> Iterator[Beating]:
    """Holds the lease, and renews it beside whatever this process is busy with: a unit, a model, a large part."""
    lease = Lease(store.blobs)
    lease.acquire()
    beating = Beating(lease)
    beating.start()
    try:
        yield beating
    finally:
        beating.stop()
        lease.release()


def holder(blobs: Blobs) -> str | None:
    """Returns a mark of the lease as it stands, which changes while its driver lives; None where nobody holds it."""
    found = blobs.read_versioned(layout.LEASE)
    return None if found is None or _is_free(found) else found.version


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
