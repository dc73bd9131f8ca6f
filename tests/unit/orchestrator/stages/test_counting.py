"""A sweep without results is counted as its plan would be, and in seconds whatever its axes are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from loco_core.localization.base import Request
from loco_core.types import Window
from orchestrator.runs.outlook import outlook
from orchestrator.stages.sweep.plan import count, counted, plan
from orchestrator.stages.sweep.variants import beginnings
from orchestrator.stages.trace.plan import count_traces, trace_units
from tests.support.sweeps import Command, fake_resolved, tiny_sweep

CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one of each": {"prompts": 1, "seeds": 1},
    "all controls": {"controls": {"complement": True, "random": 5}, "seeds": [7, 3, 9]},
    "no controls": {"controls": {"identity": False, "all_sites": False, "random": 0}},
    "several interventions": {"interventions": [{}, {"part": "k", "steps": [0, 1]}, {"tokens": "words"}]},
    "small batches": {"generation": {"steps": 50, "guidance_scale": 3.0, "batch_size": 3}, "controls": {"random": 9}},
    "sequential": {"localize": {"localizer": "sequential", "screen": 5}, "seeds": 6},
    "traced": {
        "localize": {"localizer": "causal_tracing", "compare": ["attention_contribution", "window"]},
        "seeds": 5,
    },
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_count_is_that_of_the_plan(changes: dict[str, Any]) -> None:
    spec = tiny_sweep("unused", **changes)
    resolved = fake_resolved(spec)
    for requests in (None, beginnings(spec, resolved)):
        found, planned = count(spec, resolved, requests=requests), counted(plan(spec, resolved, requests=requests))
        assert found.seconds == pytest.approx(planned.seconds)
        assert (found.units, found.images, found.cells) == (planned.units, planned.images, planned.cells)
    traces, traced = trace_units(spec, resolved, (), 0), count_traces(spec, resolved, ())
    assert (traced.units, traced.images) == (len(traces), sum(unit.payload.images for unit in traces))
    assert traced.seconds == pytest.approx(sum(unit.expected_seconds for unit in traces))


def test_requests_for_the_first_prompts_and_seeds_are_counted_where_they_hold() -> None:
    spec = tiny_sweep("unused", prompts=3, seeds=5)
    resolved = fake_resolved(spec)
    asked = (
        Request("window", Window(0, 2), prompts=2, seeds=3), Request("window", Window(4, 1), seeds=4),
        Request("complement", Window(0, 2), prompts=1), Request("clean", None, prompts=0),
    )  # fmt: skip
    requests = {("tiny", "style/velor"): asked, ("tiny", "fact/zandia"): asked[:1]}
    planned = counted(plan(spec, resolved, requests=requests))
    assert planned.units
    found = count(spec, resolved, requests=requests)
    assert (found.units, found.images, found.cells) == (planned.units, planned.images, planned.cells)


@pytest.mark.parametrize("localizer", ["window", "sequential", "causal_tracing"])
def test_a_million_seeds_are_counted_in_seconds(localizer: str) -> None:
    begun = time.process_time()
    spec = tiny_sweep("unused", seeds=1_000_000, localize={"localizer": localizer, "resamples": 100})
    found = outlook(spec, fake_resolved(spec), None)
    assert max(found.images, found.most_cells or 0) > 10**6
    assert time.process_time() - begun < 20


def test_a_plan_of_190000_listed_seeds_takes_seconds(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "sweep.yaml"
    seeds = ", ".join(map(str, range(190_000)))
    file.write_text(
        "{name: t, models: [toy], attributes: [style/lumio], windows: {sizes: [1], stride: 8}, prompts: 1, "
        f"scorer: toy-clip, controls: {{random: 0}}, seeds: [{seeds}]}}\n"
    )
    begun = time.process_time()
    code, printed, error = command("plan", file)
    assert (code, error) == (0, "")
    # Clean, donor, identity and all sites, and two windows of one site.
    assert "cells:   1,140,000" in printed
    assert time.process_time() - begun < 60
