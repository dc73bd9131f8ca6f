"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import shutil
import sys
from pathlib import Path

import hypothesis
import pytest

from loco_core.diffusion.model import LoadedModel, load_model
from tests.support.sweeps import Command

# A machine that is busy with something else is no bug.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _frozen_heap() -> None:
    """Keeps what was imported out of collections: a worker collects before it loads a model, 0.2 s each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of the real classes with the bundled text encoder and random denoiser and VAE."""
    from loco_core.toyworld import WEIGHTS
    from loco_core.toyworld.training.denoiser import make_unet, save_pipeline
    from loco_core.toyworld.training.vae import make_vae

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_pipeline(make_unet(), make_vae(), WEIGHTS / "clip", folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_pipeline: Path) -> LoadedModel:
    return load_model("stable_diffusion", str(tiny_pipeline), None, "float32", "cpu")


@pytest.fixture(scope="session")
def toy_transformers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `toy-dit` and `toy-dit-planted`, written by their own training, of three steps."""
    from loco_core.toyworld import WEIGHTS
    from loco_core.toyworld.planting import MODELS
    from loco_core.toyworld.training.data import make_pool
    from loco_core.toyworld.training.transformer import train_transformer
    from loco_core.toyworld.world import Captions

    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(WEIGHTS / "vae", folder / "vae")
    pool, captions = make_pool(64, 1), Captions()
    for name in ("toy-dit", "toy-dit-planted"):
        train_transformer(
            folder, pool, captions, folder / name, folder, steps=3, batch=8, plants=MODELS.get(name)
        )  # fmt: skip
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Returns a function that runs a command in this process and returns its exit code and output."""

    from orchestrator.cli.main import main

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loco-sweep", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else int(code is not None)), printed.out, printed.err

    return call


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no name be looked up on the hub; for tests of mutants, which name many."""
    from loco_core.diffusion import weights
    from orchestrator.resolve import lookup, super_resolution
    from tests.support import mutations

    # Set to themselves first, so that they are put back at the end.
    monkeypatch.setattr(weights, "hub_file", weights.hub_file)
    for module in (weights, lookup, super_resolution):
        monkeypatch.setattr(module, "weights_hash", weights.weights_hash)
    mutations.offline()
