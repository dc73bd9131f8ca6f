"""The ledger: what is used is kept once, whatever the storage does, and held against a budget."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from loco_core.errors import StoreError
from orchestrator.runs.usage import NO_PRICES, Usage, UsageLedger, covered, projected, spent, total_cost
from orchestrator.scheduler.usage import Interval
from orchestrator.spec.budget import BudgetSpec, CostSpec
from orchestrator.store import Publisher, Store, verify
from orchestrator.store.blobs import Put
from orchestrator.store.testing import MemoryBlobs

HOUR = Interval("w", "sdxl", "NVIDIA H100 80GB HBM3", 2, 0.0, 3600.0, 600.0, 2400.0, 300.0, 60.0, 240.0)
PRICES = CostSpec(per_gpu_hour={"H100": 3.0, "A100": 2.0, "A100-80GB": 2.2, "cpu": 0.1})


def ledger(store: Store, prices: CostSpec = NO_PRICES, budget: BudgetSpec | None = None) -> UsageLedger:
    return UsageLedger(store, "sweep", prices, budget)


@pytest.fixture
def store() -> Store:
    return Store(MemoryBlobs())


def test_what_is_recorded_adds_up_before_and_after_it_is_published(store: Store) -> None:
    first = ledger(store, PRICES)
    first.record([HOUR, replace(HOUR, worker="v")])
    first.record([])
    second = ledger(store, PRICES)
    second.record([replace(HOUR, device="cpu", gpus=0, model="toy")])
    for _ in range(2):
        found = spent(store)
        (cpu,) = (item for item in found.usage if item.device == "cpu")
        (gpu,) = (item for item in found.usage if item.device != "cpu")
        assert (cpu.model, cpu.hours, cpu.gpu_hours, cpu.per_gpu_hour) == ("toy", 1.0, 1.0, 0.1)
        assert (gpu.model, gpu.hours, gpu.gpu_hours, gpu.per_gpu_hour) == ("sdxl", 2.0, 4.0, 3.0)
        assert (gpu.loading, gpu.computing, gpu.waiting) == pytest.approx((2 / 6, 8 / 6, 8 / 60))
        assert total_cost(found.usage, NO_PRICES) == pytest.approx(12.1)
        assert found.hours == pytest.approx(1.0, abs=0.01)
        Publisher(store).publish(flush=True)
    rows = store.read("usage")
    assert len(rows) == 3
    assert len(set(rows["run_id"].to_pylist())) == 2
    assert store.committed() == frozenset()
    assert second.used == ledger(store, PRICES).used == (5.0, pytest.approx(12.1))
    assert ledger(store).used == (5.0, None)
    store.write_schemas("me")
    assert verify(store) == []


class Full(MemoryBlobs):
    """A storage that is full for a while."""

    full = True

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        if self.full:
            raise StoreError("no space left")
        return super().put_if_absent(path, data, attempt_id)


def test_what_the_storage_does_not_take_is_written_later_and_once(caplog: pytest.LogCaptureFixture) -> None:
    blobs = Full()
    store = Store(blobs)
    mine = ledger(store)
    with caplog.at_level(logging.WARNING):
        mine.record([HOUR])
    assert "usage is not recorded: no space left" in caplog.text
    blobs.full = False
    mine.record([HOUR])
    mine.record([HOUR])
    assert spent(store).usage[0].hours == 3.0


def test_a_budget_counts_earlier_commands_and_what_runs(store: Store) -> None:
    ledger(store).record([HOUR])
    mine = ledger(store, budget=BudgetSpec(gpu_hours=5.0))
    assert mine.used_up(lambda: []) == ""
    assert mine.used_up(lambda: [replace(HOUR, seconds=5000.0)]) == ""
    assert mine.used_up(lambda: [replace(HOUR, seconds=5400.0)]) == "gpu_hours: 5 of 5 GPU hours used"
    mine.record([HOUR])
    assert mine.used_up(lambda: []) == ""
    mine.record([replace(HOUR, gpus=0)])
    assert mine.used_up(lambda: []) == "gpu_hours: 5 of 5 GPU hours used"


def test_hours_are_those_in_which_any_worker_was_there(store: Store) -> None:
    ledger(store).record([HOUR, replace(HOUR, worker="v"), replace(HOUR, worker="u", ended=7200.0)])
    assert spent(store).hours == pytest.approx(2.0, abs=0.01)
    mine = ledger(store, budget=BudgetSpec(hours=2.5))
    assert mine.used_up(lambda: []) == ""
    assert mine.used_up(lambda: [replace(HOUR, ended=3600.0)]).startswith("hours: 3 of 2.5 hours")


def test_a_cost_counts_at_the_price_of_each_type_and_others_at_the_highest(store: Store) -> None:
    devices = ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-80GB", "NVIDIA A10", "cpu", "")
    assert [PRICES.price(device) for device in devices] == [2.0, 2.2, 3.0, 0.1, 3.0]
    assert [PRICES.names(device) for device in devices] == [True, True, False, True, False]
    assert CostSpec(per_gpu_hour=2.5).price("anything") == 2.5
    mine = ledger(store, PRICES, BudgetSpec(cost=7.0))
    mine.record([HOUR])
    assert mine.used_up(lambda: []) == ""
    assert mine.used_up(lambda: [replace(HOUR, device="NVIDIA A10", seconds=1800.0)]) == "cost: 9 of 7 used"


@pytest.mark.parametrize(
    ("device", "price"),
    [
        ("NVIDIA A100-SXM4-80GB", 3.0),
        ("NVIDIA A100 80GB PCIe", 3.0),
        ("NVIDIA A100-SXM4-40GB", 1.6),
        ("NVIDIA A100-PCIE-40GB", 1.6),
        ("NVIDIA H100 80GB HBM3", 2.5),
        ("NVIDIA GeForce RTX 4090", 0.4),
        ("NVIDIA L40S", 0.9),
        ("NVIDIA L4", 5.0),
        ("cpu", 0.1),
    ],
)
def test_a_price_is_that_of_the_name_with_most_words_whatever_the_driver_writes_between_them(
    device: str, price: float
) -> None:
    prices = {"A100": 1.6, "A100-80GB": 3.0, "H100": 2.5, "GeForce-RTX-4090": 0.4, "L40S": 0.9, "cpu": 0.1, "B200": 5.0}
    assert CostSpec(per_gpu_hour=prices).price(device) == price


def test_times_that_overlap_or_touch_are_one() -> None:
    assert covered([(5, 6), (0, 2), (1, 3), (3, 4)]) == ((0, 4), (5, 6))


def test_what_was_loaded_and_waited_is_not_counted_once_more_for_every_unit_that_is_left() -> None:
    """16 workers, 300 s of loading each, and one unit of a minute each of 1600."""
    loading, computing = 16 * 300 / 3600, 16 * 60 / 3600
    used = Usage("sdxl", "NVIDIA H100", 1, None, loading + computing, loading, computing, 0.0, 0.0, 0.0)
    found = projected([used], {"sdxl": (16 * 40.0, 1600 * 40.0)}, {})
    assert found is not None
    (end,) = found
    assert end.hours == pytest.approx(1600 * 60 / 3600 + loading)
    assert (end.loading, end.computing) == pytest.approx((loading, 1600 * 60 / 3600))


def test_a_second_of_work_is_no_pace() -> None:
    used = Usage("sdxl", "NVIDIA H100", 1, None, 0.1, 0.09, 0.01, 0.0, 0.0, 0.0)
    assert projected([used], {"sdxl": (1.0, 100.0)}, {}) is None
    assert projected([used], {"sdxl": (3.0, 100.0)}, {}) is not None


def test_what_will_be_used_follows_from_what_each_model_took() -> None:
    def used(model: str, hours: float, gpus: int) -> Usage:
        return Usage(model, "NVIDIA H100", gpus, None, hours, 0.0, hours, 0.0, 0.0, 0.0)

    expected = {"sd15": (100.0, 400.0), "sdxl": (50.0, 50.0), "flux": (0.0, 600.0)}
    found = projected([used("sd15", 2, 1), used("sdxl", 1, 2), used("", 0.5, 1)], expected, {"flux": 4})
    assert found is not None
    # flux at the pace of the others: three hours for 150 expected seconds.
    assert [(item.model, item.hours, item.gpus) for item in found] == [
        ("sd15", 8.0, 1), ("sdxl", 1.0, 2), ("", 0.5, 1), ("flux", 12.0, 4),
    ]  # fmt: skip
    assert projected([used("sd15", 2, 1)], {"sd15": (0.0, 400.0)}, {}) is None
    assert projected([], expected, {}) is None
