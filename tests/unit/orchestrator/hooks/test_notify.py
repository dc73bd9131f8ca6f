"""Messages: who gets one when, and that addresses are written nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from loco_core.errors import SpecError
from orchestrator.hooks.choice import hook_warnings
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport
from orchestrator.spec.mapping import sweep_of
from orchestrator.spec.watching import NotifySpec
from orchestrator.store import Store, encode_document, layout
from orchestrator.store.lease import _this_process
from orchestrator.store.testing import MemoryBlobs
from tests.support.fake_runs import run
from tests.support.inbox import CANARY, inbox
from tests.support.sweeps import FakeWorker, tiny_sweep

TO = "${env:NOTIFY_HERE}"


class Failing(FakeWorker):
    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        return UnitReport(unit.unit_id, attempt.number, "failed", error_type="ValueError", error="odd")


def test_the_end_is_told_and_the_address_is_written_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    blobs = MemoryBlobs()
    with inbox() as taken:
        monkeypatch.setenv("NOTIFY_HERE", taken.address)
        run(tiny_sweep("x", notify={"to": [TO]}), Store(blobs))
    assert taken.titles == ["loco-sweep: tiny is done"]
    assert "style/velor" in taken.messages[0]["message"]
    assert taken.messages[0]["type"] == "success"
    assert TO.encode() in blobs.files[layout.SWEEP]
    assert not [path for path, data in blobs.files.items() if CANARY.encode() in data]
    assert CANARY not in caplog.text + "".join(capfd.readouterr())


def test_the_first_failure_is_told_and_the_end_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with inbox() as taken:
        monkeypatch.setenv("NOTIFY_HERE", taken.address)
        run(tiny_sweep("x", notify={"to": [TO]}), Store(MemoryBlobs()), Failing)
    assert taken.titles == ["loco-sweep: tiny: a unit failed", "loco-sweep: tiny is done"]
    assert "ValueError: odd (3 attempts)" in taken.messages[0]["message"]
    assert "cells without a score" in taken.messages[1]["message"]
    assert [message["type"] for message in taken.messages] == ["failure", "failure"]


def test_occasions_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with inbox() as taken:
        monkeypatch.setenv("NOTIFY_HERE", taken.address)
        run(tiny_sweep("x", notify={"to": [TO], "when": ["start", "localized"]}), Store(MemoryBlobs()))
    assert taken.titles[0] == "loco-sweep: tiny begins"
    assert sorted(title.split(":")[2] for title in taken.titles[1:]) == [" fact/zandia", " style/velor"]


def test_a_driver_that_died_is_always_told(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryBlobs())
    lease = {"owner": "dead", **_this_process(), "started": "1", "at": "2026-01-02T03:04:05+00:00"}
    store.blobs.replace(layout.LEASE, encode_document(lease))
    with inbox() as taken:
        monkeypatch.setenv("NOTIFY_HERE", taken.address)
        run(tiny_sweep("x", notify={"to": [TO], "when": ["failed"]}), store)
    assert taken.titles == ["loco-sweep: tiny: its driver died"]
    assert "2026-01-02T03:04:05+00:00" in taken.messages[0]["message"]


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (None, "the environment variable NOTIFY_HERE is not set"),
        (f"nothing://{CANARY}", "NOTIFY_HERE holds no address that apprise knows"),
        (f"json://user:{CANARY}@127.0.0.1:9/{CANARY}", "did not take the message"),
    ],
)
def test_what_does_not_go_out_is_one_warning_without_the_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str | None, why: str
) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_HERE", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_HERE", address)
    spec = tiny_sweep("x", notify={"to": [TO], "when": ["start", "end"]})
    result, _ = run(spec, Store(MemoryBlobs()))
    assert result.summary.outcome == "done"
    assert caplog.text.count(why) == 1
    assert CANARY not in caplog.text
    # What can be known before, `plan` says.
    assert bool(hook_warnings(spec)) == ("did not take" not in why)


def test_a_service_that_refuses_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with inbox(status=403) as taken:
        monkeypatch.setenv("NOTIFY_HERE", taken.address)
        run(tiny_sweep("x", notify={"to": [TO]}), Store(MemoryBlobs()))
    assert len(taken.messages) == 1
    assert f"{TO} did not take the message" in caplog.text


MINIMAL: dict[str, Any] = {"name": "s", "models": ["toy"], "attributes": ["style/mori"], "scorer": "clip"}


@pytest.mark.parametrize(
    "keys",
    [
        {"notify": "slack://a/b/c"},
        {"notify": [TO, f"mailto://me:{CANARY}@mail.example"]},
        {"notify": {"to": ["${NOTIFY_HERE}"]}},
        {"hooks": [{"wandb": {"api_key": f"{CANARY}0123456789"}}]},
        {"hooks": [{"mlflow": {"tracking_uri": f"https://me:{CANARY}@mlflow.example"}}]},
    ],
)
def test_a_credential_in_the_file_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"credential") as caught:
        sweep_of({**MINIMAL, **keys})
    assert "expected" in str(caught.value)


def test_addresses_alone_stand_for_the_block() -> None:
    for value in (TO, [TO], {"to": TO}, {"to": [TO]}):
        assert sweep_of({**MINIMAL, "notify": value}).notify == NotifySpec(to=(TO,))
