"""A whole sweep on clusters of several nodes: results in a bucket, and nodes that an autoscaler starts and stops."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests

from orchestrator.spec import SweepSpec
from orchestrator.store import open_store, verify
from tests.support.clusters import (
    COMMAND_SECONDS,
    Head,
    S3Server,
    call,
    file_system,
    nodes_alive,
    ray_head,
    ray_node,
    start,
)
from tests.support.runs import edit_tables, localizer_of, run
from tests.support.sweeps import tiny_sweep

CLUSTER = """\
name: {name}
sweep: sweep.yaml
results: {results}
workers: {{gpus: {gpus}, cpus: 1, max: {most}}}
cluster: {{address: "{address}"}}
"""
GPU_NODES = {"gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}}
IDLE_SECONDS = 180
# A minute from the request, and what `submit` and the job take to begin: 70 s in all where two tests run at once, and
# more on a machine that does anything else.
REFUSAL_SECONDS = 270


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server.client


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("growing"), node_types=GPU_NODES) as head:
        yield head


def _files(folder: Path, head: Head, spec: SweepSpec, **changes: object) -> Path:
    """Writes the files of a sweep; returns its results folder."""
    given: dict[str, object] = {"name": "s", "results": folder / "results", "gpus": 1, "most": 3, **changes}
    (folder / "sweep.yaml").write_text(spec.model_dump_json(exclude_unset=True))
    (folder / "cluster.yaml").write_text(CLUSTER.format(address=head.address, **given))
    return folder / "results"


def test_two_nodes_and_a_bucket_give_the_tables_of_a_run_in_this_process(
    tiny_pipeline: Path, bucket: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "eight.py").write_text(localizer_of(start=8, size=2))
    spec = tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=2, seeds=2, images="report", controls={"random": 0},
        windows={"sizes": [2], "stride": 6},
        localize={"localizer": str(tmp_path / "eight.py"), "resamples": 100},
        edit={"lambdas": [0.01, 0.1], "neurons": [0.1], "tokens": ["all"]},
        evaluate={"prompts": 1, "seeds": 1, "neighbours": 1, "judge": "toy-judge", "windows": False},
    )  # fmt: skip
    root = "s3://bucket/run"
    with ray_head(tmp_path, cpus=0, variables=bucket) as head, ray_node(head, "first"), ray_node(head, "second"):
        _files(tmp_path, head, spec, results=root, gpus=0, most=2)
        code, out, err = call(head, tmp_path, "submit", "cluster.yaml", "--wait")
        assert (code, err) == (0, ""), out + err
    assert run(spec, tmp_path / "here").summary.outcome == "done"
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    store = open_store(root)
    assert verify(store) == []
    assert {plan: table.to_pylist() for plan, table in store.plans().items()} == {
        plan: table.to_pylist() for plan, table in open_store(str(tmp_path / "here")).plans().items()
    }
    _download(bucket, tmp_path / "there")
    there = edit_tables(tmp_path / "there")
    for name, frame in edit_tables(tmp_path / "here").items():
        pd.testing.assert_frame_equal(there[name], frame)
    assert (tmp_path / "there" / "report.html").stat().st_size > 100_000


def _download(bucket: dict[str, str], to: Path) -> None:
    file_system(bucket).get("bucket/run", str(to), recursive=True)


def test_nodes_come_for_the_work_and_go_when_it_is_done(growing: Head, tiny_pipeline: Path, tmp_path: Path) -> None:
    results = _files(tmp_path, growing, tiny_sweep(tiny_pipeline, attributes=["style/velor"], seeds=12))
    assert len(nodes_alive(growing)) == 0
    process, most, began = start(growing, tmp_path, "submit", "cluster.yaml", "--wait"), 0, time.monotonic()
    metrics: set[str] = set()
    while process.poll() is None:
        assert time.monotonic() - began < COMMAND_SECONDS
        most = max(most, len(nodes_alive(growing)))
        metrics |= set(re.findall(r'^(ray_loco_sweep_\w+)\{.*results="[^"]+/results"', _scraped(growing), re.MULTILINE))
        time.sleep(0.5)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, ""), out + err
    assert most == 2
    over = time.monotonic()
    while len(nodes_alive(growing)):
        assert time.monotonic() - over < IDLE_SECONDS, "nodes are held after the sweep"
        time.sleep(0.5)
    assert len(pd.read_parquet(results / "localizations")) == 1
    board = files("cluster").joinpath("grafana.json").read_text()
    assert set(re.findall(r"ray_loco_sweep_\w+", board)) == metrics
    lines = [line for path in Path(growing.folder).glob("session_2*/logs/worker-*.err") for line in _json_lines(path)]
    units = {line["unit_id"] for line in lines if line["message"] == "unit is committed"}
    assert units == open_store(str(results)).committed()
    assert {line["sweep_id"] for line in lines if line.get("unit_id") in units} == {open_store(str(results)).sweep_id()}


def _scraped(head: Head) -> str:
    try:
        return requests.get(head.metrics, timeout=30).text
    except requests.ConnectionError:
        # The exporter comes up a while after the head.
        return ""


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def test_what_no_node_type_holds_is_refused_within_a_minute(growing: Head, tiny_pipeline: Path, tmp_path: Path) -> None:
    results = _files(tmp_path, growing, tiny_sweep(tiny_pipeline, attributes=["style/velor"]), gpus=2)
    began = time.monotonic()
    code, out, err = call(growing, tmp_path, "submit", "cluster.yaml", "--wait")
    assert code == 1
    assert "no node type of the cluster has 1 CPUs and 2 GPUs for a worker" in out + err
    assert time.monotonic() - began < REFUSAL_SECONDS
    assert not (results / "_meta" / "units").exists()
