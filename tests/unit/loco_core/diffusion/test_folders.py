"""Which files a pipeline with variants of weights is loaded from."""

from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.diffusion.folders import pipeline_files
from loco_core.errors import ModelError
from tests.support.folders import to_variant
from tests.support.tiny_models import save, stable_diffusion

PARTS = ("unet", "vae", "text_encoder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(stable_diffusion, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize("only", [(), ("vae",), ("unet", "text_encoder"), PARTS])
def test_a_variant_is_taken_wherever_there_is_one_once_it_is_needed(folder: Path, only: tuple[str, ...]) -> None:
    to_variant("fp16", *(part for part in PARTS if part not in only), keep=True)(folder)
    to_variant("fp16", *only)(folder)
    read = [file for file in pipeline_files(folder) if file.suffix == ".safetensors"]
    assert len(read) == len(PARTS)
    assert {".fp16." in file.name for file in read} == {bool(only)}


def test_a_component_without_the_variant_is_read_plain(folder: Path) -> None:
    to_variant("fp16", "vae")(folder)
    read = {file.parent.name: file.name for file in pipeline_files(folder) if file.suffix == ".safetensors"}
    assert {part for part in read if ".fp16." in read[part]} == {"vae"}


def test_a_name_that_diffusers_cannot_read_is_said(folder: Path) -> None:
    (folder / "unet" / "LICENSE").write_text("mine")
    pipeline_files(folder)
    to_variant("fp16", *PARTS)(folder)
    with pytest.raises(ModelError, match=r"unet/LICENSE: diffusers reads no variant .*LICENSE\.txt"):
        pipeline_files(folder)
