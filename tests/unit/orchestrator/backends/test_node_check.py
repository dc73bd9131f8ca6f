"""What a node is found to have or to lack, each in a line that says what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.backends.node_check import NodeCheck, versions
from orchestrator.store.local import LocalBlobs
from tests.support.hub import Hub, redirect, serving

PROBE = "_meta/probe-1"


@pytest.fixture
def hub(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving({"owner/tiny": tiny_pipeline}, token="hf_owner") as found:
        redirect(monkeypatch, found, tmp_path / "cache")
        yield found


def found(check: NodeCheck) -> dict[str, tuple[str, str]]:
    return {each.check: (each.state, each.details) for each in check("n1")}


def test_a_node_that_has_everything(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    root = tmp_path / "results"
    LocalBlobs(root).replace(PROBE, b"driver")
    seen = found(NodeCheck(str(root), PROBE, ("owner/tiny",), versions()))
    assert {state for state, _ in seen.values()} == {"ok"}, seen
    assert list(seen) == ["packages", "gpu", "cache", "owner/tiny", "results"]
    files = [path.name for path in root.rglob("*") if path.is_file()]
    assert files == ["probe-1"], "it leaves nothing behind"


def test_a_node_that_lacks_everything(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    other = {**versions(), "torch": "1.0", "fastest": "2"}
    seen = found(NodeCheck(str(tmp_path / "elsewhere"), PROBE, ("owner/tiny",), other, gpus=64))
    assert {name for name, (state, _) in seen.items() if state == "problem"} == set(seen) - {"cache"}
    assert "(the driver has 1.0), fastest missing (the driver has 2)" in seen["packages"][1]
    assert "Ray counts 64 GPUs, nvidia-smi shows" in seen["gpu"][1]
    assert "the hub refuses the token" in seen["owner/tiny"][1]
    assert "expected one that all mount" in seen["results"][1]
    assert not (tmp_path / "elsewhere").exists(), "a folder in the place of a mount would hide that it is missing"
    assert not any("hf_nobody" in details for _, details in seen.values())
