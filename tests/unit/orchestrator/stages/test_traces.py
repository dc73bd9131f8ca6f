"""Traces beside a sweep, with a worker that needs no model: units, resume, growth, failure, and whose word counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from loco_core.errors import SpecError
from loco_core.localization.base import Localization
from loco_core.types import Engine
from orchestrator.reporting.findings import read_findings
from orchestrator.resolve.traceable import traceable
from orchestrator.runs.localize import localize_results, read_scores, write_back
from orchestrator.runs.outlook import outlook
from orchestrator.runs.status import survey
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.stages.localize import main_rows
from orchestrator.stages.trace.plan import Tracing, trace_units
from orchestrator.store import Store
from orchestrator.store.testing import CrashError, FaultyBlobs, MemoryBlobs
from tests.support.fake_runs import forget_lease, run
from tests.support.sweeps import FakeWorker, fake_resolved, tiny_sweep

TRACED = ["attention_contribution", "causal_tracing"]
BESIDE: dict[str, Any] = {"resamples": 100, "compare": ["argmin", *TRACED]}
# Of one batch, so that there are units enough to be interrupted between.
SMALL: dict[str, Any] = {"attributes": ["style/velor"], "controls": {"random": 0}, "localize": BESIDE}


def said(store: Store) -> list[tuple[str, str, bool, str, int | None]]:
    names = ("attribute", "localizer", "compared", "outcome", "window_start")
    return sorted(tuple(row[name] for name in names) for row in store.read("localizations").to_pylist())


def traced(store: Store) -> Counter[tuple[Any, ...]]:
    names = ("attribute", "method", "control", "component", "layer", "prompt_id", "seed")
    return Counter(tuple(row[name] for name in names) for row in store.read("traces").to_pylist())


def without(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def test_other_localizers_stand_beside_the_one_that_is_followed() -> None:
    store = Store(MemoryBlobs())
    spec = tiny_sweep("x", localize=BESIDE)
    result, told = run(spec, store)
    for attribute in ("fact/zandia", "style/velor"):
        mine = [row[1:3] for row in said(store) if row[0] == attribute]
        assert mine == [("argmin", True), ("attention_contribution", True), ("causal_tracing", True), ("window", False)]
    assert [item.localizer for item in told] == ["window", "window"]
    assert [item.localizer for item in result.localizations] == ["window", "window"]
    # 16 sites of 2 prompts and 2 seeds; of causal tracing two layers of the encoder, clean and corrupted too.
    assert set(traced(store).values()) == {1}
    assert Counter(key[:2] for key in traced(store)) == {
        (attribute, method): 4 * rows
        for attribute in ("fact/zandia", "style/velor")
        for method, rows in (("attention_contribution", 16), ("causal_tracing", 16 + 2 + 2))
    }
    effects = store.read("effects").to_pylist()
    counts = Counter((row["localizer"], row["component"], row["compared"]) for row in effects)
    assert counts == {
        ("window", "denoiser", False): 16, ("argmin", "denoiser", True): 16,
        ("attention_contribution", "denoiser", True): 32, ("causal_tracing", "denoiser", True): 32,
        ("causal_tracing", "text_encoder", True): 4,
    }  # fmt: skip


def test_readers_take_the_word_of_the_one_that_is_followed() -> None:
    store, alone = Store(MemoryBlobs()), Store(MemoryBlobs())
    run(tiny_sweep("x", **SMALL), store)
    run(tiny_sweep("x", **{**SMALL, "localize": {"resamples": 100}}), alone)
    assert main_rows(store.read("localizations")).equals(alone.read("localizations"))
    assert main_rows(store.read("effects")).equals(alone.read("effects"))
    assert survey(store).blocks == survey(alone).blocks
    found, plain = read_findings(store), read_findings(alone)
    assert found.effects == plain.effects
    assert found.outcomes == plain.outcomes
    assert [item.sentence for item in found.items] == [item.sentence for item in plain.items]
    comparison = found.items[0].comparison
    assert plain.items[0].comparison is None
    assert comparison is not None
    lines = {line.row["localizer"]: line for line in comparison.lines}
    assert list(lines) == ["window", "argmin", *TRACED]
    assert comparison.window is not None
    # The made-up scores and traces are of sites 4 and 5; windows start at every fourth site.
    assert (comparison.window.start, comparison.window.size) == (4, 2)
    assert (lines["causal_tracing"].rank, lines["causal_tracing"].ranked) == (1, 15)
    assert lines["attention_contribution"].rank == 1
    assert (lines["attention_contribution"].row["cells"], lines["causal_tracing"].row["cells"]) == (4, 4 * 20)


def test_a_crash_loses_and_doubles_no_trace() -> None:
    spec = tiny_sweep("x", **SMALL, prompts=1)
    undisturbed = Store(MemoryBlobs())
    run(spec, undisturbed)
    crashed = 0
    for n in range(18, 60, 6):
        blobs = MemoryBlobs()
        try:
            run(spec, Store(FaultyBlobs(blobs, n, after=n % 4 == 0)))
        except CrashError:
            crashed += 1
        forget_lease(blobs)
        survivor = Store(blobs)
        run(spec, survivor)
        assert traced(survivor) == traced(undisturbed)
        assert survivor.read("localizations").to_pylist() == undisturbed.read("localizations").to_pylist()
        assert survivor.read("effects").to_pylist() == undisturbed.read("effects").to_pylist()
    assert crashed > 3


def test_growing_traces_what_is_missing() -> None:
    grown, fresh = Store(MemoryBlobs()), Store(MemoryBlobs())
    run(tiny_sweep("x", **SMALL), grown)
    before = traced(grown)
    larger = tiny_sweep("x", **SMALL, seeds=4, prompts=3)
    with_traces = outlook(larger, fake_resolved(larger), None)
    units = trace_units(larger, fake_resolved(larger), set(), 0)
    bare = tiny_sweep("x", **{**SMALL, "localize": {}}, seeds=4, prompts=3)
    without_traces = outlook(bare, fake_resolved(bare), None)
    assert with_traces.units - without_traces.units == len(units)
    # One picture a prompt and seed; 19 corrupted ones in batches of 16, each with a clean one.
    assert with_traces.images - without_traces.images == 12 * (1 + 19 + 2)
    run(larger, grown)
    run(larger, fresh)
    assert before.items() <= traced(grown).items()
    assert traced(grown) == traced(fresh)
    assert grown.read("localizations").to_pylist() == fresh.read("localizations").to_pylist()
    again, _ = run(larger, grown)
    assert again.summary.committed == 0


class _Cursed(FakeWorker):
    """Fails at every trace of one method."""

    broken = True

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        if self.broken and isinstance(unit.payload, Tracing) and unit.payload.method == "causal_tracing":
            raise ValueError("no attention to be seen")
        return super().run(unit, attempt)


def test_a_trace_that_fails_is_recorded_stops_nothing_else_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, whole = Store(MemoryBlobs()), Store(MemoryBlobs())
    spec = tiny_sweep("x", **SMALL)
    result, _ = run(spec, store, _Cursed)
    (error,) = {str(failure.error) for failure in result.summary.failures}
    assert error.startswith("no attention to be seen (stages/test_traces.py, line ")
    assert {row["error_type"] for row in store.read("failures").to_pylist()} == {"ValueError"}
    outcomes = {row[1]: row[3] for row in said(store)}
    assert outcomes["causal_tracing"] == "incomplete"
    run(spec, whole)
    assert {name: outcome for name, outcome in outcomes.items() if name != "causal_tracing"} == {
        row[1]: row[3] for row in said(whole) if row[1] != "causal_tracing"
    }
    monkeypatch.setattr(_Cursed, "broken", False)
    run(spec, store, _Cursed)
    assert said(store) == said(whole)
    # Half of what is wanted is not enough.
    monkeypatch.setattr(_Cursed, "broken", True)
    run(tiny_sweep("x", **SMALL, seeds=4), store, _Cursed)
    assert {row[1]: row[3] for row in said(store)}["causal_tracing"] == "incomplete"


def test_a_localizer_that_reads_traces_can_be_followed() -> None:
    store = Store(MemoryBlobs())
    run(tiny_sweep("x", **SMALL), store)
    spec = tiny_sweep("x", **{**SMALL, "localize": {"localizer": "causal_tracing", "compare": ["window"]}})
    result, told = run(spec, store)
    assert [(item.localizer, item.window_start) for item in told] == [("causal_tracing", 5)]
    assert [item.localizer for item in result.localizations] == ["causal_tracing"]
    # What is declared no more goes, what is followed and what stands beside change places.
    assert [row[1:3] for row in said(store)] == [("causal_tracing", False), ("window", True)]
    assert survey(store).blocks[0].window_start == 5
    assert "restored from the clean run" in read_findings(store).items[0].sentence


def test_localizing_again_reads_traces_too() -> None:
    store = Store(MemoryBlobs())
    spec = tiny_sweep("x", **SMALL)
    run(spec, store)
    source = read_scores("results", store)
    found, beside = localize_results(source, {})
    before = store.read("localizations"), store.read("effects")
    write_back(source, found, beside)
    assert (store.read("localizations"), store.read("effects")) == before
    names = [item.localizer for item in found + beside]
    assert names == ["window", "argmin", *TRACED]
    found, beside = localize_results(source, {"localizer": "causal_tracing"})
    assert ([item.localizer for item in found], len(beside)) == (["causal_tracing"], 2)


def _outcomes(found: list[Localization]) -> list[str]:
    return [item.outcome for item in found]


def test_localizing_by_traces_that_are_incomplete_says_so() -> None:
    store = Store(MemoryBlobs())
    run(tiny_sweep("x", **SMALL), store)
    more = tiny_sweep("x", **SMALL, seeds=3)
    store.record_sweep(store.sweep_id() or "", more, "attempt")
    _, beside = localize_results(read_scores("results", store), {})
    assert _outcomes(beside[1:]) == ["incomplete", "incomplete"]


def test_localizers_named_twice_or_unknown_are_refused() -> None:
    for twice in ("window", "./mine/window.py"):
        with pytest.raises(ValueError, match="window is named twice"):
            tiny_sweep("x", localize={"compare": ["argmin", twice]})
    from orchestrator.resolve.lookup import check_names

    spec: SweepSpec = tiny_sweep("x", localize={"compare": ["causal_tracking"]})
    with pytest.raises(SpecError, match='did you mean "causal_tracing"') as error:
        check_names(spec)
    assert error.value.loc == ("localize", "compare", 0)


def test_layers_that_are_offloaded_one_by_one_are_not_traced() -> None:
    spec = tiny_sweep("x", localize={"compare": ["argmin", "causal_tracing"]})
    (model,) = fake_resolved(spec).models
    assert traceable(spec, model) == model
    with pytest.raises(SpecError, match="expected offload: model, or another localizer") as error:
        traceable(spec, model.model_copy(update={"engine": Engine(offload="sequential")}))
    assert error.value.loc == ("localize", "compare", 1)


def test_layers_of_published_encoders_are_counted_without_the_hub() -> None:
    from orchestrator.resolve.lookup import outline

    traced = {"name": "x", "models": ["sd15", "sdxl", "toy"], "attributes": ["style/velor"], "scorer": "toy-clip"}
    spec = SweepSpec.model_validate({**traced, "localize": {"compare": ["causal_tracing"]}}, strict=False)
    # A self-attention and an MLP in each of 12, of 12 and 32, and of the bundled encoder's 3 layers.
    assert [model.encoder_layers for model in outline(spec).models] == [24, 88, 6]
