"""A whole run with a worker that needs no model: resume, crashes at every storage call, growth, refusal."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from typing import Any

import pytest

from loco_core.errors import LocoError, SpecError, StoreError
from loco_core.types import Window
from orchestrator.resolve.resolved import Resolved
from orchestrator.runs import session
from orchestrator.runs.localize import localize_results, read_scores
from orchestrator.runs.outlook import outlook
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Attempt, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.store import LeaseLostError, Store, encode_document, layout, make_table
from orchestrator.store.checksums import decode_document
from orchestrator.store.testing import CrashError, FaultyBlobs, MemoryBlobs
from tests.support.fake_runs import forget_lease, run
from tests.support.sweeps import FakeWorker, assert_each_once, fake_resolved, payload, tiny_sweep

SMALL: dict[str, Any] = {
    "attributes": ["style/velor"],
    "prompts": 1,
    "seeds": 2,
    "controls": {"random": 0},
    "localize": {"localizer": "argmin"},
}


def test_a_run_scores_every_cell_once_and_localizes() -> None:
    store = Store(MemoryBlobs())
    result, found = run(tiny_sweep("x"), store)
    scores = store.read("scores")
    assert_each_once(scores)
    assert result.summary.outcome == "done"
    assert scores.num_rows == result.summary.rows
    assert sorted(item.attribute for item in found) == ["fact/zandia", "style/velor"]
    assert store.read("localizations").num_rows == 2
    assert store.read("effects").num_rows == 2 * 8


def test_the_same_command_does_nothing_twice() -> None:
    store = Store(MemoryBlobs())
    run(tiny_sweep("x"), store)
    before = payload(store.read("scores"))
    again, _ = run(tiny_sweep("x"), store)
    assert again.summary.committed == 0
    assert payload(store.read("scores")) == before


def test_what_units_report_is_localized_without_reading_them() -> None:
    reads = Counter[str]()

    class Counted(MemoryBlobs):
        def read(self, path: str) -> bytes:
            reads[path] += path.startswith(layout.UNITS)
            return super().read(path)

    store = Store(Counted())
    run(tiny_sweep("x"), store)
    # Once each, to be published.
    assert {path: n for path, n in reads.items() if n} == {layout.unit(name): 1 for name in store.all_committed()}
    before = store.read("localizations").to_pylist(), store.read("effects").to_pylist()
    again, found = run(tiny_sweep("x"), store)
    assert again.summary.committed == 0
    assert len(found) == 2
    assert (store.read("localizations").to_pylist(), store.read("effects").to_pylist()) == before


def test_a_crash_at_every_storage_call_loses_and_doubles_nothing() -> None:
    spec = tiny_sweep("x", **SMALL)
    undisturbed = Store(MemoryBlobs())
    run(spec, undisturbed)
    expected = payload(undisturbed.read("scores"))
    localizations = undisturbed.read("localizations").to_pylist()
    n, crashed = 0, True
    while crashed:
        n += 1
        crashed = False
        for after in (False, True):
            blobs = MemoryBlobs()
            try:
                run(spec, Store(FaultyBlobs(blobs, n, after=after)))
            except CrashError:
                crashed = True
            survivor = Store(blobs)
            done = survivor.committed()
            assert_each_once(survivor.read("scores"))
            forget_lease(blobs)
            summary = run(spec, survivor)[0].summary
            assert (summary.committed, summary.already) == (len(undisturbed.committed() - done), 0)
            assert payload(survivor.read("scores")) == expected, f"killed at storage call {n}, after={after}"
            assert survivor.read("localizations").to_pylist() == localizations
    assert n > 30


def test_growing_the_seeds_equals_a_fresh_run() -> None:
    grown, fresh = Store(MemoryBlobs()), Store(MemoryBlobs())
    run(tiny_sweep("x", seeds=2), grown)
    run(tiny_sweep("x", seeds=4), grown)
    run(tiny_sweep("x", seeds=4), fresh)
    without_unit = [{k: v for k, v in row.items() if k != "unit_id"} for row in payload(grown.read("scores"))]
    assert without_unit == [{k: v for k, v in row.items() if k != "unit_id"} for row in payload(fresh.read("scores"))]
    assert grown.read("localizations").to_pylist() == fresh.read("localizations").to_pylist()


def test_changed_settings_are_refused_with_the_way_out() -> None:
    store = Store(MemoryBlobs())
    run(tiny_sweep("x"), store)
    with pytest.raises(SpecError, match=r"generation.steps 2 -> 3.*--results"):
        run(tiny_sweep("x", generation={"steps": 3, "guidance_scale": 3.0}), store)


@pytest.mark.parametrize("what", ["models", "scorer"])
def test_other_weights_under_an_old_name_are_refused(what: str) -> None:
    def retrained(spec: SweepSpec) -> Resolved:
        found = fake_resolved(spec)
        changed = {"weights": "retrained"}
        models = tuple(model.model_copy(update=changed) for model in found.models)
        return found.model_copy(
            update={"models": models} if what == "models" else {"scorer": found.scorer.model_copy(update=changed)}
        )

    store = Store(MemoryBlobs())
    run(tiny_sweep("x", **SMALL), store)
    before = store.read("scores")
    with pytest.raises(SpecError, match=r"weights [wc], .* now holds retrained; put the old weights back, .*--results"):
        run(tiny_sweep("x", **{**SMALL, "seeds": 3}), store, resolve=retrained)
    assert store.read("scores").equals(before)
    assert store.committed() == set(before["unit_id"].to_pylist())


class Failing(FakeWorker):
    """Gives up on one unit until it is told to work."""

    broken = True

    def run(self, unit: Any, attempt: Attempt) -> UnitReport:
        if self.broken and unit.order == 1:
            raise ValueError("the second unit is cursed")
        return super().run(unit, attempt)


@pytest.mark.parametrize("what", ["model", "scorer"])
def test_weights_are_pinned_with_the_first_thing_that_is_made(what: str) -> None:
    """A run that was stopped while its workers loaded leaves a plan; half a download may then be completed."""
    store, spec, stop = Store(MemoryBlobs()), tiny_sweep("x", **SMALL), StopSwitch()
    stop.press()
    assert run(spec, store, stop=stop)[0].summary.rows == 0
    assert store.plans()
    assert not store.committed()
    resolved = fake_resolved(spec)
    if what == "model":
        models = tuple(model.model_copy(update={"weights": "other"}) for model in resolved.models)
        resolved = resolved.model_copy(update={"models": models})
    else:
        scorer = resolved.scorer.model_copy(update={"weights": "other"})
        resolved = resolved.model_copy(update={"scorer": scorer})
    result, _ = run(spec, store, resolve=lambda _: resolved)
    undisturbed = Store(MemoryBlobs())
    run(spec, undisturbed, resolve=lambda _: resolved)
    assert (result.summary.outcome, result.failed_cells, result.summary.left) == ("done", 0, 0)
    assert payload(store.read("scores")) == payload(undisturbed.read("scores"))
    assert len(store.plans()) == len(undisturbed.plans())
    with pytest.raises(SpecError, match="were made with"):
        run(spec, store)


def stopped(spec: SweepSpec) -> tuple[Store, str]:
    """Results of a run that was stopped before its first unit, and what its workers know the run by."""
    store, stop = Store(MemoryBlobs()), StopSwitch()
    stop.press()
    run(spec, store, stop=stop)
    return store, str(decode_document(store.blobs.read(layout.MARKER), layout.MARKER)["marker"])


def failed(unit_id: str) -> dict[str, Any]:
    return {"failures": make_table("failures", [{"unit_id": unit_id, "cell_id": unit_id, "error": "boom"}])}


def with_other_weights(spec: SweepSpec) -> Resolved:
    found = fake_resolved(spec)
    models = tuple(model.model_copy(update={"weights": "other"}) for model in found.models)
    return found.model_copy(update={"models": models})


def test_a_worker_of_a_run_before_commits_no_more() -> None:
    spec = tiny_sweep("x", **SMALL)
    store, marker = stopped(spec)
    late = Store(store.blobs, marker)
    late.commit_unit("early", failed("early"), "a")
    store.blobs.delete(layout.unit("early"))
    run(spec, store, resolve=with_other_weights)
    before = store.committed()
    with pytest.raises(LeaseLostError, match="another run has begun"):
        late.commit_unit("late", failed("late"), "a")
    assert store.committed() == before
    # A marker that is gone tells of no other run.
    store.blobs.delete(layout.MARKER)
    assert late.commit_unit("late", failed("late"), "a") == "won"


def test_what_an_old_worker_commits_at_the_last_moment_keeps_its_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = tiny_sweep("x", **SMALL)
    store, marker = stopped(spec)
    preflight = session.preflight

    def late(*args: Any) -> str:
        Store(store.blobs, marker).commit_unit("late", failed("late"), "a")
        return preflight(*args)

    monkeypatch.setattr(session, "preflight", late)
    with pytest.raises(SpecError, match="were made with weights"):
        run(spec, store, resolve=with_other_weights)
    assert list(store.plans()) == [0]


def test_an_edit_before_the_first_unit_leaves_no_plan_of_other_weights() -> None:
    spec = tiny_sweep("x", **SMALL)
    store, _ = stopped(spec)
    store.blobs.replace("_meta/plan/notes.txt", b"mine")
    plan = store.blobs.read(layout.plan(0))
    pinned = session.begin(store, with_other_weights(spec))
    store.blobs.replace(layout.RESOLVED, encode_document(pinned))
    assert store.blobs.read("_meta/plan/notes.txt") == b"mine"
    assert plan in [store.blobs.read(path) for path in store.blobs.list(layout.QUARANTINE)]
    result, _ = run(spec, store, resolve=with_other_weights)
    undisturbed = Store(MemoryBlobs())
    run(spec, undisturbed, resolve=with_other_weights)
    assert result.summary.outcome == "done"
    assert payload(store.read("scores")) == payload(undisturbed.read("scores"))


def test_a_command_about_one_model_does_not_forget_what_others_were_planned_with() -> None:
    spec = tiny_sweep("x", **SMALL)
    store, _ = stopped(spec)
    resolved = fake_resolved(spec)
    pinned = session.begin(store, resolved.model_copy(update={"models": ()}))
    store.blobs.replace(layout.RESOLVED, encode_document(pinned))
    assert session.is_planned_otherwise(store, with_other_weights(spec))
    assert not session.is_planned_otherwise(store, resolved)


@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (1, 2)])
def test_a_plan_that_is_gone_doubles_nothing(lost: tuple[int, ...]) -> None:
    def grow(*largest: int) -> None:
        for size in largest:
            windows = {"sizes": list(range(1, size + 1)), "stride": 4}
            run(tiny_sweep("x", **{**SMALL, "seeds": 1, "windows": windows}), store)
            assert_each_once(store.read("scores"))

    store = Store(MemoryBlobs())
    grow(1, 2, 3)
    assert list(store.plans()) == [0, 1, 2]
    for number in lost:
        store.blobs.delete(layout.plan(number))
    # What was planned alone would go into a unit with what is new. More than once: the next plan must not take the
    # place of the one that is gone.
    grow(4, 5)
    assert set(store.read("scores")["window_size"].to_pylist()) >= set(range(1, 6))


def test_failed_cells_are_recorded_counted_and_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_sweep("x", **{**SMALL, "localize": {"resamples": 100}})
    store = Store(MemoryBlobs())
    monkeypatch.setattr(Failing, "broken", True)
    result, found = run(spec, store, Failing)
    assert result.failed_cells == store.read("failures").num_rows > 0
    (error,) = set(store.read("failures")["error"].to_pylist())
    assert error.startswith("the second unit is cursed (runs/test_sweep.py, line ")
    assert found[0].outcome == "incomplete"
    same, _ = run(spec, store, Failing)
    assert same.summary.committed == 0
    monkeypatch.setattr(Failing, "broken", False)
    retried, found = run(spec, store, Failing, retry=True)
    assert retried.failed_cells == 0
    assert found[0].outcome != "incomplete"
    assert_each_once(store.read("scores"))


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)])
def test_a_plan_of_failed_cells_that_is_gone_doubles_nothing(
    lost: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store = tiny_sweep("x", **{**SMALL, "localize": {"resamples": 100}}), Store(MemoryBlobs())
    monkeypatch.setattr(Failing, "broken", True)
    run(spec, store, Failing)
    monkeypatch.setattr(Failing, "broken", False)
    _, expected = run(spec, store, Failing, retry=True)
    for number in lost:
        store.blobs.delete(layout.plan(number))
    again, found = run(spec, store, Failing)
    assert (again.summary.committed, again.failed_cells) == (0, 0)
    assert found == expected
    assert_each_once(store.read("scores"))


class FailingComplements(FakeWorker):
    """Cannot do complements until it is told to."""

    broken = True

    def run(self, unit: Any, attempt: Attempt) -> UnitReport:
        if self.broken and any(each.control == "complement" for each in unit.payload.variants):
            raise ValueError("no complements today")
        return super().run(unit, attempt)


def test_complements_that_failed_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryBlobs())
    spec = tiny_sweep("x", attributes=["style/velor"], prompts=4, seeds=8, windows={"sizes": [1, 2]})
    failed, _ = run(spec, store, FailingComplements)
    assert failed.failed_cells > 0
    monkeypatch.setattr(FailingComplements, "broken", False)
    retried, found = run(spec, store, FailingComplements, retry=True)
    assert retried.failed_cells == 0
    assert found[-1].sufficiency is not None
    assert_each_once(store.read("scores"))


def test_an_attribute_of_which_nothing_could_be_scored_is_incomplete() -> None:
    class Dead(FakeWorker):
        def run(self, unit: Any, attempt: Attempt) -> UnitReport:
            if unit.payload.attribute == "fact/zandia":
                raise ValueError("no flags today")
            return super().run(unit, attempt)

    store = Store(MemoryBlobs())
    run(tiny_sweep("x"), store, Dead)
    rows = {row["attribute"]: row for row in store.read("localizations").to_pylist()}
    assert set(rows) == {"fact/zandia", "style/velor"}
    assert rows["fact/zandia"]["outcome"] == "incomplete"


def test_what_was_localized_stands_until_it_is_localized_again() -> None:
    store, stop = Store(MemoryBlobs()), StopSwitch()
    run(tiny_sweep("x"), store)
    before = store.read("localizations").to_pylist()
    stop.press()
    grown, found = run(tiny_sweep("x", seeds=3), store, stop=stop)
    assert grown.summary.outcome == "stopped"
    assert found == []
    assert store.read("localizations").to_pylist() == before


def test_a_refused_run_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryBlobs())
    run(tiny_sweep("x"), store)
    plans, sweep = store.plans(), store.sweep()

    def no_room(*_: Any) -> str:
        raise StoreError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.runs.sweep.preflight", no_room)
        with pytest.raises(StoreError, match="no room"):
            run(tiny_sweep("x", seeds=50), store)
    assert store.plans().keys() == plans.keys()
    assert store.sweep() == sweep
    assert run(tiny_sweep("x", seeds=3), store)[0].summary.outcome == "done"


def test_localizing_again_does_not_overlook_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryBlobs())
    monkeypatch.setattr(Failing, "broken", True)
    run(tiny_sweep("x", **{**SMALL, "localize": {"resamples": 100}}), store, Failing)
    found, _ = localize_results(read_scores("results", store), {})
    assert [item.outcome for item in found] == ["incomplete"]


def test_images_of_the_first_seeds_are_kept_whatever_their_numbers() -> None:
    kept = session.kept_seeds(tiny_sweep("x", seeds=[100, 7, 9], images="report"))
    assert kept == {100, 7}
    assert session.kept_seeds(tiny_sweep("x", images="none")) == set()


def test_complements_are_run_when_the_localizer_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute that either of two sites can draw is necessary nowhere; complements show where it is sufficient."""
    import tests.support.sweeps as sweeps

    def either(row: Any) -> float:
        free = set(range(16)) - set(row.intervention.sites) if row.control != "donor" else set()
        has = row.control in ("clean", "identity") or bool({0, 8} & free)
        return (0.3 if has else 0.0) + (hashlib.sha256(row.cell_id.encode()).digest()[0] / 255 - 0.5) * 0.01

    monkeypatch.setattr(sweeps, "score_of", either)
    store = Store(MemoryBlobs())
    spec = tiny_sweep("x", attributes=["style/velor"], prompts=8, seeds=4, windows={"sizes": [1, 2, 3, 4]})
    _, found = run(spec, store)
    assert "complement" in set(store.read("scores")["control"].to_pylist())
    assert found[0].outcome == "redundant"
    assert len(store.plans()) == 2


def test_two_drivers_do_not_share_a_folder() -> None:
    from orchestrator.store import Lease

    store = Store(MemoryBlobs())
    lease, over = Lease(store.blobs, beat=0.1), threading.Event()
    lease.acquire()

    def live() -> None:
        while not over.wait(0.05):
            lease.renew()

    beating = threading.Thread(target=live)
    beating.start()
    try:
        with pytest.raises(LocoError, match="is running this sweep"):
            run(tiny_sweep("x"), store)
    finally:
        over.set()
        beating.join()


# A third of the grid's pairs at first, so that even a test's grid has several interim analyses.
SEQUENTIAL: dict[str, Any] = {
    "attributes": ["style/velor"],
    "windows": {"sizes": [1, 2, 3], "stride": 1},
    "prompts": 4,
    "seeds": 8,
    "controls": {"random": 0},
    "localize": {"localizer": "sequential", "resamples": 100, "screen": 4},
}


def test_a_sequential_sweep_finds_what_the_whole_grid_says_from_fewer_cells() -> None:
    few, whole = Store(MemoryBlobs()), Store(MemoryBlobs())
    _, found = run(tiny_sweep("x", **SEQUENTIAL), few)
    settings = {**SEQUENTIAL["localize"], "localizer": "window"}
    _, expected = run(tiny_sweep("x", **{**SEQUENTIAL, "localize": settings}), whole)
    assert [item.window for item in found] == [item.window for item in expected] == [Window(4, 2)]
    assert all(item.sufficiency is not None for item in found), "the complement was run too"
    assert_each_once(few.read("scores"))
    assert few.read("scores").num_rows < whole.read("scores").num_rows / 2
    assert len(few.plans()) > 2, "planned in rounds"


def test_plan_says_what_a_sequential_sweep_begins_with_and_the_most_that_it_may_ask_for() -> None:
    spec = tiny_sweep("x", **SEQUENTIAL)
    whole = tiny_sweep("x", **{**SEQUENTIAL, "localize": {"localizer": "window"}})
    begins, all_of_it = (outlook(item, fake_resolved(item), None) for item in (spec, whole))
    assert begins.most_cells == all_of_it.cells
    assert begins.cells == 8 * (4 + 14), "on eight pairs: four controls, and the windows of three sites"
    assert all_of_it.most_cells is None


def test_a_sequential_sweep_with_more_seeds_equals_a_fresh_one() -> None:
    grown, fresh = Store(MemoryBlobs()), Store(MemoryBlobs())
    run(tiny_sweep("x", **SEQUENTIAL), grown)
    run(tiny_sweep("x", **{**SEQUENTIAL, "seeds": 10}), grown)
    run(tiny_sweep("x", **{**SEQUENTIAL, "seeds": 10}), fresh)
    assert grown.read("localizations").to_pylist() == fresh.read("localizations").to_pylist()
    assert grown.read("effects").to_pylist() == fresh.read("effects").to_pylist()


def test_a_sequential_sweep_killed_between_rounds_ends_as_if_it_had_not_been() -> None:
    spec = tiny_sweep("x", **SEQUENTIAL)
    blobs = FaultyBlobs(MemoryBlobs(), 10**9, after=False)
    undisturbed = Store(blobs)
    run(spec, undisturbed)
    expected, rounds = payload(undisturbed.read("scores")), len(undisturbed.plans())
    for share in (0.35, 0.7):
        left = MemoryBlobs()
        with pytest.raises(CrashError):
            run(spec, Store(FaultyBlobs(left, int(share * blobs.calls), after=True)))
        survivor = Store(left)
        forget_lease(left)
        run(spec, survivor)
        assert payload(survivor.read("scores")) == expected, f"killed after {share:.0%} of the storage calls"
        assert survivor.read("localizations").to_pylist() == undisturbed.read("localizations").to_pylist()
        assert len(survivor.plans()) == rounds
