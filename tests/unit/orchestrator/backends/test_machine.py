from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.backends import machine
from orchestrator.scheduler.needs import WorkerNeeds

NEEDS = WorkerNeeds(gpus=1)


@pytest.fixture(autouse=True)
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("cuda", ["12.9", None])
def test_a_gpu_that_torch_does_not_see_is_not_taken_for_a_machine_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuda: str | None
) -> None:
    monkeypatch.setattr(machine, "DEVICES", (tmp_path,))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = machine.describe("n1", 1)
    assert ("driver may be too old" if cuda else "made for CPUs") in str(found)
    assert not NEEDS.fit(found)
    assert not NEEDS.met_by(NEEDS, found)


@pytest.mark.parametrize("gpus", [0, None, 1])
def test_on_a_machine_without_driver_or_for_a_worker_without_gpu_the_cpu_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int | None
) -> None:
    monkeypatch.setattr(machine, "DEVICES", (tmp_path / "none",))
    assert NEEDS.fit(machine.describe("n1", gpus))
    monkeypatch.setattr(machine, "DEVICES", (tmp_path,))
    assert NEEDS.fit(machine.describe("n1", gpus)) is (gpus != 1)
