"""TensorBoard, Weights & Biases (offline) and MLflow: what a run leaves in each, read with their own libraries."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from loco_core.localization.base import Localization
from orchestrator.hooks.adapters import mlflow, tensorboard, wandb
from orchestrator.hooks.events import Failure, RunEnd, RunStart
from orchestrator.hooks.runner import Event, Hooks, Maker
from orchestrator.scheduler.progress import Progress
from orchestrator.stages.edit.summary import EditSummary, Share

START = RunStart("first", "0123456789abcdef", "1" * 64, "results", "run", ("toy",), ("style/lumio",), 8, 4)
FOUND = Localization(
    "toy", "style/lumio", "style", "remove", "localized", "it holds there", "window", 4, 2, effect=0.75
)  # fmt: skip
SHARE = Share(9, 10, 0.6, 0.99)
EDIT = EditSummary(
    "e", "toy", "style/lumio", "loco_edit", None, "localized", True, (4, 5), "window: sites 4-5",
    SHARE, SHARE, SHARE, SHARE, SHARE, SHARE,
)  # fmt: skip
FAILED = Failure("u", "sweep", "toy", "style/lumio", "ValueError", "odd", 3)
EARLIER = (Progress(done=3, left=7, rows=30, rate=1.5), FOUND)
LATER = (Progress(before=3, done=6, failed=1, left=0, rows=60), EDIT, FAILED)


def called(maker: Maker, events: Sequence[Event]) -> None:
    """Calls a hook as a run does."""
    hooks = Hooks([maker])
    hooks.start(START)
    (hook,) = hooks._hooks
    last = Progress()
    for event in events:
        if isinstance(event, Progress):
            # Past the limit of one every few seconds.
            hooks._next, last = 0.0, event
            while hook.calls.qsize():
                pass
            hooks.progress(event)
        elif isinstance(event, Localization):
            hooks.localized(event)
        elif isinstance(event, EditSummary):
            hooks.edited([event])
        else:
            hooks._call("on_failed", event)
    hooks.end(lambda seconds, progress: RunEnd("done", None, seconds, last))
    hooks.close(120)
    assert hook.failed == 0


def records(data: bytes) -> Iterator[bytes]:
    """Yields the records of a file of wandb: a log as LevelDB writes it, in blocks of 32 KiB, after 7 bytes."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_tensorboard_shows_curves_and_findings(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for events in (EARLIER, LATER):
        called(Maker("tensorboard", lambda: tensorboard.Hook(str(tmp_path))), events)
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    done = {point.step: point.value for point in found.Scalars("sweep/units_done")}
    assert done == {3: 3.0, 10: 9.0}
    assert [point.value for point in found.Scalars("effect/toy/style/lumio")] == [0.75]
    assert found.Scalars("flipped/toy/style/lumio/loco_edit")[0].value == pytest.approx(0.9)
    assert "toy/style/lumio/text_summary" in found.Tags()["tensors"]


def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("CANARY_TOKEN", "canary-5dbe1f7a")
    called(Maker("wandb", lambda: wandb.Hook("first", mode="offline", folder=str(tmp_path))), EARLIER + LATER)
    (file,) = tmp_path.rglob("*.wandb")
    assert file.name == f"run-{START.key}.wandb"
    # A process of wandb's own writes it, and is at it still when the run is finished.
    deadline = time.monotonic() + 60
    while not list(records(file.read_bytes())):
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.1)
    history, summary, config, code = [], dict[str, object](), dict[str, object](), None
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = record.history.item
            history.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
        elif kind == "summary":
            items = record.summary.update
            summary |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        elif kind == "run":
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "exit":
            code = record.exit.exit_code
    assert [row["units_done"] for row in history] in ([3, 9], [3, 9, 9])
    assert history[0]["units_left"] == 7
    assert summary["toy/style/lumio/outcome"] == "localized"
    assert summary["toy/style/lumio/sites"] == "4-5"
    assert summary["toy/style/lumio/loco_edit/flipped"] == 0.9
    assert config["results"] == "results"
    assert code == 0
    # Neither the environment nor the command line.
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"canary-5dbe1f7a" in path.read_bytes()]


def test_mlflow_goes_on_with_the_run_of_these_results(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    address = f"sqlite:///{tmp_path}/mlflow.db"
    for events in (EARLIER, LATER):
        called(Maker("mlflow", lambda: mlflow.Hook("first", address)), events)
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("first")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    done = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "units_done")}
    assert done == {3: 3.0, 10: 9.0}
    values = run.data.metrics
    assert values["units_failed"] == 1
    assert [value for name, value in values.items() if name.startswith("effect")] == [0.75]
    assert [value for name, value in values.items() if name.startswith("flipped")] == [0.9]
    assert run.data.tags["failure"] == "toy: ValueError: odd"
    assert run.data.tags["outcome"] == "done"
