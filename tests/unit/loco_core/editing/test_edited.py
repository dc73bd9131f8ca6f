"""Edits while a model runs: the door to draw with one, and which half of guidance they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loco_core.attributes import attribute
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.editing.deltas import WeightDelta, applied, read_delta, to_bytes
from loco_core.errors import EditError
from loco_core.types import Generation, Intervention, Row

RECORDS = attribute("style/lumio").records[:6]
SITES = (8, 9)
PROMPT, DONOR = RECORDS[0].prompt, RECORDS[0].donor
GUIDED = Generation(2, 3.0)


@pytest.fixture(scope="module")
def delta(tiny_model: LoadedModel) -> WeightDelta:
    settings = EditSettings(editor="neurons", tokens="last_subject", neurons=0.5)
    return fit_edit(tiny_model, Target("tiny", "w" * 64, SITES, (Concept("style/lumio", RECORDS),)), settings)


def drawn(model: LoadedModel, rows: list[Row], settings: Generation = GUIDED, size: int = 2) -> torch.Tensor:
    return torch.cat([part.latents for part in generate(model, rows, settings, size)])


def test_a_model_is_edited_within_a_block_and_from_a_file(
    tiny_model: LoadedModel, delta: WeightDelta, tmp_path: Path
) -> None:
    (tmp_path / "delta").write_bytes(to_bytes(delta))
    row = [Row(PROMPT, PROMPT, 0)]
    clean = drawn(tiny_model, row)
    with applied(tiny_model, delta, None):
        edited = drawn(tiny_model, row)
    with applied(tiny_model, read_delta(tmp_path / "delta"), "w" * 64):
        assert torch.equal(drawn(tiny_model, row), edited)
    assert not torch.allclose(edited, clean, atol=1e-3)
    assert torch.equal(drawn(tiny_model, row), clean)
    with pytest.raises(EditError, match="fit it again"), applied(tiny_model, delta, "v" * 64):
        pass
    with pytest.raises(EditError, match="nothing cannot be read: No such file"):
        read_delta(tmp_path / "nothing")


def test_a_row_of_the_unconditional_half_is_never_held_whatever_it_reads(
    tiny_model: LoadedModel, delta: WeightDelta
) -> None:
    """A donor's K and V are looked up by either half, and held in one."""
    change = delta.changes[0]
    module = tiny_model.family.denoiser(tiny_model.pipeline).get_submodule(change.module)
    seen: list[torch.Tensor] = []

    def watched(row: Row) -> torch.Tensor:
        seen.clear()
        handle = module.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
        try:
            drawn(tiny_model, [row], Generation(1, 3.0), 1)
        finally:
            handle.remove()
        return seen[-1]

    row = Row(PROMPT, DONOR, 0, Intervention(SITES, guidance_half="both"))
    clean = watched(row)
    with applied(tiny_model, delta, None):
        unconditional, conditional = watched(row)
    assert torch.equal(unconditional, clean[0])
    others = [at for at in range(module.out_features) if at not in set(change.rows.tolist())]
    assert torch.equal(conditional[:, others], clean[1][:, others])
    assert change.conditional is not None
    assert torch.equal(conditional[:, change.rows], change.conditional.expand(len(conditional), -1))


def test_without_guidance_all_rows_are_conditional(tiny_model: LoadedModel, delta: WeightDelta) -> None:
    rows = [Row(PROMPT, PROMPT, seed) for seed in range(2)]
    clean = drawn(tiny_model, rows, Generation(2, 1.0))
    with applied(tiny_model, delta, None):
        edited = drawn(tiny_model, rows, Generation(2, 1.0))
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(clean, edited, strict=True))


def test_a_call_that_tells_no_halves_is_one_clear_line(tiny_model: LoadedModel, delta: WeightDelta) -> None:
    with pytest.raises(EditError, match="nothing tells the halves here; draw with"), applied(tiny_model, delta, None):
        tiny_model.pipeline(PROMPT, num_inference_steps=1)
