"""A whole run with a worker that needs no model: resume, crashes at every storage call, growth, refusal."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from loco_core.errors import LocoError, SpecError, StoreError
from loco_core.localizers import Localization
from loco_core.types import Window
from orchestrator import driver, session
from orchestrator.backends.inline import InlineBackend
from orchestrator.resolve import Resolved
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Backend, MakeWorker, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.store import LeaseLostError, Store, encode_document, layout, make_table
from orchestrator.store.sealed import decode_document
from orchestrator.store.testing import CrashError, FaultyBlobs, MemoryBlobs
from orchestrator.worker import WorkerSettings
from tests.sweeps import FakeWorker, assert_each_once, fake_resolved, payload, tiny_sweep

SMALL: dict[str, Any] = {
    "attributes": ["style/velor"],
    "prompts": 1,
    "seeds": 2,
    "controls": {"random": 0},
    "localize": {"localizer": "argmin"},
}


@pytest.fixture(autouse=True)
def _resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "resolve", fake_resolved)


def inline(make_worker: MakeWorker) -> Backend:
    return InlineBackend(make_worker, threads=1)


def run(
    spec: SweepSpec,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., Any] = FakeWorker,
    backend: Callable[[MakeWorker], Backend] = inline,
    **options: Any,
) -> tuple[driver.RunResult, list[Localization]]:
    monkeypatch.setattr(driver, "open_store", lambda *_, **__: store)
    found: list[Localization] = []

    def make_backend(settings: WorkerSettings) -> Backend:
        return backend(lambda model: make(settings, model, lambda: store))

    result = driver.run(
        spec, "results", make_backend, on_localized=found.append,
        **{"stop": StopSwitch(), "on_progress": lambda _: None, **options},
    )  # fmt: skip
    return result, found


def test_a_run_scores_every_cell_once_and_localizes(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryBlobs())
    result, found = run(tiny_sweep("x"), store, monkeypatch)
    scores = store.read("scores")
    assert_each_once(scores)
    assert result.summary.outcome == "done"
    assert scores.num_rows == result.summary.rows
    assert sorted(item.attribute for item in found) == ["fact/zandia", "style/velor"]
    assert store.read("localizations").num_rows == 2
    assert store.read("effects").num_rows == 2 * 8


def test_the_same_command_does_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryBlobs())
    run(tiny_sweep("x"), store, monkeypatch)
    before = payload(store.read("scores"))
    again, _ = run(tiny_sweep("x"), store, monkeypatch)
    assert again.summary.committed == 0
    assert payload(store.read("scores")) == before


def test_a_crash_at_every_storage_call_loses_and_doubles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_sweep("x", **SMALL)
    undisturbed = Store(MemoryBlobs())
    run(spec, undisturbed, monkeypatch)
    expected = payload(undisturbed.read("scores"))
    localizations = undisturbed.read("localizations").to_pylist()
    n, crashed = 0, True
    while crashed:
        n += 1
        crashed = False
        for after in (False, True):
            blobs = MemoryBlobs()
            try:
                run(spec, Store(FaultyBlobs(blobs, n, after=after)), monkeypatch)
            except CrashError:
                crashed = True
            survivor = Store(blobs)
            done = survivor.committed()
            assert_each_once(survivor.read("scores"))
            _forget_lease(blobs)
            summary = run(spec, survivor, monkeypatch)[0].summary
            assert (summary.committed, summary.already) == (len(undisturbed.committed() - done), 0)
            assert payload(survivor.read("scores")) == expected, f"killed at storage call {n}, after={after}"
            assert survivor.read("localizations").to_pylist() == localizations
    assert n > 30


def test_growing_the_seeds_equals_a_fresh_run(monkeypatch: pytest.MonkeyPatch) -> None:
    grown, fresh = Store(MemoryBlobs()), Store(MemoryBlobs())
    run(tiny_sweep("x", seeds=2), grown, monkeypatch)
    run(tiny_sweep("x", seeds=4), grown, monkeypatch)
    run(tiny_sweep("x", seeds=4), fresh, monkeypatch)
    without_unit = [{k: v for k, v in row.items() if k != "unit_id"} for row in payload(grown.read("scores"))]
    assert without_unit == [{k: v for k, v in row.items() if k != "unit_id"} for row in payload(fresh.read("scores"))]
    assert grown.read("localizations").to_pylist() == fresh.read("localizations").to_pylist()


def test_changed_settings_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryBlobs())
    run(tiny_sweep("x"), store, monkeypatch)
    with pytest.raises(SpecError, match=r"generation.steps 2 -> 3.*--results"):
        run(tiny_sweep("x", generation={"steps": 3, "guidance_scale": 3.0}), store, monkeypatch)


@pytest.mark.parametrize("what", ["models", "scorer"])
def test_other_weights_under_an_old_name_are_refused(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def retrained(spec: SweepSpec) -> Resolved:
        found = fake_resolved(spec)
        changed = {"weights": "retrained"}
        models = tuple(model.model_copy(update=changed) for model in found.models)
        return found.model_copy(
            update={"models": models} if what == "models" else {"scorer": found.scorer.model_copy(update=changed)}
        )

    store = Store(MemoryBlobs())
    run(tiny_sweep("x", **SMALL), store, monkeypatch)
    before = store.read("scores")
    monkeypatch.setattr(driver, "resolve", retrained)
    with pytest.raises(SpecError, match=r"weights [wc], .* now holds retrained; put the old weights back, .*--results"):
        run(tiny_sweep("x", **{**SMALL, "seeds": 3}), store, monkeypatch)
    assert store.read("scores").equals(before)
    assert store.committed() == set(before["unit_id"].to_pylist())


class Failing(FakeWorker):
    """Gives up on one unit until it is told to work."""

    broken = True

    def run(self, unit: Any, attempt: int, row_by_row: bool) -> UnitReport:
        if self.broken and unit.order == 1:
            raise ValueError("the second unit is cursed")
        return super().run(unit, attempt, row_by_row)


@pytest.mark.parametrize("what", ["model", "scorer"])
def test_weights_are_pinned_with_the_first_thing_that_is_made(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped while its workers loaded leaves a plan; half a download may then be completed."""
    store, spec, stop = Store(MemoryBlobs()), tiny_sweep("x", **SMALL), StopSwitch()
    stop.press()
    assert run(spec, store, monkeypatch, stop=stop)[0].summary.rows == 0
    assert store.plans()
    assert not store.committed()
    resolved = fake_resolved(spec)
    if what == "model":
        models = tuple(model.model_copy(update={"weights": "other"}) for model in resolved.models)
        resolved = resolved.model_copy(update={"models": models})
    else:
        scorer = resolved.scorer.model_copy(update={"weights": "other"})
        resolved = resolved.model_copy(update={"scorer": scorer})
    monkeypatch.setattr(driver, "resolve", lambda _: resolved)
    result, _ = run(spec, store, monkeypatch)
    undisturbed = Store(MemoryBlobs())
    run(spec, undisturbed, monkeypatch)
    assert (result.summary.outcome, result.failed_cells, result.summary.left) == ("done", 0, 0)
    assert payload(store.read("scores")) == payload(undisturbed.read("scores"))
    assert len(store.plans()) == len(undisturbed.plans())
    monkeypatch.setattr(driver, "resolve", fake_resolved)
    with pytest.raises(SpecError, match="were made with"):
        run(spec, store, monkeypatch)


def stopped(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, str]:
    """Results of a run that was stopped before its first unit, and what its workers know the run by."""
    store, stop = Store(MemoryBlobs()), StopSwitch()
    stop.press()
    run(spec, store, monkeypatch, stop=stop)
    return store, str(decode_document(store.blobs.read(layout.MARKER), layout.MARKER)["marker"])


def failed(unit_id: str) -> dict[str, Any]:
    return {"failures": make_table("failures", [{"unit_id": unit_id, "cell_id": unit_id, "error": "boom"}])}


def with_other_weights(spec: SweepSpec) -> Resolved:
    found = fake_resolved(spec)
    models = tuple(model.model_copy(update={"weights": "other"}) for model in found.models)
    return found.model_copy(update={"models": models})


def test_a_worker_of_a_run_before_commits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_sweep("x", **SMALL)
    store, marker = stopped(spec, monkeypatch)
    late = Store(store.blobs, marker)
    late.commit_unit("early", failed("early"), "a")
    store.blobs.delete(layout.unit("early"))
    monkeypatch.setattr(driver, "resolve", with_other_weights)
    run(spec, store, monkeypatch)
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
    store, marker = stopped(spec, monkeypatch)
    preflight = session.preflight

    def late(*args: Any) -> str:
        Store(store.blobs, marker).commit_unit("late", failed("late"), "a")
        return preflight(*args)

    monkeypatch.setattr(session, "preflight", late)
    monkeypatch.setattr(driver, "resolve", with_other_weights)
    with pytest.raises(SpecError, match="were made with weights"):
        run(spec, store, monkeypatch)
    assert list(store.plans()) == [0]


def test_an_edit_before_the_first_unit_leaves_no_plan_of_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_sweep("x", **SMALL)
    store, _ = stopped(spec, monkeypatch)
    store.blobs.replace("_meta/plan/notes.txt", b"mine")
    plan = store.blobs.read(layout.plan(0))
    pinned = session.begin(store, with_other_weights(spec))
    store.blobs.replace(layout.RESOLVED, encode_document(pinned))
    assert store.blobs.read("_meta/plan/notes.txt") == b"mine"
    assert plan in [store.blobs.read(path) for path in store.blobs.list(layout.QUARANTINE)]
    monkeypatch.setattr(driver, "resolve", with_other_weights)
    result, _ = run(spec, store, monkeypatch)
    undisturbed = Store(MemoryBlobs())
    run(spec, undisturbed, monkeypatch)
    assert result.summary.outcome == "done"
    assert payload(store.read("scores")) == payload(undisturbed.read("scores"))


def test_a_command_about_one_model_does_not_forget_what_others_were_planned_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = tiny_sweep("x", **SMALL)
    store, _ = stopped(spec, monkeypatch)
    resolved = fake_resolved(spec)
    pinned = session.begin(store, resolved.model_copy(update={"models": ()}))
    store.blobs.replace(layout.RESOLVED, encode_document(pinned))
    assert session.is_planned_otherwise(store, with_other_weights(spec))
    assert not session.is_planned_otherwise(store, resolved)


@pytest.mark.parametrize("lost", [(0,), (1,), (2,), (1, 2)])
def test_a_plan_that_is_gone_doubles_nothing(lost: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(*largest: int) -> None:
        for size in largest:
            windows = {"sizes": list(range(1, size + 1)), "stride": 4}
            run(tiny_sweep("x", **{**SMALL, "seeds": 1, "windows": windows}), store, monkeypatch)
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
    result, found = run(spec, store, monkeypatch, Failing)
    assert result.failed_cells == store.read("failures").num_rows > 0
    assert set(store.read("failures")["error"].to_pylist()) == {"the second unit is cursed"}
    assert found[0].outcome == "incomplete"
    same, _ = run(spec, store, monkeypatch, Failing)
    assert same.summary.committed == 0
    monkeypatch.setattr(Failing, "broken", False)
    retried, found = run(spec, store, monkeypatch, Failing, retry=True)
    assert retried.failed_cells == 0
    assert found[0].outcome != "incomplete"
    assert_each_once(store.read("scores"))


class FailingComplements(FakeWorker):
    """Cannot do complements until it is told to."""

    broken = True

    def run(self, unit: Any, attempt: int, row_by_row: bool) -> UnitReport:
        if self.broken and any(row.control == "complement" for row in unit.payload.rows):
            raise ValueError("no complements today")
        return super().run(unit, attempt, row_by_row)


def test_complements_that_failed_are_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryBlobs())
    spec = tiny_sweep("x", attributes=["style/velor"], prompts=4, seeds=8, windows={"sizes": [1, 2]})
    failed, _ = run(spec, store, monkeypatch, FailingComplements)
    assert failed.failed_cells > 0
    monkeypatch.setattr(FailingComplements, "broken", False)
    retried, found = run(spec, store, monkeypatch, FailingComplements, retry=True)
    assert retried.failed_cells == 0
    assert found[-1].sufficiency is not None
    assert_each_once(store.read("scores"))


def test_an_attribute_of_which_nothing_could_be_scored_is_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(FakeWorker):
        def run(self, unit: Any, attempt: int, row_by_row: bool) -> UnitReport:
            if unit.payload.attribute == "fact/zandia":
                raise ValueError("no flags today")
            return super().run(unit, attempt, row_by_row)

    store = Store(MemoryBlobs())
    run(tiny_sweep("x"), store, monkeypatch, Dead)
    rows = {row["attribute"]: row for row in store.read("localizations").to_pylist()}
    assert set(rows) == {"fact/zandia", "style/velor"}
    assert rows["fact/zandia"]["outcome"] == "incomplete"


def test_what_was_localized_stands_until_it_is_localized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, stop = Store(MemoryBlobs()), StopSwitch()
    run(tiny_sweep("x"), store, monkeypatch)
    before = store.read("localizations").to_pylist()
    stop.press()
    grown, found = run(tiny_sweep("x", seeds=3), store, monkeypatch, stop=stop)
    assert grown.summary.outcome == "stopped"
    assert found == []
    assert store.read("localizations").to_pylist() == before


def test_a_refused_run_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryBlobs())
    run(tiny_sweep("x"), store, monkeypatch)
    plans, sweep = store.plans(), store.sweep()

    def no_room(*_: Any) -> str:
        raise StoreError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(driver, "preflight", no_room)
        with pytest.raises(StoreError, match="no room"):
            run(tiny_sweep("x", seeds=50), store, patch)
    assert store.plans().keys() == plans.keys()
    assert store.sweep() == sweep
    assert run(tiny_sweep("x", seeds=3), store, monkeypatch)[0].summary.outcome == "done"


def test_localizing_again_does_not_overlook_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.stages import relocalize

    store = Store(MemoryBlobs())
    monkeypatch.setattr(Failing, "broken", True)
    run(tiny_sweep("x", **{**SMALL, "localize": {"resamples": 100}}), store, monkeypatch, Failing)
    monkeypatch.setattr(relocalize, "open_store", lambda *_, **__: store)
    found, _ = relocalize.relocalize(relocalize.read_scores("results"), {})
    assert [item.outcome for item in found] == ["incomplete"]


def test_images_of_the_first_seeds_are_kept_whatever_their_numbers() -> None:
    kept = session.kept_seeds(tiny_sweep("x", seeds=[100, 7, 9], images="report"))
    assert kept == {100, 7}
    assert session.kept_seeds(tiny_sweep("x", images="none")) == set()


def test_complements_are_run_when_the_localizer_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute that either of two sites can draw is necessary nowhere; complements show where it is sufficient."""
    import tests.sweeps as sweeps

    def either(row: Any) -> float:
        free = set(range(16)) - set(row.site_indices) if row.control != "donor" else set()
        has = row.control in ("clean", "identity") or bool({0, 8} & free)
        return (0.3 if has else 0.0) + (hashlib.sha256(row.cell_id.encode()).digest()[0] / 255 - 0.5) * 0.01

    monkeypatch.setattr(sweeps, "score_of", either)
    store = Store(MemoryBlobs())
    spec = tiny_sweep("x", attributes=["style/velor"], prompts=8, seeds=4, windows={"sizes": [1, 2, 3, 4]})
    _, found = run(spec, store, monkeypatch)
    assert "complement" in set(store.read("scores")["control"].to_pylist())
    assert found[0].outcome == "redundant"
    assert len(store.plans()) == 2


def test_two_drivers_do_not_share_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
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
            run(tiny_sweep("x"), store, monkeypatch)
    finally:
        over.set()
        beating.join()


def _forget_lease(blobs: MemoryBlobs) -> None:
    """The dead driver's lease names this very process, which lives: a real one would be seen to be dead."""
    blobs.files.pop("_meta/lease.json", None)


# A third of the grid's pairs at first, so that even a test's grid has several looks.
SEQUENTIAL: dict[str, Any] = {
    "attributes": ["style/velor"],
    "windows": {"sizes": [1, 2, 3], "stride": 1},
    "prompts": 4,
    "seeds": 8,
    "controls": {"random": 0},
    "localize": {"localizer": "sequential", "resamples": 100, "screen": 4},
}


def test_a_sequential_sweep_finds_what_the_whole_grid_says_from_fewer_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    few, whole = Store(MemoryBlobs()), Store(MemoryBlobs())
    _, found = run(tiny_sweep("x", **SEQUENTIAL), few, monkeypatch)
    settings = {**SEQUENTIAL["localize"], "localizer": "window"}
    _, expected = run(tiny_sweep("x", **{**SEQUENTIAL, "localize": settings}), whole, monkeypatch)
    assert [item.window for item in found] == [item.window for item in expected] == [Window(4, 2)]
    assert all(item.sufficiency is not None for item in found), "the complement was run too"
    assert_each_once(few.read("scores"))
    assert few.read("scores").num_rows < whole.read("scores").num_rows / 2
    assert len(few.plans()) > 2, "planned in rounds"


def test_plan_says_what_a_sequential_sweep_begins_with_and_the_most_that_it_may_ask_for() -> None:
    spec = tiny_sweep("x", **SEQUENTIAL)
    whole = tiny_sweep("x", **{**SEQUENTIAL, "localize": {"localizer": "window"}})
    begins, all_of_it = (driver.outlook(item, fake_resolved(item), None) for item in (spec, whole))
    assert begins.most_cells == all_of_it.cells
    assert begins.cells == 8 * (4 + 14), "on eight pairs: four controls, and the windows of three sites"
    assert all_of_it.most_cells is None


def test_a_sequential_sweep_with_more_seeds_equals_a_fresh_one(monkeypatch: pytest.MonkeyPatch) -> None:
    grown, fresh = Store(MemoryBlobs()), Store(MemoryBlobs())
    run(tiny_sweep("x", **SEQUENTIAL), grown, monkeypatch)
    run(tiny_sweep("x", **{**SEQUENTIAL, "seeds": 10}), grown, monkeypatch)
    run(tiny_sweep("x", **{**SEQUENTIAL, "seeds": 10}), fresh, monkeypatch)
    assert grown.read("localizations").to_pylist() == fresh.read("localizations").to_pylist()
    assert grown.read("effects").to_pylist() == fresh.read("effects").to_pylist()


def test_a_sequential_sweep_killed_between_rounds_ends_as_if_it_had_not_been(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_sweep("x", **SEQUENTIAL)
    blobs = FaultyBlobs(MemoryBlobs(), 10**9, after=False)
    undisturbed = Store(blobs)
    run(spec, undisturbed, monkeypatch)
    expected, rounds = payload(undisturbed.read("scores")), len(undisturbed.plans())
    for share in (0.35, 0.7):
        left = MemoryBlobs()
        with pytest.raises(CrashError):
            run(spec, Store(FaultyBlobs(left, int(share * blobs.calls), after=True)), monkeypatch)
        survivor = Store(left)
        _forget_lease(left)
        run(spec, survivor, monkeypatch)
        assert payload(survivor.read("scores")) == expected, f"killed after {share:.0%} of the storage calls"
        assert survivor.read("localizations").to_pylist() == undisturbed.read("localizations").to_pylist()
        assert len(survivor.plans()) == rounds
