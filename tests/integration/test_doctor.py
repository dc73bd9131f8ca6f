"""``doctor cluster.yaml``: one look per node of a real Ray cluster, and what can be seen where none is up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.clusters import call, ray_head, ray_node
from tests.support.hub import serving
from tests.support.sweeps import Command, tiny_sweep

TOKEN = "hf_0123456789abcdefghij"
CLUSTER = """\
name: small
sweep: sweep.yaml
results: {results}
cluster: {cluster}
cache: {{path: {cache}, mirror: "{mirror}"}}
"""


def write(folder: Path, cluster: str, mirror: str) -> None:
    sweep = tiny_sweep("owner/tiny", attributes=["style/velor"])
    (folder / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    text = CLUSTER.format(results=folder / "results", cluster=cluster, cache=folder / "cache", mirror=mirror)
    (folder / "cluster.yaml").write_text(text)


def test_every_node_of_a_running_cluster_is_looked_at(tiny_pipeline: Path, tmp_path: Path) -> None:
    with (
        serving({"owner/tiny": tiny_pipeline}, token=TOKEN) as hub,
        ray_head(tmp_path, variables={"HF_TOKEN": TOKEN}) as head,
        ray_node(head, "second"),
    ):
        write(tmp_path, f'{{address: "{head.address}"}}', hub.address)
        code, out, err = call(head, tmp_path, "doctor", "cluster.yaml", "--json")
        assert (code, err) == (0, ""), out + err
        found = json.loads(out)
        nodes = {row["node"] for row in found} - {"here"}
        assert len(nodes) == 2
        for node in nodes:
            checks = {row["check"]: row["state"] for row in found if row["node"] == node}
            assert checks == dict.fromkeys(["packages", "gpu", "cache", "owner/tiny", "results"], "ok")
        assert TOKEN not in out
        assert not list((tmp_path / "results").rglob("probe*"))
        hub.token = "another"
        code, out, err = call(head, tmp_path, "doctor", "cluster.yaml")
        assert (code, err) == (1, ""), out + err
        assert out.count("the hub refuses the token, or has no owner/tiny for it (401)") == 2
        code, out, err = call(head, tmp_path, "logs", "cluster.yaml")
        assert (code, "has no job of small" in err) == (1, True), "it is no job of the sweep"


def test_where_none_is_up_only_this_machine_can_be_looked_at(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tiny_sweep("unused", models=["toy"], attributes=["style/lumio"])
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    (tmp_path / "cluster.yaml").write_text(
        "name: a\nsweep: sweep.yaml\nresults: s3://b/a\ncluster: {rayjob: {image: me}}\n"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = command("doctor", tmp_path / "cluster.yaml", "--json")
    assert (code, err) == (1, "")
    found = {row["check"]: (row["state"], row["details"]) for row in json.loads(out)}
    assert found["command"] == ("problem", "kubectl is not found; `loco-sweep submit` needs it")
    assert found["all"][0] == "unknown"
