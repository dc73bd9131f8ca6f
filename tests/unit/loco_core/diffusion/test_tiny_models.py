"""The tiny pipelines that other tests build: they load as published ones do, and heed their prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_models import BUILDERS, CALL_ARGUMENTS, build


def _draw(pipeline: Any, family: str, prompt: str) -> torch.Tensor:
    made: torch.Tensor = pipeline(
        prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0),
        output_type="pt" if family == "deepfloyd_if" else "latent", **CALL_ARGUMENTS[family],
    ).images  # fmt: skip
    return made


@pytest.mark.parametrize("family", BUILDERS)
def test_a_tiny_pipeline_loads_again_and_heeds_its_prompt(family: str, tmp_path: Path) -> None:
    import diffusers

    folder = build(family, tmp_path / family)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt")]

    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    pipeline = getattr(diffusers, index["_class_name"]).from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    for name, (_, kind) in ((key, value) for key, value in index.items() if isinstance(value, list)):
        assert type(getattr(pipeline, name)).__name__ == (kind or "NoneType")
    red, blue = (_draw(pipeline, family, prompt) for prompt in ("a red circle", "a blue star"))
    assert torch.isfinite(red).all()
    assert torch.equal(red, _draw(pipeline, family, "a red circle"))
    assert (red - blue).norm() > 0.01 * red.norm()


def test_a_tiny_pipeline_is_the_same_every_time_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = build("pixart_alpha", tmp_path / "first")
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second = build("pixart_alpha", tmp_path / "second")
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    for path in first.rglob("*.*"):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()
