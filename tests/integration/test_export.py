"""Edits that leave the results: as a LoRA, as new weights, as a pipeline, each with a card that says what it is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

import loco_core
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit.summary import summarize
from orchestrator.store import open_store
from tests.support.plain_diffusers import Job, load_elsewhere
from tests.support.runs import localizer_of, run
from tests.support.sweeps import Command, tiny_sweep

CHOSEN = ("--editor", "loco_edit", "--targets", "paired")


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepSpec:
    localizer = tmp_path_factory.mktemp("localizer") / "eight.py"
    localizer.write_text(localizer_of(start=8, size=2))
    return tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=1, controls={"random": 0},
        windows={"sizes": [2], "stride": 6}, localize={"localizer": str(localizer), "resamples": 100},
        edit={"editors": ["loco_edit", "neurons"], "lambdas": [0.1], "neurons": [0.1], "tokens": ["last_subject"]},
        evaluate={"prompts": 1, "seeds": 2, "neighbours": 1, "judge": "toy-judge", "windows": False},
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    assert run(spec, root).summary.outcome == "done"
    return root


def read_card(folder: Path) -> tuple[dict[str, Any], str]:
    """Reads the head and the text of a card, as the hub does."""
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def chosen_edit(results: Path) -> Any:
    edits = pd.read_parquet(results / "edits")
    (row,) = edits[edits.chosen & (edits.editor == "loco_edit") & (edits.targets == "paired")].itertuples()
    return row


def test_a_lora_of_results_is_what_plain_diffusers_fuses(
    command: Command, results: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    jobs = []
    for naming in ("diffusers", "kohya"):
        out = tmp_path / naming
        code, said, err = command(
            "export", results, out, *CHOSEN, "--format", "lora", "--naming", naming, "--energy", 1
        )
        assert (code, err) == (0, "")
        assert re.search(r"pytorch_lora_weights.safetensors, [\d.]+ kB: rank \d+, 100 % of the energy of the", said)
        jobs.append(Job(str(tiny_pipeline), str(out), str(tmp_path / f"{naming}.out"), ("unet",)))
    edit = loco_core.load_edit(results / chosen_edit(results).delta_path)
    for tensors in load_elsewhere(jobs, tmp_path):
        for change in edit.changes:
            assert change.weight is not None
            fused = tensors[f"unet.{change.module}.weight"][change.rows]
            assert torch.allclose(fused, change.weight, rtol=1e-5, atol=1e-7)


def test_a_card_says_what_was_edited_and_what_was_measured(command: Command, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "lora"
    assert command("export", results, out, *CHOSEN, "--format", "lora")[0] == 0
    head, text = read_card(out)
    assert (head["library_name"], head["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert {"lora", "loco-sweep"} <= set(head["tags"])
    # A folder of this machine is no base that others could load, and its path is nobody's business.
    assert "base_model" not in head
    assert "/tmp" not in text
    row, edit = chosen_edit(results), loco_core.load_edit(results / chosen_edit(results).delta_path)
    sweep_id = open_store(str(results)).sweep_id()
    for fact in (
        row.edit_id,
        sweep_id,
        edit.provenance.weights,
        row.localization,
        '"strength": 0.1',
        "diffusers ",
    ):
        assert f"{fact}" in text, fact
    assert len(edit.provenance.prompts) > 1
    for prompt, donor in edit.provenance.prompts:
        assert f"| {prompt} | {donor} |" in text
    for change in edit.changes:
        assert re.search(rf"\| `{re.escape(change.module)}` \| \d+ rows, (99\.9|100)\S* % of the energy kept \|", text)
    seen = pd.read_parquet(results / "evaluations")
    (measured,) = (
        item for item in summarize(pd.read_parquet(results / "edits").to_dict("records"), seen.to_dict("records"))
        if (item.edit_id, item.scope) == (row.edit_id, row.scope)
    )  # fmt: skip
    share = measured.ceiling
    assert share.of
    figure = f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%}) of {share.of}"
    assert f"| donor prompts' pictures, unedited, that show the donor's class | {figure} |" in text
    assert text.count("of 0 |") == 0
    # What the card says to do with it can be done.
    assert (
        f'load_lora_weights("PATH_OF_THIS_FOLDER", weight_name="{(out / "pytorch_lora_weights.safetensors").name}")'
        in text
    )


def test_a_delta_is_the_stored_file_and_needs_no_model(
    command: Command, results: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "results"
    shutil.copytree(results, elsewhere)
    hidden = tiny_pipeline.with_name("hidden")
    tiny_pipeline.rename(hidden)
    try:
        code, said, err = command("export", elsewhere, tmp_path / "delta", *CHOSEN, "--format", "delta")
        # What plain diffusers cannot hold is an edit all the same.
        neurons = command("export", elsewhere, tmp_path / "neurons", "--editor", "neurons", "--format", "delta")
    finally:
        hidden.rename(tiny_pipeline)
    assert (code, err, neurons[0]) == (0, "", 0)
    assert "delta.safetensors, " in said
    stored = results / chosen_edit(results).delta_path
    assert (tmp_path / "delta/delta.safetensors").read_bytes() == stored.read_bytes()
    assert 'loco_core.load_edit("PATH_OF_THIS_FOLDER/delta.safetensors")' in read_card(tmp_path / "delta")[1]
    assert "up_blocks" in read_card(tmp_path / "neurons")[1]


def test_a_pipeline_has_a_card_too(command: Command, results: Path, tmp_path: Path) -> None:
    assert command("export", results, tmp_path / "model", *CHOSEN)[0] == 0
    head, text = read_card(tmp_path / "model")
    assert "lora" not in head["tags"]
    assert "DiffusionPipeline.from_pretrained" in text
    assert (tmp_path / "model/model_index.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "lora", "--editor", "neurons"], "exists in this runtime alone"),
        (["--format", "lora", "--rank", "1", *CHOSEN], "error: rank 1 keeps "),
        (["--format", "lora", "--energy", "0", *CHOSEN], "error: energy 0 is no share; expected one above 0"),
        (["--rank", "4", *CHOSEN], "error: --rank is of a LoRA; expected --format lora beside it"),
        (["--format", "delta", "--naming", "kohya", *CHOSEN], "error: --naming is of a LoRA; expected --format lora"),
        (["--format", "lora", "--edit", "zz"], "error: no edits match; name one with --edit"),
        (["--format", "lor", *CHOSEN], "'lor' is not one of 'folder', 'lora', 'delta'"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    command: Command, results: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    code, said, err = command("export", results, tmp_path / "out", *words)
    assert (code != 0, said) == (True, "")
    assert message in err
    assert err.count("\n") == 1 or "Usage" in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_refused_before_anything_is_read(
    command: Command, results: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    hidden = tiny_pipeline.with_name("hidden")
    tiny_pipeline.rename(hidden)
    try:
        for form in ("folder", "lora", "delta"):
            code, _, err = command("export", results, tmp_path, *CHOSEN, "--format", form)
            assert (code, err) == (1, f"error: {tmp_path} exists already; name a new folder\n")
    finally:
        hidden.rename(tiny_pipeline)
