from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.scheduler.protocol import (
    OUT_OF_MEMORY,
    Clock,
    KillWorker,
    LimitChanged,
    LossReason,
    StopRequested,
    UnitsAdded,
    WorkerDraining,
    WorkerStuck,
)
from orchestrator.scheduler.roster import MAX_ATTEMPTS, QUEUE_SECONDS
from orchestrator.scheduler.state import MAX_LOSSES, MAX_STREAK, MAX_TRIES, Scheduler
from tests.support.machine import GPU, Machine, started, unit


def held(machine: Machine, worker: str = "worker-001") -> list[str]:
    return [d.unit.unit_id for d in machine.queues[worker]]


def test_a_worker_runs_one_unit_and_holds_one_more_at_least() -> None:
    machine = started([unit(n, seconds=90.0) for n in range(5)])
    assert held(machine) == ["u000", "u001"]
    machine.done("worker-001")
    assert held(machine) == ["u001", "u002"]


def test_short_units_wait_at_a_worker_for_a_minute_once_it_has_shown_that_it_can_do_them() -> None:
    machine = started([unit(n, seconds=2.0) for n in range(500)])
    assert held(machine) == ["u000", "u001"]
    lengths = []
    for _ in range(60):
        machine.done("worker-001")
        lengths.append(len(held(machine)))
    assert lengths[:3] == [3, 4, 5]
    assert lengths[-1] == max(lengths) == QUEUE_SECONDS / 2.0
    machine.done("worker-001", "failed")
    assert len(held(machine)) == lengths[-1] - 1, "one that fails gets no more until it has done what it holds"


def test_the_last_units_are_spread_over_all_workers() -> None:
    """However short they are: nobody holds the tail while others go idle, and race, or have just been asked for."""
    machine = started([unit(n, seconds=0.5) for n in range(400)], workers=4)
    for _ in range(80):
        for worker in machine.at("bound"):
            machine.done(worker)
            waiting = 400 - len(machine.dispatched)
            most = max(len(queue) for queue in machine.queues.values())
            assert most <= max(2, 1 + waiting / 4 + 4)
    machine.finish()
    assert len(machine.dispatched) <= 400 + 2 * 4


def test_what_waits_is_left_for_workers_that_are_on_their_way() -> None:
    machine = Machine(Scheduler(4))
    machine.step(UnitsAdded(tuple(unit(n) for n in range(40))))
    machine.ready("worker-001")
    machine.bound("worker-001")
    for _ in range(12):
        machine.done("worker-001")
    assert len(held(machine)) <= 10
    assert 40 - len(machine.dispatched) >= 3 * len(held(machine)) - 3


def test_what_waited_at_a_worker_that_dies_is_not_charged() -> None:
    machine = started([unit(n) for n in range(100)], workers=1)
    for _ in range(20):
        machine.done("worker-001")
    assert len(held(machine)) > 10
    machine.lost("worker-001", "died")
    assert machine.scheduler.attempts() == {"u020": 1}
    machine.finish()
    assert max(d.attempt.number for d in machine.dispatched if d.unit.unit_id != "u020") == 1


def test_an_idle_worker_races_what_its_holder_would_come_to_last() -> None:
    machine = started([unit(n) for n in range(5)], workers=2)
    while len(machine.dispatched) < 5:
        machine.done("worker-002")
    waiting = held(machine)
    while held(machine, "worker-002") and len(machine.dispatched) < 6:
        machine.done("worker-002")
    assert len(waiting) == 2
    assert held(machine, "worker-002") == [waiting[-1]]


def test_no_unit_waits_at_one_worker_while_another_is_on_its_way() -> None:
    machine = Machine(Scheduler(2))
    machine.step(UnitsAdded((unit(0), unit(1))))
    machine.ready("worker-001")
    machine.bound("worker-001")
    assert [d.unit.unit_id for d in machine.queues["worker-001"]] == ["u000"]


def test_one_worker_loads_each_model_once() -> None:
    machine = started([unit(n, "abc"[n % 3]) for n in range(30)])
    machine.finish()
    assert machine.loads == {"a": 1, "b": 1, "c": 1}
    assert [d.unit.model for d in machine.dispatched] == ["a"] * 10 + ["b"] * 10 + ["c"] * 10


def test_workers_share_models_out_before_they_double_up() -> None:
    machine = started([unit(n, "ab"[n // 10]) for n in range(20)], workers=2)
    assert machine.models == {"worker-001": "a", "worker-002": "b"}


def test_a_worker_of_other_needs_takes_no_unit() -> None:
    machine = started([unit(0), unit(1, "big", GPU)], workers=2)
    machine.finish()
    assert {(d.unit.model, machine.needs[d.worker].gpus) for d in machine.dispatched} == {("a", None), ("big", 1)}


def test_needs_are_met_in_turn_where_there_is_room_for_one_worker() -> None:
    machine = started([unit(0), unit(1, "big", GPU), unit(2)])
    machine.finish()
    assert [d.unit.unit_id for d in machine.dispatched] == ["u000", "u002", "u001"]


def test_a_failing_unit_is_given_up_after_the_row_by_row_attempt() -> None:
    machine = started([unit(0), unit(1)])
    while "u000" not in machine.settled:
        worker = next(w for w in machine.queues if machine.queues[w] or machine.workers[w] != "bound")
        if machine.workers[worker] == "bound" and machine.queues[worker][0].unit.unit_id == "u000":
            machine.done(worker, "failed")
        else:
            machine.advance(worker)
    tries = [(d.attempt.number, d.attempt.row_by_row) for d in machine.dispatched if d.unit.unit_id == "u000"]
    assert tries == [(1, False), (2, False), (3, True)]
    machine.finish()
    assert {u: r.outcome for u, r in machine.settled.items()} == {"u000": "failed", "u001": "committed"}


def test_a_unit_that_runs_out_of_memory_does_not_do_so_row_by_row() -> None:
    machine = started([unit(n) for n in range(9)])
    while "u001" not in machine.settled:
        (worker,) = machine.workers
        if machine.workers[worker] == "bound" and machine.queues[worker][0].unit.unit_id == "u001":
            machine.done(worker, "failed", OUT_OF_MEMORY)
        else:
            machine.advance(worker)
    assert [(d.attempt.number, d.attempt.row_by_row) for d in machine.dispatched if d.unit.unit_id == "u001"] == [
        (1, False),
        (2, False),
    ]
    machine.finish()
    assert Counter(report.outcome for report in machine.settled.values()) == {"committed": 8, "failed": 1}


@pytest.mark.parametrize("workers", [1, 4])
def test_a_model_whose_batches_fit_nowhere_is_given_up_after_a_few(workers: int) -> None:
    """Nobody waits for a thousand units to run out of memory; those of another model go on."""
    units = [unit(n) for n in range(1000)]
    machine = started([*units, unit(1000, model="b")], workers=workers)
    while not machine.scheduler.over:
        worker = next(w for w in machine.workers if machine.queues[w] or machine.workers[w] != "bound")
        full = machine.workers[worker] == "bound" and machine.queues[worker][0].unit.model != "b"
        machine.done(worker, "failed", OUT_OF_MEMORY) if full else machine.advance(worker)
    assert machine.settled["u1000"].outcome == "committed"
    assert {(machine.settled[item.unit_id].error_type) for item in units} == {OUT_OF_MEMORY}
    assert len(machine.dispatched) <= (MAX_TRIES + 3) * workers


def test_where_everything_fails_the_limit_is_reached_after_a_few_attempts() -> None:
    machine = started([unit(n) for n in range(1000)], max_failures=0)
    while not machine.scheduler.over:
        (worker,) = machine.workers
        machine.done(worker, "failed") if machine.queues[worker] else machine.advance(worker)
    assert machine.scheduler.too_many_failures
    assert len(machine.dispatched) < 10


def test_only_the_unit_that_was_running_is_charged_for_a_death() -> None:
    machine = started([unit(0), unit(1)])
    assert machine.scheduler.attempts() == {"u000": 1}
    machine.lost("worker-001", "died")
    assert machine.scheduler.attempts() == {"u000": 1}
    machine.finish()
    assert [(d.unit.unit_id, d.attempt.number) for d in machine.dispatched[2:]] == [("u000", 2), ("u001", 1)]


def test_a_unit_that_is_committed_is_not_blamed_for_the_death_that_took_its_report_with_it() -> None:
    machine = started([unit(0), unit(1), unit(2)])
    machine.done("worker-001")
    machine.lost("worker-001", "died", "u001")
    assert machine.settled["u001"].outcome == "already"
    assert machine.scheduler.attempts() == {"u002": 1}
    machine.finish()
    assert [d.unit.unit_id for d in machine.dispatched].count("u001") == 1
    assert machine.scheduler.failed_attempts == 1


def test_nobody_is_blamed_for_a_death_where_another_worker_may_have_committed_what_it_was_at() -> None:
    machine = started([unit(0), unit(1)], workers=2)
    machine.done("worker-001")
    machine.step(UnitsAdded((unit(2), unit(3))))
    assert (held(machine), held(machine, "worker-002")) == (["u001", "u002"], ["u001", "u003"])
    machine.lost("worker-001", "died", "u001")
    assert machine.settled["u001"].outcome == "already"
    machine.finish()
    assert machine.scheduler.failed_attempts == 0


def test_what_a_lost_machine_has_committed_is_not_run_again() -> None:
    machine = started([unit(n) for n in range(3)])
    machine.lost("worker-001", "unreachable", "u000", "u001")
    machine.finish()
    assert Counter(d.unit.unit_id for d in machine.dispatched) == {"u000": 1, "u001": 1, "u002": 1}


@pytest.mark.parametrize("reason", ["preempted", "unreachable"])
def test_a_lost_machine_is_charged_to_nobody_until_there_are_many(reason: LossReason) -> None:
    machine = started([unit(0)])
    losses = 0
    while "u000" not in machine.settled:
        for worker in machine.at("bound"):
            if machine.queues[worker]:
                losses += 1
                machine.lost(worker, reason)
                if losses == MAX_LOSSES:
                    assert machine.scheduler.attempts() == {}
        for worker in [*machine.at("starting"), *machine.at("loading")]:
            machine.advance(worker)
    assert losses == MAX_LOSSES + MAX_ATTEMPTS
    assert machine.scheduler.losses == losses


def test_what_cannot_be_stored_is_charged_to_nobody() -> None:
    machine = started([unit(n) for n in range(4)], workers=2)
    for worker in ("worker-001", "worker-002"):
        machine.done(worker, "unstored")
    assert machine.scheduler.attempts() == {d.unit.unit_id: 1 for d in (q[0] for q in machine.queues.values() if q)}
    assert machine.scheduler.failed_attempts == 0
    machine.finish()
    assert {report.outcome for report in machine.settled.values()} == {"committed"}
    assert {d.attempt.number for d in machine.dispatched} == {1}


def test_storage_that_refuses_everybody_is_an_error() -> None:
    machine = started([unit(n) for n in range(9)], workers=2)
    refused = 0
    while machine.scheduler.unstorable is None:
        worker = next(w for w in machine.workers if machine.queues[w] or machine.workers[w] != "bound")
        if machine.workers[worker] != "bound":
            machine.advance(worker)
            continue
        refused += 1
        # One that is stored shows that storage works.
        machine.done(worker, "committed" if refused == 2 * MAX_TRIES else "unstored")
    assert (refused, machine.scheduler.unstorable) == (4 * MAX_TRIES, "it failed")
    assert [report.outcome for report in machine.settled.values()] == ["committed"]


def test_a_unit_that_alone_cannot_be_stored_is_given_up_in_the_end() -> None:
    machine = started([unit(n) for n in range(60)])
    refused = 0
    while "u001" not in machine.settled:
        (worker,) = machine.workers
        if machine.workers[worker] == "bound" and machine.queues[worker][0].unit.unit_id == "u001":
            refused += 1
            machine.done(worker, "unstored")
        else:
            machine.advance(worker)
    assert refused == MAX_LOSSES + MAX_ATTEMPTS
    assert (machine.settled["u001"].outcome, machine.scheduler.unstorable) == ("failed", None)


def test_a_draining_worker_finishes_its_unit_and_goes() -> None:
    machine = started([unit(n) for n in range(6)])
    machine.step(WorkerDraining("worker-001"))
    assert machine.at("starting") == ["worker-002"]
    machine.done("worker-001")
    assert list(machine.workers) == ["worker-002"]
    machine.finish()
    assert set(Counter(d.unit.unit_id for d in machine.dispatched).values()) == {1, 2}
    assert {d.attempt.number for d in machine.dispatched} == {1}


def test_a_draining_worker_gets_no_new_unit() -> None:
    machine = started([unit(0)])
    machine.step(WorkerDraining("worker-001"))
    machine.step(UnitsAdded((unit(1), unit(2))))
    assert [d.unit.unit_id for d in machine.dispatched] == ["u000"]


def test_a_stop_does_not_wait_for_the_loser_of_a_race() -> None:
    machine = started([unit(0), unit(1)], workers=2)
    machine.done("worker-001")
    machine.done("worker-001")
    machine.step(UnitsAdded((unit(2),)), StopRequested())
    assert machine.scheduler.over
    assert not machine.workers


def test_a_stuck_worker_is_killed_and_its_unit_charged() -> None:
    machine = started([unit(0), unit(1)])
    actions = machine.step(WorkerStuck("worker-001", "too slow"))
    assert KillWorker("worker-001") in actions
    assert machine.scheduler.attempts() == {"u000": 1}


def test_a_worker_that_keeps_failing_gets_a_new_process() -> None:
    machine = started([unit(n) for n in range(6)])
    for _ in range(MAX_STREAK):
        machine.done("worker-001", "failed")
    assert "worker-001" not in machine.workers
    assert machine.at("starting") == ["worker-002"]


def test_a_model_that_never_loads_fails_its_units_and_later_ones() -> None:
    machine = Machine(Scheduler(1))
    machine.step(UnitsAdded((unit(0, "bad"), unit(1, "bad"), unit(2))))
    tries = 0
    while not machine.scheduler.over:
        machine.step(Clock(machine.scheduler.now + 1.0))
        if not (worker := next(iter(machine.workers), "")):
            continue
        if machine.workers[worker] == "loading" and machine.models[worker] == "bad":
            tries += 1
            machine.fail_to_load(worker)
        else:
            machine.advance(worker)
    machine.step(UnitsAdded((unit(3, "bad"),)))
    assert tries == MAX_TRIES
    assert machine.settled["u000"].error == machine.settled["u003"].error == "no such model"
    assert machine.settled["u002"].outcome == "committed"


def test_workers_that_never_start_are_an_error() -> None:
    machine = Machine(Scheduler(2))
    machine.step(UnitsAdded((unit(0), unit(1))))
    for _ in range(2 * MAX_TRIES):
        assert machine.scheduler.broken is None
        machine.lost(machine.at("starting")[0], "died")
    assert machine.scheduler.broken == "workers do not start: it is gone"


def test_the_last_unit_is_raced_and_the_first_commit_wins() -> None:
    machine = started([unit(0), unit(1)], workers=2)
    machine.done("worker-001")
    assert [d.unit.unit_id for d in machine.queues["worker-001"]] == ["u001"]
    assert [d.unit.unit_id for d in machine.queues["worker-002"]] == ["u001"]
    machine.done("worker-001")
    assert machine.scheduler.over
    assert machine.scheduler.left == 0


def test_both_copies_of_a_raced_unit_are_one_attempt_and_it_is_raced_once() -> None:
    machine = started([unit(0), unit(1)], workers=2)
    machine.done("worker-001")
    machine.lost("worker-001", "died")
    assert machine.scheduler.attempts() == {"u001": 1}
    assert machine.workers == {"worker-002": "bound"}
    machine.lost("worker-002", "died")
    machine.finish()
    assert [d.attempt.number for d in machine.dispatched if d.unit.unit_id == "u001"] == [1, 1, 2]


def test_a_unit_is_raced_by_one_worker_only() -> None:
    machine = started([unit(0), unit(1), unit(2)], workers=3)
    for worker in ("worker-001", "worker-002", "worker-001"):
        machine.done(worker)
    assert [d.worker for d in machine.dispatched if d.unit.unit_id == "u002"] == ["worker-003", "worker-002"]
    assert "worker-001" not in machine.workers


def test_one_unit_makes_one_worker_load_its_model() -> None:
    machine = started([unit(0, "a"), unit(1, "b")], workers=2)
    machine.step(UnitsAdded((unit(2, "c"),)))
    machine.done("worker-001")
    machine.done("worker-002")
    assert machine.loads["c"] == 1


def test_a_unit_that_failed_before_is_not_raced() -> None:
    machine = started([unit(0), unit(1)], workers=2)
    machine.done("worker-002", "failed")
    machine.done("worker-001")
    assert [w for w, queue in machine.queues.items() if queue] == ["worker-002"]


def test_the_loser_of_a_race_that_hangs_does_not_hold_up_what_waits_behind_it() -> None:
    machine = started([unit(0), unit(1)], workers=2)
    machine.done("worker-001")
    machine.done("worker-002")
    machine.step(UnitsAdded((unit(2), unit(3), unit(4))))
    assert machine.scheduler.running()["worker-001"][0].unit_id == "u001"
    machine.step(WorkerStuck("worker-001", "too slow"))
    assert machine.scheduler.failed_attempts == 0
    machine.finish()
    assert len(machine.settled) == 5


def test_idle_workers_are_let_go_and_come_back_for_more() -> None:
    machine = started([unit(0)])
    machine.done("worker-001")
    assert not machine.workers
    machine.step(UnitsAdded((unit(1),)))
    machine.finish()
    assert machine.settled["u001"].outcome == "committed"


def test_a_worker_that_nothing_waits_for_any_more_is_not_kept_pending() -> None:
    machine = Machine(Scheduler(3))
    machine.step(UnitsAdded((unit(0), unit(1), unit(2))))
    machine.ready("worker-001")
    machine.bound("worker-001")
    machine.done("worker-001")
    machine.done("worker-001")
    assert machine.at("starting") == []


def test_stopped_it_sends_nothing_out_and_ends_with_what_runs() -> None:
    machine = started([unit(n) for n in range(9)], workers=2)
    sent = len(machine.dispatched)
    machine.step(StopRequested())
    assert not machine.scheduler.over
    machine.done("worker-001")
    machine.done("worker-002")
    assert machine.scheduler.over
    assert len(machine.dispatched) == sent
    assert machine.scheduler.left == 7
    assert not machine.workers


def test_what_a_predecessor_was_at_counts_as_an_attempt() -> None:
    scheduler = Scheduler(1, {"u000": 2, "u001": 3, "later": 1})
    machine = Machine(scheduler)
    machine.step(UnitsAdded((unit(0), unit(1))))
    assert machine.settled["u001"].error_type == "DriverDied"
    assert scheduler.attempts() == {"u000": 2, "later": 1}
    machine.advance("worker-001")
    machine.advance("worker-001")
    assert (machine.dispatched[0].attempt.number, machine.dispatched[0].attempt.row_by_row) == (3, True)


def test_closing_lets_all_workers_go_and_charges_nobody() -> None:
    machine = started([unit(n) for n in range(4)], workers=2)
    assert {kill.worker for kill in machine.scheduler.close()} == {"worker-001", "worker-002"}
    assert machine.scheduler.attempts() == {}


def test_no_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        Scheduler(0)


def test_with_fewer_workers_those_that_have_least_to_lose_go_first() -> None:
    machine = started([unit(n) for n in range(40)], workers=3)
    machine.scheduler.apply(UnitsAdded((unit(40),)))
    machine.step(LimitChanged(1))
    for worker in list(machine.workers):
        machine.done(worker)
    assert len(machine.workers) == 1
    assert machine.scheduler.attempts() == {d[0].unit.unit_id: 1 for d in machine.queues.values()}
    machine.step(LimitChanged(3))
    assert len(machine.workers) == 3
    machine.finish()
    assert len(machine.settled) == 41


def test_a_pause_finishes_what_runs_and_asks_for_nobody() -> None:
    machine = started([unit(n) for n in range(40)], workers=2)
    machine.step(LimitChanged(0))
    assert len(machine.workers) == 2, "what runs is finished"
    for worker in list(machine.workers):
        machine.done(worker)
    machine.step(Clock(1000.0))
    assert not machine.workers
    assert (machine.scheduler.left, machine.scheduler.over, machine.scheduler.broken) == (38, False, None)
    machine.step(LimitChanged(2))
    machine.finish()
    assert len(machine.settled) == 40
    assert {d.attempt.number for d in machine.dispatched} == {1}
