"""Small sweeps for tests, a worker that needs no model, and what two results folders must agree on."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from loco_core.attributes import attribute
from orchestrator.resolve.resolved import Resolved, ResolvedModel, ResolvedScorer
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport
from orchestrator.spec import AttributeSpec, SweepSpec, WorkerNeeds
from orchestrator.stages.sweep.planned import SweepUnit
from orchestrator.stages.sweep.rows import PlannedRow, Reported, cell_columns, reported, rows_of
from orchestrator.stages.sweep.variants import prompt_id
from orchestrator.stages.trace.plan import Tracing
from orchestrator.store import SCHEMA_VERSION, Store, layout, make_table, verify
from orchestrator.store.local import LocalBlobs
from orchestrator.worker import WorkerSettings

# Columns that tell when, where and at which attempt a cell was made.
CIRCUMSTANCES = ("attempt", "seconds", "device", "torch_version")
Command = Callable[..., tuple[int, str, str]]
SMALL = """\
name: small
models: [toy]
attributes: [style/lumio]
scorer: toy-clip
"""
KEY = ("model", "attribute", "prompt_id", "seed", "control", "window_start", "window_size", "cell_id")


def tiny_sweep(model: Path | str, **changes: Any) -> SweepSpec:
    """Returns a sweep of two attributes that takes seconds on a random pipeline."""
    content: dict[str, Any] = {
        "name": "tiny",
        "models": [{"id": "tiny", "path": str(model)}],
        "attributes": ["style/velor", "fact/zandia"],
        "windows": {"sizes": [1, 2], "stride": 4},
        "prompts": 2,
        "seeds": 2,
        "generation": {"steps": 2, "guidance_scale": 3.0, "batch_size": 16},
        "controls": {"random": 1},
        "scorer": "toy-clip",
        "localize": {"resamples": 100},
        "images": "none",
    }
    return SweepSpec.model_validate({**content, **changes}, strict=False)


def kill_at_storage_call(call: int, *, first: str = "", say: Callable[[str], None] = lambda _: None) -> None:
    """Makes this process kill itself in the middle of its n-th storage call.

    Args:
        call: which, from 1.
        first: calls count from the first one on whose path starts with this.
        say: called with the path before the end.
    """
    calls = 0
    for name in ("put_if_absent", "replace", "compare_and_swap"):
        original = getattr(LocalBlobs, name)

        def counted(self: LocalBlobs, path: str, *args: Any, original: Any = original) -> Any:
            nonlocal calls
            calls += calls > 0 or path.startswith(first)
            if calls == call:
                say(path)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, path, *args)

        setattr(LocalBlobs, name, counted)


def unit_files(root: Path) -> dict[str, Path]:
    """Returns the files of all committed units by their ids. Those of ``usage``, which lie beside them, are none."""
    files = (root / layout.UNITS).glob("*.arrow")
    return {path.stem: path for path in files if not layout.is_usage(path.stem)}


def payload(table: pa.Table) -> list[dict[str, Any]]:
    """Returns what must be equal bit for bit between two runs of one plan, in a fixed order."""
    rows = table.drop_columns([name for name in CIRCUMSTANCES if name in table.column_names]).to_pylist()
    return sorted(rows, key=lambda row: tuple(str(row[name]) for name in KEY))


def assert_each_once(table: pa.Table) -> None:
    """Fails where a cell with its labels is there twice."""
    rows = [tuple(row[name] for name in KEY) for row in table.to_pylist()]
    assert len(rows) == len(set(rows))


def assert_same(store: Store, undisturbed: Store) -> None:
    """Fails unless results hold every cell of an undisturbed run once, bit for bit, in files that are as written."""
    scores = store.read("scores")
    assert_each_once(scores)
    assert payload(scores) == payload(undisturbed.read("scores"))
    assert verify(store) == []


class Reader:
    """Reads scores with pandas alone whenever files change; fails if that fails, or a row is there twice or gone."""

    def __init__(self, root: Path) -> None:
        self.root, self.rows = root, 0
        self._seen: dict[Path, int] = {}

    def __call__(self, *_: object) -> None:
        there = {path: path.stat().st_size for path in (self.root / "scores").glob("*.parquet")}
        if there == self._seen:
            return
        self._seen = there
        frame = pd.read_parquet(self.root / "scores")
        assert not frame.duplicated(["cell_id", "attribute", "control"]).any()
        assert len(frame) >= self.rows, "rows that were there are gone"
        self.rows = len(frame)


def score_of(row: PlannedRow) -> float:
    """Returns a made-up score: sites 4 and 5 hold the attribute."""
    digest = hashlib.sha256(row.cell_id.encode()).digest()
    noise = (int.from_bytes(digest[:4], "little") / 2**32 - 0.5) * 0.01
    gone = row.control == "donor" or {4, 5} <= set(row.intervention.sites)
    return (0.0 if gone and row.control != "identity" else 0.3) + noise


def fake_resolved(spec: SweepSpec) -> Resolved:
    """Returns names looked up for a model that nobody loads."""
    model = ResolvedModel(
        id="tiny", family="stable_diffusion", path="/nowhere", revision=None, weights="w", dtype="float32",
        site_names=tuple(f"site{i}" for i in range(16)), native_side=64,
        seconds_per_image=0.01, worker=WorkerNeeds(), encoder_layers=2,
    )  # fmt: skip
    return Resolved(
        models=(model,),
        attributes=tuple(
            item.attribute if isinstance(item, AttributeSpec) else attribute(item) for item in spec.attributes
        ),
        scorer=ResolvedScorer(name="toy-clip", source="toy-clip", revision=None, weights="c"),
    )


def made_up_traces(unit: Unit) -> list[dict[str, Any]]:
    """Returns traces by which sites 4 and 5 hold the attribute."""
    planned: Tracing = unit.payload
    layers = [("denoiser", site, 1.0 if site in (4, 5) else 0.1) for site in range(16)]
    if planned.method == "attention_contribution":
        found = [("contribution", *layer) for layer in layers]
    else:
        layers += [("text_encoder", 0, 0.5), ("text_encoder", 1, 0.0)]
        found = [("clean", None, None, 0.3), ("corrupted", None, None, 0.0)]
        found += [("restored", component, layer, 0.3 * value) for component, layer, value in layers]
    return [
        {
            "unit_id": unit.unit_id, "model": unit.model, "attribute": planned.attribute.key,
            "attribute_kind": planned.attribute.kind, "mode": planned.attribute.mode, "method": planned.method,
            "control": control, "component": component, "layer": layer,
            "layer_name": None if layer is None else f"{component}{layer}", "prompt_id": prompt_id(record),
            "seed": seed, "value": value + (0.001 * layer if layer in (4, 5) else 0.0), "status": "ok", "attempt": 1,
            "schema_version": SCHEMA_VERSION,
        }
        for record, seed in planned.items
        for control, component, layer, value in found
    ]  # fmt: skip


class FakeWorker:
    """Commits made-up scores."""

    def __init__(self, settings: WorkerSettings, model: str, open_store: Callable[[], Store]) -> None:
        self._settings, self._info = settings, settings.resolved.model(model)
        self._store = open_store()
        self.units: list[str] = []

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        self.units.append(unit.unit_id)
        if isinstance(unit.payload, Tracing):
            return self._commit(unit, attempt, {"traces": make_table("traces", made_up_traces(unit))})
        planned: SweepUnit = unit.payload
        info, scorer = self._info, self._settings.resolved.scorer
        every = rows_of(planned, info, scorer, info.generation(self._settings.generation))
        rows = [row for row in every if row.emit]
        scores = make_table("scores", [self._score(row) for row in rows])
        told = reported(scores, [row.cell_id for row in rows])
        return self._commit(unit, attempt, {"scores": scores}, told)

    def _commit(
        self, unit: Unit, attempt: Attempt, tables: Mapping[str, pa.Table], told: Reported | None = None
    ) -> UnitReport:
        outcome = self._store.commit_unit(unit.unit_id, tables, f"{unit.unit_id}-{attempt.number}-{id(self)}")
        rows = sum(len(table) for table in tables.values())
        if outcome != "won":
            return UnitReport(unit.unit_id, attempt.number, "already", rows=rows)
        return UnitReport(unit.unit_id, attempt.number, "committed", rows=rows, reported=told)

    def _score(self, row: PlannedRow) -> dict[str, Any]:
        return {
            **cell_columns(row, self._settings.sweep_id, self._info),
            "steps": self._settings.generation.steps,
            "clip_score": score_of(row),
            "clip_score_donor": 0.1,
            "clip_score_content": 0.4,
            "clip_score_unrelated": 0.05 if row.control == "clean" else None,
            "status": "ok",
            "attempt": 1,
            "schema_version": SCHEMA_VERSION,
        }
