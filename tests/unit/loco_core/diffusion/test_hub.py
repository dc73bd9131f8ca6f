"""Models of the hub where it cannot be reached: what the cache holds is used at once, and all else is said at once."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from loco_core.diffusion import hub
from loco_core.diffusion.model import load_model
from loco_core.errors import ModelError
from loco_core.scoring.base import load_scorer
from loco_core.toyworld import WEIGHTS
from orchestrator.resolve.lookup import resolve
from tests.support.folders import to_variant
from tests.support.sweeps import Command, tiny_sweep
from tests.support.tiny_models import save, stable_diffusion
from tests.support.waits import waited

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOON = 10.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with a pipeline and a scorer in it, as its client writes them."""
    folder = tmp_path / "hub"
    save(stable_diffusion, tmp_path / "tiny")
    for name, source in (("tiny", tmp_path / "tiny"), ("clip", WEIGHTS / "clip")):
        place = folder / f"models--owner--{name}"
        shutil.copytree(source, place / "snapshots" / COMMIT)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Names that are looked up, none of which is found."""
    asked: list[Any] = []

    def getaddrinfo(host: Any, *_: Any, **__: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(hub, "_asked", {})
    return asked


def sweep(**changes: Any) -> Any:
    models = [{"id": "mine", "path": "owner/tiny"}]
    return tiny_sweep("unused", **{"models": models, "attributes": ["style/velor"], "scorer": "owner/clip", **changes})


def test_a_whole_cache_serves_without_the_hub(cache: Path, no_network: list[Any]) -> None:
    began = waited()
    resolved = resolve(sweep())
    (model,) = resolved.models
    assert (model.revision, model.weights) == (COMMIT, f"hub:{COMMIT}")
    assert resolved.scorer.revision == COMMIT
    # Its client asks for a name twice; nothing is asked for again.
    asked = len(no_network)
    assert asked <= 2
    load_model(model.family, model.path, model.revision, "float32", "cpu")
    load_scorer(resolved.scorer.source, resolved.scorer.revision, "cpu")
    assert len(no_network) == asked
    assert waited() - began < SOON


@pytest.mark.parametrize("gone", ["vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"])
def test_half_a_cache_is_said_at_once(gone: str, cache: Path, no_network: list[Any]) -> None:
    (cache / "models--owner--tiny" / "snapshots" / COMMIT / gone).unlink()
    began = waited()
    with pytest.raises(ModelError, match=r"the hub cannot be reached .* does not hold all of owner/tiny") as error:
        load_model("stable_diffusion", "owner/tiny", COMMIT, "float32", "cpu")
    assert "\n" not in str(error.value)
    (cache / "models--owner--clip" / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the hub cannot be reached .* does not hold all of owner/clip"):
        load_scorer("owner/clip", COMMIT, "cpu")
    assert waited() - began < SOON


@pytest.mark.parametrize("gone", ["tokenizer/tokenizer.json", "tokenizer.json", "processor_config.json"])
def test_half_a_cache_is_no_reason_not_to_plan(gone: str, cache: Path, no_network: list[Any]) -> None:
    name = "tiny" if "/" in gone else "clip"
    place = cache / f"models--owner--{name}" / "snapshots" / COMMIT
    for half in {gone, gone.replace("tokenizer.json", "vocab.json")}:
        (place / half).unlink(missing_ok=True)
    assert resolve(sweep()).scorer.revision == COMMIT
    if name == "clip":
        with pytest.raises(ModelError, match=r"the hub cannot be reached .* does not hold all of owner/clip"):
            load_scorer("owner/clip", COMMIT, "cpu")


def test_a_variant_in_the_cache_stands_for_plain_weights_only_where_nobody_can_ask(
    cache: Path, no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = cache / "models--owner--tiny" / "snapshots" / COMMIT
    to_variant("fp16", "unet", "vae", "text_encoder")(place)
    assert hub.local_pipeline("owner/tiny", COMMIT) == place
    monkeypatch.setattr(hub, "_unreachable", lambda: "")
    monkeypatch.setattr(hub, "_fetched", lambda *_: Path("fetched"))
    assert hub.local_pipeline("owner/tiny", COMMIT) == Path("fetched")


@pytest.mark.parametrize("path", ["models/sd15", "./models/sd15", "/models/sd15", "a/b/c", "sd15"])
def test_a_folder_that_is_missing_is_said_at_once(
    path: str, command: Command, tmp_path: Path, no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sweep.yaml"
    spec = sweep(models=[{"id": "mine", "path": path}], scorer="toy-clip")
    file.write_text(spec.model_dump_json(exclude_unset=True))
    began = waited()
    code, _, err = command("plan", file, "--results", tmp_path / "none")
    assert (code, err.count("\n")) == (1, 1)
    assert "no folder" in err
    assert path.removeprefix(".") in err
    assert waited() - began < SOON


def test_a_hub_that_never_answers_is_left_alone_soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(hub, "PATIENCE", 0.5)
        monkeypatch.setattr(hub, "_asked", {})
        began = waited()
        for name in ("model_index.json", "config.json"):
            with pytest.raises(ModelError, match="cannot be reached"):
                hub.hub_file("owner/name", None, name)
        assert waited() - began < SOON
