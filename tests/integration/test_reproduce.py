"""A preset from its listing to its report, with a small pipeline in place of the published model."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from diffusers import PixArtAlphaPipeline

from tests.support.sweeps import Command
from tests.support.tiny_models import LATENT_SIDE, pixart_parts, save, vae

# What makes it take seconds; everything else is the preset's own.
SMALLER = {
    r"\{id: sd14, dtype: float16\}": "{{id: mine, path: {model}}}",
    # Words that a small text encoder knows.
    r"attributes:\n(  - .*\n)*": "attributes: [style/velor, fact/zandia]\n",
    r"sizes: .*\}": "sizes: [2], stride: 2}}",
    r"prompts: 8\nseeds: 8": "prompts: 2\nseeds: 1",
    r"steps: 50": "steps: 2",
    r"height: 512, width: 512, batch_size: 8": "batch_size: 24",
    r"openai/clip-vit-base-patch16": "toy-clip",
}


TRANSFORMER = {
    r"\{id: pixart, dtype: float16\}": "{{id: mine, path: {model}}}",
    r"attributes:\n(  - .*\n)*": "attributes: [style/velor]\n",
    r"sizes: .*\}": "sizes: [6], stride: 11}}",
    r"prompts: 8\nseeds: 8": "prompts: 2\nseeds: 1",
    r"steps: 20": "steps: 2, height: 32, width: 32",
    r"openai/clip-vit-base-patch32": "toy-clip",
}


def pixart_of_28_blocks() -> PixArtAlphaPipeline:
    return PixArtAlphaPipeline(vae=vae(4), **pixart_parts(LATENT_SIDE, 28))


def test_a_ranking_is_repeated_beside_windows_that_are_swapped(command: Command, tmp_path: Path) -> None:
    sweep, results, model = tmp_path / "sweep.yaml", tmp_path / "results", tmp_path / "model"
    save(pixart_of_28_blocks, model)
    assert command("reproduce", "dit-pixart", "--write", sweep)[0] == 0
    text = sweep.read_text()
    for pattern, small in TRANSFORMER.items():
        text, count = re.subn(pattern, small.format(model=model), text)
        assert count, pattern
    sweep.write_text(text)
    code, _, err = command("run", sweep, "--results", results, "--backend", "inline", "--threads", 1)
    assert code == 0, err
    found = pd.read_parquet(results / "localizations").set_index("localizer")
    ranked = found.loc["attention_contribution"]
    # Six of 28, as published; the rule always picks.
    assert (ranked.window_size, ranked.outcome) == (6, "localized")
    page = (results / "report.html").read_text()
    assert "Published beside measured" in page
    assert "Published of pixart, by attention contribution, which swaps nothing" in page
    assert "Van Gogh needs 12 of 28" in page
    assert "no window found published" in page


def test_a_preset_runs_on_a_pipeline_of_ones_own(command: Command, tiny_pipeline: Path, tmp_path: Path) -> None:
    sweep, results = tmp_path / "sweep.yaml", tmp_path / "results"
    assert command("reproduce", "locogen-sd14", "--write", sweep)[0] == 0
    text = sweep.read_text()
    for pattern, small in SMALLER.items():
        text, count = re.subn(pattern, small.format(model=tiny_pipeline), text)
        assert count, pattern
    sweep.write_text(text)
    code, out, _ = command("run", sweep, "--results", results, "--backend", "inline", "--threads", 1)
    assert code == 0
    assert "report.html" in out
    page = (results / "report.html").read_text()
    part = page[page.index("Published beside measured") : page.index('id="heatmap"')]
    cells = re.findall(r"<td>(.*?)</td>", part)
    assert cells[0::6] == ["fact/zandia in mine", "style/velor in mine"]
    assert cells[1::6] == ["sites 6–7", "sites 8–9"]
    assert cells[2::6] == ["third-party reading, uncertain", "text of the paper"]
    # A random model draws no style: nothing to measure there, and it says so instead of agreeing.
    assert "not swept" not in cells
    assert all(cell.startswith("not localized: ") for cell in cells[5::6])
