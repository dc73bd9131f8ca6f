"""``prefetch``: what it says it would fetch, what it fetches, and where to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from loco_core.toyworld import WEIGHTS
from orchestrator.cli import prefetch
from tests.support.hub import COMMIT, Hub, redirect, serving
from tests.support.sweeps import Command, tiny_sweep


@pytest.fixture
def hub(tiny_pipeline: Path) -> Iterator[Hub]:
    with serving({"owner/tiny": tiny_pipeline, "owner/clip": WEIGHTS / "clip"}) as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    spec = tiny_sweep("owner/tiny", scorer="owner/clip")
    (tmp_path / "sweep.yaml").write_text(spec.model_dump_json(exclude_unset=True))
    return tmp_path / "sweep.yaml"


def test_what_would_be_fetched_is_said_and_then_fetched(
    hub: Hub, file: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    redirect(monkeypatch, hub, tmp_path / "cache")
    code, out, err = command("prefetch", file, "--dry-run", "--json")
    assert (code, err) == (0, "")
    tiny, clip = json.loads(out)
    assert (tiny["repository"], tiny["revision"], clip["repository"]) == ("owner/tiny", COMMIT, "owner/clip")
    assert 0 < tiny["missing_bytes"] < tiny["bytes"]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    code, out, err = command("prefetch", file)
    assert (code, err) == (0, "")
    assert "owner/tiny is in " in out
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4
    asked = len(hub.requests)
    code, out, err = command("prefetch", file, "--json")
    assert (code, [row["missing_bytes"] for row in json.loads(out)]) == (0, [0, 0])
    assert len(hub.requests) - asked <= 6, "nothing but what names stand for"


def test_a_cluster_file_says_where_from_and_where_to(hub: Hub, file: Path, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(
        f"name: c\nsweep: sweep.yaml\nresults: s3://b/c\ncluster: {{rayjob: {{image: me}}}}\n"
        f'cache: {{path: {tmp_path / "there"}, mirror: "{hub.address}"}}\n'
    )
    words = [sys.executable, "-m", "orchestrator.cli.main", "prefetch", str(cluster)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(tmp_path / "there" / "hub") in done.stdout
    assert list((tmp_path / "there").rglob("*.safetensors"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_fetched(
    hub: Hub, file: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    redirect(monkeypatch, hub, tmp_path / "cache")
    monkeypatch.setattr(prefetch, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=5)))
    code, _, err = command("prefetch", file)
    assert (code, "0.0 MB free, and " in err, err.count("\n")) == (1, True, 1)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_bundled_model_needs_no_hub(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = tiny_sweep("x", models=["toy"])
    Path("sweep.yaml").write_text(spec.model_dump_json(exclude_unset=True))
    code, out, err = command("prefetch", "sweep.yaml")
    assert (code, out, err) == (0, "no model of this sweep comes from the hub\n", "")
