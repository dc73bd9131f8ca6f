from __future__ import annotations

import pytest

from orchestrator import driver
from orchestrator.spec import SweepSpec
from orchestrator.store import Store, publish
from orchestrator.store.testing import MemoryBlobs
from tests.sweeps import fake_resolved, tiny_sweep
from tests.unit.orchestrator.test_driver import run


@pytest.fixture(scope="package")
def spec() -> SweepSpec:
    """Eight units of two attributes."""
    return tiny_sweep("x", controls={"random": 0}, localize={"localizer": "argmin"})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishes parts of two units, and looks no model up."""
    monkeypatch.setattr(publish, "FIRST_UNITS", 2)
    monkeypatch.setattr(driver, "resolve", fake_resolved)


@pytest.fixture(scope="package")
def undisturbed(spec: SweepSpec) -> Store:
    store = Store(MemoryBlobs())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "resolve", fake_resolved)
        run(spec, store, patch)
    return store
