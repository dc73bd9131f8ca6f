"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.models import LoadedModel, load_model


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of the real classes with the bundled text encoder and random denoiser and VAE."""
    from loco_core.scorers import BUNDLED, CLIP
    from loco_core.toyworld.training.denoiser import make_unet, save_pipeline
    from loco_core.toyworld.training.vae import make_vae

    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_pipeline(make_unet(), make_vae(), BUNDLED[CLIP], folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_pipeline: Path) -> LoadedModel:
    return load_model("stable_diffusion", str(tiny_pipeline), None, "float32", "cpu")
