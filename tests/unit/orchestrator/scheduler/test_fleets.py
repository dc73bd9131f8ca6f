from __future__ import annotations

from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from orchestrator.scheduler.loop import StopSwitch, run_units
from orchestrator.scheduler.needs import Node, WorkerNeeds
from orchestrator.scheduler.protocol import (
    OUT_OF_MEMORY,
    Bind,
    BindFailed,
    Clock,
    Dispatch,
    KillWorker,
    StartWorker,
    Unit,
    UnitReport,
    UnitsAdded,
    WorkerBound,
    WorkerLost,
    WorkerReady,
)
from orchestrator.scheduler.state import Scheduler
from orchestrator.scheduler.suitability import MAX_TRIES, MOST_TRIES
from orchestrator.spec.accelerators import is_called
from tests.support.fleet import GIB, Box, FleetBackend
from tests.support.planners import Derived
from tests.support.scripted import Diary

SMALL, LARGE = Node("", "NVIDIA A10G", 24 * GIB, (8, 6)), Node("", "NVIDIA A100-SXM4-80GB", 80 * GIB, (8, 0))


def box(number: int, kind: Node, *broken: str, room: int = 1000 * GIB) -> Box:
    return Box(Node(f"n{number:02d}", kind.gpu, kind.gpu_memory, kind.capability), frozenset(broken), room)


def unit(number: int, model: str = "a", memory: int | None = None, *accelerators: str) -> Unit:
    return Unit(f"u{number:03d}", "sweep", model, number, 1.0, None, WorkerNeeds(1, (), accelerators, memory))


def simulate(backend: FleetBackend, units: list[Unit], hours: float = 3.0) -> tuple[Scheduler, dict[str, UnitReport]]:
    """Runs units on virtual time; it fails where that takes too long."""
    scheduler, settled = Scheduler(backend.workers), {}
    scheduler.apply(UnitsAdded(tuple(units)))
    while True:
        for item in scheduler.take_settled():
            settled[item.unit.unit_id] = item.report
        actions = scheduler.decide()
        if scheduler.over or scheduler.broken or scheduler.unstorable:
            return scheduler, settled
        for action in actions:
            match action:
                case StartWorker(worker, needs, avoid):
                    backend.start_worker(worker, needs, avoid)
                case Bind(worker, model):
                    backend.bind(worker, model)
                case Dispatch(worker, work, attempt):
                    backend.dispatch(worker, work, attempt)
                case KillWorker(worker):
                    backend.kill(worker)
        events = backend.poll(0.0)
        if not events and not actions:
            backend.now = max(backend.now, min(backend.next, backend.now + 10.0))
            scheduler.apply(Clock(backend.now))
        assert scheduler.now < hours * 3600, "it does not end"
        for event in events:
            scheduler.apply(event)


def failed(settled: dict[str, UnitReport]) -> set[str]:
    return {unit_id for unit_id, report in settled.items() if report.outcome == "failed"}


def test_a_model_that_fits_two_of_eight_gpus_runs_on_those() -> None:
    """On the loop that runs sweeps: the fleet on which a refusal once counted as a failed load."""
    backend = FleetBackend([box(n, SMALL if n < 6 else LARGE) for n in range(8)], workers=8)
    units = [unit(n, memory=40 * GIB) for n in range(100)]
    summary = run_units(backend, Derived(units), Diary(), lambda progress: None, StopSwitch())
    assert (summary.outcome, summary.committed, summary.failures) == ("done", 100, ())
    assert {name for name, _ in backend.loads} == {"n06", "n07"}
    assert backend.started < 40, "those that do not fit are not asked for again and again"


def test_small_gpus_go_on_with_what_fits_them() -> None:
    backend = FleetBackend([box(n, SMALL if n < 6 else LARGE) for n in range(8)], workers=8)
    units = [unit(n, "big", 40 * GIB) if n < 30 else unit(n, "small") for n in range(120)]
    _, settled = simulate(backend, units)
    assert (len(settled), failed(settled)) == (120, set())
    assert {name for name, model in backend.loads if model == "big"} <= {"n06", "n07"}


def test_types_of_gpu_are_kept_to() -> None:
    backend = FleetBackend([box(n, SMALL if n % 2 else LARGE) for n in range(4)], workers=4)
    _, settled = simulate(backend, [unit(n, "a", None, "H100", "A100") for n in range(9)])
    assert (len(settled), failed(settled)) == (9, set())
    assert {name for name, _ in backend.loads} <= {"n00", "n02"}


def test_a_model_that_no_gpu_holds_ends_the_run_and_loses_nothing() -> None:
    backend = FleetBackend([box(n, SMALL) for n in range(3)], workers=3)
    scheduler, settled = simulate(backend, [unit(0, "big", 40 * GIB), unit(1)])
    assert set(settled) == {"u001"}
    assert scheduler.broken == (
        "no worker will do for big, which needs a GPU of 40 GiB or more: there is NVIDIA A10G of 24 GiB; "
        "the same command resumes"
    )


@pytest.mark.parametrize("workers", [1, 4])
def test_one_bad_machine_cannot_give_a_model_up(workers: int) -> None:
    backend = FleetBackend([box(0, LARGE, "a"), box(1, LARGE), box(2, LARGE)], workers=workers)
    _, settled = simulate(backend, [unit(n) for n in range(40)])
    assert (len(settled), failed(settled)) == (40, set())
    assert backend.loads[0] == ("n00", "a"), "it was tried where it does not load"


def test_a_model_that_loads_nowhere_is_given_up_after_pauses_everywhere() -> None:
    backend = FleetBackend([box(n, LARGE, "a") for n in range(2)], workers=2)
    scheduler, settled = simulate(backend, [unit(0), unit(1), unit(2, "b")])
    assert failed(settled) == {"u000", "u001"}
    assert [backend.loads.count((f"n{n:02d}", "a")) for n in range(2)] == [MAX_TRIES] * 2
    assert scheduler.now >= 10, "a moment without network is no reason"


def test_running_out_of_memory_on_one_type_leaves_the_others_their_try() -> None:
    boxes = [box(n, SMALL, room=24 * GIB) for n in range(4)] + [box(9, LARGE, room=80 * GIB)]
    backend = FleetBackend(boxes, workers=5, use={"a": 30 * GIB})
    _, settled = simulate(backend, [unit(n) for n in range(60)])
    assert (len(settled), failed(settled)) == (60, set())


def test_a_model_that_runs_out_of_memory_on_every_type_is_given_up() -> None:
    boxes = [box(0, SMALL, room=24 * GIB), box(1, LARGE, room=80 * GIB)]
    backend = FleetBackend(boxes, workers=2, use={"a": 90 * GIB})
    _, settled = simulate(backend, [*(unit(n) for n in range(60)), unit(60, "b")])
    assert failed(settled) == {f"u{n:03d}" for n in range(60)}
    assert settled["u060"].outcome == "committed"


@pytest.mark.parametrize("large", [0, 1], ids=["small ones only", "with a large one"])
@pytest.mark.parametrize("workers", [1, 4])
def test_units_that_are_too_large_for_a_type_take_no_other_unit_with_them(workers: int, large: int) -> None:
    boxes = [box(n, SMALL, room=24 * GIB) for n in range(workers)] + [box(9, LARGE, room=80 * GIB)] * large
    heavy = {f"u{n:03d}" for n in range(50, 50 + 3 * workers)}
    backend = FleetBackend(boxes, workers=workers + large, use=dict.fromkeys(heavy, 30 * GIB), seconds={"a": 20.0})
    _, settled = simulate(backend, [unit(n) for n in range(200)])
    assert len(settled) == 200
    assert failed(settled) == (set() if large else heavy)
    tries = Counter(unit_id for unit_id, _ in backend.full.elements())
    assert max(tries.values()) == (1 if large else 3)


def test_a_machine_that_is_busy_is_tried_before_a_model_is_given_up() -> None:
    boxes = [box(0, LARGE), box(1, SMALL, "a")]
    backend = FleetBackend(boxes, workers=2, seconds={"b": 60.0})
    units = [*(unit(n, "b", 40 * GIB) for n in range(60)), *(unit(n, "a") for n in range(100, 103))]
    _, settled = simulate(backend, units)
    assert (len(settled), failed(settled)) == (63, set())
    assert backend.loads.count(("n00", "a")) == 1
    assert backend.loads.count(("n01", "a")) < MOST_TRIES


def test_a_model_that_runs_out_of_memory_when_it_is_loaded_is_not_loaded_on_every_machine_of_a_type() -> None:
    boxes = [*(box(n, SMALL, room=24 * GIB) for n in range(12)), box(99, LARGE, room=80 * GIB)]
    backend = FleetBackend(boxes, workers=4, weights={"a": 30 * GIB, "b": 90 * GIB})
    units = [*(unit(n) for n in range(20)), *(unit(n, "b") for n in range(100, 120))]
    _, settled = simulate(backend, units)
    assert failed(settled) == {f"u{n}" for n in range(100, 120)}
    assert {settled[unit_id].error_type for unit_id in failed(settled)} == {OUT_OF_MEMORY}
    assert len(settled) == 40
    loads = Counter(backend.loads)
    assert sum(count for (name, model), count in loads.items() if model == "a" and name != "n99") <= 2 * MAX_TRIES
    assert sum(count for (_, model), count in loads.items() if model == "b") <= 4 * MAX_TRIES


def test_a_unit_does_not_wait_for_ever_for_a_machine_that_is_gone() -> None:
    boxes = [box(0, SMALL, room=24 * GIB), replace(box(1, LARGE, room=80 * GIB), until=100.0)]
    backend = FleetBackend(boxes, workers=2, use={"u030": 30 * GIB}, seconds={"a": 60.0, "b": 60.0})
    units = [*(unit(n, "b", 40 * GIB) for n in range(100, 101)), *(unit(n) for n in range(40))]
    _, settled = simulate(backend, units)
    assert failed(settled) == {"u030"}
    assert len(settled) == 41


def test_a_quick_failure_to_load_sends_none_of_those_back_that_are_on_their_way() -> None:
    scheduler = Scheduler(60)
    scheduler.apply(UnitsAdded(tuple(unit(n) for n in range(1000))))
    asked = [action.worker for action in scheduler.decide() if isinstance(action, StartWorker)]
    scheduler.apply(WorkerReady(asked[0], box(0, LARGE).node))
    scheduler.decide()
    scheduler.apply(BindFailed(asked[0], "OSError", "no luck"))
    assert KillWorker(asked[-1]) not in scheduler.decide()
    assert scheduler.worker_counts() == (0, 59)


def test_at_the_end_of_a_pause_one_worker_is_exchanged() -> None:
    scheduler = Scheduler(20)
    scheduler.apply(UnitsAdded(tuple(unit(n) for n in range(1000))))
    asked = [action.worker for action in scheduler.decide() if isinstance(action, StartWorker)]
    for number, worker in enumerate(asked[:2]):
        scheduler.apply(WorkerReady(worker, box(number, LARGE).node))
    scheduler.decide()
    scheduler.apply(BindFailed(asked[0], "OSError", "no luck"))
    scheduler.apply(WorkerBound(asked[1]))
    for worker in asked[2:]:
        scheduler.apply(WorkerLost(worker, "preempted", "it is gone"))
    again = [action for action in scheduler.decide() if isinstance(action, StartWorker)]
    assert {action.avoid for action in again} == {frozenset({"n00"})}
    scheduler.apply(Clock(3.0))
    actions = scheduler.decide()
    assert [action.worker for action in actions if isinstance(action, KillWorker)] == [again[-1].worker]
    assert [action.avoid for action in actions if isinstance(action, StartWorker)] == [frozenset()]


def test_a_machine_with_two_types_of_gpu_is_not_avoided_for_the_smaller_one() -> None:
    scheduler = Scheduler(3)
    scheduler.apply(UnitsAdded(tuple(unit(n, "a", 40 * GIB) for n in range(20))))
    asked = [action.worker for action in scheduler.decide() if isinstance(action, StartWorker)]
    for worker, kind in zip(asked, (LARGE, SMALL), strict=False):
        scheduler.apply(WorkerReady(worker, box(0, kind).node))
    again = [action for action in scheduler.decide() if isinstance(action, StartWorker)]
    assert [action.avoid for action in again] == [frozenset()]


def test_a_machine_whose_gpus_cannot_be_used_is_left_to_others_and_named_where_there_is_none() -> None:
    faulty = Box(Node("n0", fault="torch sees no GPU"))
    _, settled = simulate(FleetBackend([faulty, box(1, LARGE)], workers=2), [unit(n) for n in range(9)])
    assert (len(settled), failed(settled)) == (9, set())
    scheduler, settled = simulate(FleetBackend([faulty], workers=2), [unit(n) for n in range(9)])
    assert not settled
    assert "n0, where torch sees no GPU" in (scheduler.broken or "")


MODELS = "abc"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_unit_that_some_worker_can_run_is_given_up_and_the_run_ends(data: st.DataObject) -> None:
    sizes = st.sampled_from([16, 24, 40, 80])
    fleet = data.draw(st.lists(st.tuples(sizes, st.sets(st.sampled_from(MODELS))), min_size=1, max_size=7))
    boxes = [
        Box(Node(f"n{n}", f"NVIDIA X{size}", size * GIB), frozenset(broken), size * GIB)
        for n, (size, broken) in enumerate(fleet)
    ]
    needs = {m: data.draw(st.one_of(st.none(), sizes)) for m in MODELS}
    use = {m: data.draw(sizes) for m in MODELS}
    counts = {m: data.draw(st.integers(0, 12)) for m in MODELS}
    seconds = {m: data.draw(st.sampled_from([0.0, 20.0, 400.0])) for m in MODELS}
    names = [m for m in MODELS for _ in range(counts[m])]
    units = [unit(n, m, None if needs[m] is None else needs[m] * GIB) for n, m in enumerate(names)]
    of_unit = {u.unit_id: use[u.model] for u in units}
    for m in MODELS:
        # Where more of a model run out of memory before one does not, a type of GPU is called too small for it.
        mine = [u.unit_id for u in units if u.model == m]
        heavy = data.draw(st.sets(st.sampled_from(mine), max_size=MAX_TRIES - 1)) if mine else set()
        of_unit |= dict.fromkeys(heavy, max(use[m], data.draw(sizes)))
    room = {unit_id: size * GIB for unit_id, size in of_unit.items()}
    backend = FleetBackend(boxes, workers=data.draw(st.integers(1, 9)), use=room, seconds=seconds)
    scheduler, settled = simulate(backend, units, hours=24.0)

    def can_run(u: Unit) -> bool:
        least = max(needs[u.model] or 0, of_unit[u.unit_id])
        return any(size >= least and u.model not in broken for size, broken in fleet)

    able = {u.unit_id for u in units if can_run(u)}
    assert not able - settled.keys()
    assert not able & failed(settled)
    assert scheduler.broken or len(settled) == len(units)


@pytest.mark.parametrize(
    ("gpu", "name", "called"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100", True),
        ("NVIDIA A100-SXM4-80GB", "A100-80G", True),
        ("NVIDIA A100 80GB PCIe", "A100-80GB", True),
        ("NVIDIA A100-SXM4-40GB", "A100-80G", False),
        ("NVIDIA H100 80GB HBM3", "H100", True),
        ("NVIDIA GeForce RTX 4090", "GeForce-RTX-4090", True),
        ("NVIDIA L40S", "L4", False),
    ],
)
def test_a_gpu_is_called_by_its_type(gpu: str, name: str, called: bool) -> None:
    assert is_called(gpu, name) is called
