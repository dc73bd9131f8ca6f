"""Which unit a worker is given next, where units of a block have in common what a worker keeps."""

from __future__ import annotations

from collections import Counter

from orchestrator.scheduler.protocol import Dispatch, Unit, UnitsAdded, WorkerDraining
from tests.support.machine import Machine, started, unit


def blocks_of(count: int, each: int, seconds: float = 90.0) -> list[Unit]:
    """Returns units of blocks, one block after another in the plan."""
    return [unit(n, seconds=seconds, block=f"b{n // each}") for n in range(count * each)]


def firsts(machine: Machine) -> list[Dispatch]:
    """Returns what was sent out first of every unit: no retries, and no second copies."""
    found = {d.unit.unit_id: d for d in reversed(machine.dispatched)}
    return [d for d in machine.dispatched if d is found[d.unit.unit_id]]


def visits(machine: Machine) -> Counter[str]:
    """Returns how many workers went to each block, counting again whoever comes back."""
    found, at = Counter[str](), dict[str, str]()
    for dispatch in firsts(machine):
        found[dispatch.unit.block] += at.get(dispatch.worker) != dispatch.unit.block
        at[dispatch.worker] = dispatch.unit.block
    return found


def test_every_worker_has_a_block_of_its_own_until_it_is_done() -> None:
    machine = started(blocks_of(30, each=4), workers=3)
    assert [queue[0].unit.block for queue in machine.queues.values()] == ["b0", "b1", "b2"]
    machine.finish()
    shared = visits(machine) - Counter(f"b{n}" for n in range(30))
    assert shared.total() <= 2, "only the last blocks are shared"


def test_what_is_queued_ahead_is_of_the_same_block() -> None:
    machine = started(blocks_of(8, each=5, seconds=1.0), workers=2)
    for _ in range(12):
        for worker in machine.at("bound"):
            machine.done(worker)
    longest = max(len(queue) for queue in machine.queues.values())
    assert longest > 2
    assert max(visits(machine).values()) == 1


def test_workers_without_a_block_share_the_one_with_most_units() -> None:
    sizes = {"short": 3, "middle": 6, "long": 12}
    names = [name for name, size in sizes.items() for _ in range(size)]
    machine = started([unit(n, seconds=90.0, block=name) for n, name in enumerate(names)], workers=3)
    for _ in range(2):
        machine.done("worker-001")
    assert [d.unit.block for d in machine.queues["worker-001"]] == ["short", "long"]
    machine.finish()
    assert len(machine.settled) == len(names)


def test_units_without_a_block_go_out_in_the_order_of_the_plan() -> None:
    machine = started([unit(n, seconds=90.0) for n in (3, 1, 4, 0, 2)], workers=2)
    machine.finish()
    assert [d.unit.order for d in firsts(machine)] == [0, 1, 2, 3, 4]


def test_a_block_whose_worker_is_gone_is_the_next_one_that_is_taken() -> None:
    for gone in ("lost", "drained"):
        machine = started(blocks_of(5, each=4), workers=2)
        if gone == "lost":
            machine.lost("worker-001", "preempted")
        else:
            machine.step(WorkerDraining("worker-001"))
            machine.done("worker-001")
        for _ in range(3):
            machine.done("worker-002")
        assert machine.queues["worker-002"][-1].unit.block == "b0", gone
        machine.finish()


def test_a_unit_that_failed_goes_first_and_takes_nobody_from_its_block() -> None:
    machine = started(blocks_of(4, each=4), workers=2)
    machine.done("worker-001", "failed")
    machine.done("worker-002")
    held = [d.unit for queue in machine.queues.values() for d in queue]
    assert "u000" in {work.unit_id for work in held}
    machine.finish()
    assert visits(machine).total() <= 4 + 1


def test_a_block_that_grows_is_gone_on_with() -> None:
    machine = started(blocks_of(3, each=2), workers=1)
    machine.done("worker-001")
    machine.step(UnitsAdded((unit(50, seconds=90.0, block="b0"), unit(51, seconds=90.0, block="new"))))
    machine.finish()
    assert [d.unit.block for d in machine.dispatched] == ["b0", "b0", "b1", "b1", "b2", "b2", "b0", "new"]
