from __future__ import annotations

import pytest

from orchestrator.spec import SweepSpec
from orchestrator.store import Store, publish
from orchestrator.store.testing import MemoryBlobs
from tests.support.fake_runs import run
from tests.support.sweeps import tiny_sweep


@pytest.fixture(scope="package")
def spec() -> SweepSpec:
    """Eight units of two attributes."""
    return tiny_sweep("x", controls={"random": 0}, localize={"localizer": "argmin"})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishes parts of two units."""
    monkeypatch.setattr(publish, "FIRST_UNITS", 2)


@pytest.fixture(scope="package")
def undisturbed(spec: SweepSpec) -> Store:
    store = Store(MemoryBlobs())
    run(spec, store)
    return store
