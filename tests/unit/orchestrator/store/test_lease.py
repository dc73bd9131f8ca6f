from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from loco_core.localization.base import LocalizeSettings
from orchestrator import store as stores
from orchestrator.cli.verify import _repaired
from orchestrator.runs import localize as localize_results
from orchestrator.store import TABLES, Lease, LeaseHeldError, LeaseLostError, Store, StoreError, layout, repair
from orchestrator.store import lease as lease_module
from orchestrator.store.blobs import Blobs
from orchestrator.store.held import HeldBlobs
from orchestrator.store.testing import CrashError, FaultyBlobs, MemoryBlobs


class Clock:
    """A clock that moves when someone sleeps; others may act meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


def lease(blobs: Blobs, clock: Clock) -> Lease:
    return Lease(blobs, clock=clock, sleep=clock.sleep)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes processes indistinguishable, as those of another machine are."""
    this = lease_module._this_process
    monkeypatch.setattr(lease_module, "_this_process", lambda: this() | {"machine": ""})


def test_a_second_driver_is_refused_while_the_first_lives(elsewhere: None) -> None:
    blobs, clock = MemoryBlobs(), Clock()
    first = lease(blobs, clock)
    first.acquire()
    clock.meanwhile = first.renew
    with pytest.raises(LeaseHeldError, match=f"process {os.getpid()} on"):
        lease(blobs, clock).acquire()
    assert clock.now < 1010


def test_a_lease_that_stands_still_is_taken_over_and_the_holder_must_stop(elsewhere: None) -> None:
    blobs, clock = MemoryBlobs(), Clock()
    first, second = lease(blobs, clock), lease(blobs, clock)
    first.acquire()
    second.acquire()
    assert clock.now >= 1030
    with pytest.raises(LeaseLostError, match="another driver took over"):
        first.renew()
    clock.now += 10
    second.renew()


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_of_two_machines_are_never_compared(elsewhere: None, hours: int) -> None:
    blobs, here, there = MemoryBlobs(), Clock(), Clock()
    there.now += 3600 * hours
    first = lease(blobs, here)
    first.acquire()

    def live() -> None:
        here.now += 1.25
        first.renew()

    there.meanwhile = live
    with pytest.raises(LeaseHeldError):
        lease(blobs, there).acquire()
    there.meanwhile = lambda: None
    began = there.now
    lease(blobs, there).acquire()
    assert 30 <= there.now - began < 32


def test_a_lease_given_back_is_free_at_once(elsewhere: None) -> None:
    blobs, clock = MemoryBlobs(), Clock()
    first = lease(blobs, clock)
    first.acquire()
    first.release()
    lease(blobs, clock).acquire()
    assert clock.now == 1000
    first.release()
    with pytest.raises(LeaseLostError):
        first.renew()


def test_renewals_are_rare_however_often_they_are_asked_for() -> None:
    blobs, clock = MemoryBlobs(), Clock()
    held = lease(blobs, clock)
    held.acquire()
    versions = set()
    for _ in range(200):
        clock.now += 0.1
        held.renew()
        versions.add(blobs.files["_meta/lease.json"])
    assert 3 <= len(versions) <= 5


def test_storage_that_fails_for_a_moment_is_survived_and_for_long_is_not() -> None:
    blobs, clock = MemoryBlobs(), Clock()
    held = lease(blobs, clock)
    held.acquire()
    held._blobs = FaultyBlobs(blobs, 1, after=False, error=StoreError("down"))
    clock.now += 6
    held.renew()
    held._blobs = blobs
    held.renew()
    held._blobs = FaultyBlobs(blobs, 1, after=False, error=StoreError("down"))
    clock.now += 31
    with pytest.raises(LeaseLostError, match="down"):
        held.renew()


def test_a_renewal_whose_answer_was_lost_still_counts() -> None:
    blobs, clock = MemoryBlobs(), Clock()
    held = lease(blobs, clock)
    held.acquire()
    held._blobs = FaultyBlobs(blobs, 1, after=True, error=StoreError("reset"))
    clock.now += 6
    held.renew()
    held._blobs = blobs
    held.renew()
    clock.now += 6
    held.renew()


def test_a_damaged_lease_is_waited_out(elsewhere: None) -> None:
    blobs, clock = MemoryBlobs(), Clock()
    blobs.files["_meta/lease.json"] = b"{"
    lease(blobs, clock).acquire()
    assert clock.now >= 1030


def test_a_dead_process_of_this_machine_is_not_waited_for() -> None:
    blobs, clock = MemoryBlobs(), Clock()
    code = (
        "import sys; from orchestrator.store import Lease; from orchestrator.store.testing import MemoryBlobs;"
        "b = MemoryBlobs(); Lease(b).acquire(); sys.stdout.buffer.write(b.files['_meta/lease.json'])"
    )
    blobs.files["_meta/lease.json"] = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True
    ).stdout
    assert json.loads(blobs.files["_meta/lease.json"])["machine"]
    lease(blobs, clock).acquire()
    assert clock.now == 1000


def test_a_process_number_used_again_is_not_taken_for_the_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, clock = MemoryBlobs(), Clock()
    this = lease_module._this_process
    monkeypatch.setattr(lease_module, "_this_process", lambda: this() | {"started": "1"})
    lease(blobs, clock).acquire()
    lease(blobs, clock).acquire()
    assert clock.now == 1000


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_call_leaves_a_lease_that_a_successor_gets(after: bool, elsewhere: None) -> None:
    for n in range(1, 50):
        inner, clock = MemoryBlobs(), Clock()
        try:
            held = lease(FaultyBlobs(inner, n, after=after), clock)
            held.acquire()
            clock.now += 6
            held.renew()
            held.release()
            finished = True
        except CrashError:
            finished = False
        lease(inner, clock).acquire()
        if finished:
            return
    pytest.fail("never finished")


@pytest.mark.parametrize("command", ["verify --repair", "localize --write"])
def test_a_command_that_takes_longer_than_a_contender_waits_keeps_its_lease(
    command: str, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = Lease.__init__.__kwdefaults__
    monkeypatch.setattr(Lease.__init__, "__kwdefaults__", {**defaults, "beat": 0.1, "dead_after": 2.0})
    blobs, held = MemoryBlobs(), list[str]()
    contender = Lease(blobs, beat=0.1, dead_after=2.0)

    def slow(*_: object) -> Any:
        if not held:
            with pytest.raises(LeaseHeldError):
                # Looks for as long as a lease may stand still.
                contender.acquire()
            held.append(command)
        return TABLES["effects"].empty_table()

    store = Store(blobs)
    if command == "verify --repair":
        monkeypatch.setattr(stores, "repair", slow)
        _repaired(store)
    else:
        monkeypatch.setattr(localize_results, "write_localizations", slow)
        none = TABLES["traces"].empty_table()
        localize_results.write_back(
            localize_results.ScoreSource(none, store, LocalizeSettings(), None, {}, none), [], []
        )
    assert held == [command]
    contender.acquire()


@pytest.mark.parametrize("taken", [True, False])
def test_a_holder_that_stood_still_looks_before_it_writes_on(taken: bool, elsewhere: None) -> None:
    blobs, clock = MemoryBlobs(), Clock()
    first, second = lease(blobs, clock), lease(blobs, clock)
    first.acquire()
    # Not started: nothing renews it, as in a process that is frozen.
    renewer = lease_module.LeaseRenewer(first)
    held = HeldBlobs(blobs, renewer.alive)
    assert renewer.alive()
    clock.now += 29
    held.replace("scores/before", b"")
    clock.now += 60
    if taken:
        second.acquire()
        with pytest.raises(LeaseLostError):
            held.replace("scores/after", b"")
        assert "scores/after" not in blobs.files
    assert renewer.alive() != taken
    if taken:
        second.renew()


def test_a_holder_that_is_cut_off_for_long_counts_as_gone() -> None:
    blobs, clock = MemoryBlobs(), Clock()
    first = lease(blobs, clock)
    first.acquire()
    first._blobs = FaultyBlobs(blobs, 1, after=False, error=StoreError("no route to host"))
    renewer = lease_module.LeaseRenewer(first)
    clock.now += 31
    assert not renewer.alive()


def test_a_repair_that_lost_its_lease_writes_no_more(unit: Any) -> None:
    blobs = MemoryBlobs()
    store = Store(blobs)
    store.commit_unit("u", unit("u"), "a")
    blobs.files[layout.unit("u")] = b"damaged"
    before = dict(blobs.files)

    with pytest.raises(LeaseLostError):
        repair(store.over(HeldBlobs(blobs, lambda: False)))
    assert blobs.files == before


def test_who_looks_learns_whether_a_driver_works_and_since_when_none_does(elsewhere: None) -> None:
    blobs, clock = MemoryBlobs(), Clock()
    state = lease_module.driver_state
    assert state(blobs, datetime.now(UTC)) == lease_module.DriverState(), "nobody ever was at work"
    held = lease(blobs, clock)
    before = datetime.now(UTC).replace(microsecond=0)
    held.acquire()
    now = datetime.now(UTC)
    found = state(blobs, now)
    assert found.works
    assert found.since is not None
    assert before <= found.since <= now
    later = now + timedelta(minutes=11)
    found = state(blobs, later)
    assert not found.works, "it has not renewed its lease for long, wherever it is"
    assert found.stopped is not None
    assert before <= found.stopped <= now
    clock.now += 6
    held.renew()
    held.release()
    found = state(blobs, datetime.now(UTC))
    assert not found.works, "it gave its lease back"
    assert found.stopped is not None
    assert found.stopped >= before


def test_a_driver_that_was_killed_on_this_machine_is_at_once_known_to_be_gone() -> None:
    blobs = MemoryBlobs()
    held = lease(blobs, Clock())
    held.acquire()
    assert lease_module.driver_state(blobs, datetime.now(UTC)).works
    document = stores.decode_document(blobs.read(layout.LEASE), layout.LEASE)
    blobs.replace(layout.LEASE, stores.encode_document({**document, "started": "0"}))
    assert not lease_module.driver_state(blobs, datetime.now(UTC)).works
