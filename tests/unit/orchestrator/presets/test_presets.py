from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loco_core.attributes import attribute, siblings
from loco_core.editing.splits import contents_were_swept, fit_templates, splits
from loco_core.localization.power import reach
from loco_core.types import Window
from orchestrator.presets import preset_file, presets, published
from orchestrator.resolve.lookup import outline
from orchestrator.resolve.options import check_methods
from orchestrator.runs.outlook import outlook
from orchestrator.spec import load_sweep
from orchestrator.stages.edit.candidates import candidates
from orchestrator.stages.sweep.variants import windows
from tests.support.sweeps import Command

ROOT = Path(__file__).parents[4]
NAMES = sorted(presets())
EDITED = [name for name in NAMES if load_sweep(preset_file(name)).edit is not None]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_sweeps_what_was_published(name: str) -> None:
    spec, known = load_sweep(preset_file(name)), published(name)
    (model,) = outline(spec).models
    assert (spec.name, spec.reproduces, model.id) == (name, name, known.model)
    swept = windows(spec, model.n_sites)
    # A sweep in which no window can pass would read as a failed replication.
    found = reach(spec.prompts, len(spec.seeds), len(swept), spec.localize.threshold, spec.localize.confidence)
    assert not found.why_none
    assert found.whole > 0.9
    # Or else "distributed" could never be said.
    assert max(window.size for window in swept) == spec.localize.largest(model.n_sites)
    assert {item.window for item in known.windows} <= set(swept)
    if known.smallest is not None:
        sizes = {window.size for window in swept}
        assert {known.smallest.size - 1, known.smallest.size, known.smallest.size + 1} <= sizes
        assert {item.size for item in known.windows} <= {known.smallest.size}


@pytest.mark.parametrize("batch", [2, 4, 8, 16])
@pytest.mark.parametrize("name", [*NAMES, "cluster/sweep.yaml", "orchestrator/cli/starter.yaml"])
def test_a_cell_costs_about_one_picture(name: str, batch: int) -> None:
    spec = load_sweep(preset_file(name) if name in NAMES else ROOT / name)
    generation = spec.generation.model_copy(update={"batch_size": batch})
    spec = spec.model_copy(update={"generation": generation, "edit": None})
    found = outlook(spec, outline(spec), None)
    assert found.images_per_cell is not None
    assert 0.9 < found.images_per_cell < 1.01


@pytest.mark.parametrize(
    "key", sorted({str(key) for name in EDITED for key in load_sweep(preset_file(name)).attributes})
)
def test_an_attribute_of_a_preset_has_prompts_enough_to_be_found_and_edited(key: str) -> None:
    item = attribute(key)
    assert len({record.template_id for record in item.records}) > len(fit_templates(item)) >= 2
    assert not contents_were_swept(item, 8)
    assert all(len({record.content_text for record in part}) >= 4 for part in splits(item, 8).values())
    assert all(record.prompt != record.donor and record.score_text != record.donor_text for record in item.records)
    assert siblings(key)


def test_every_preset_of_a_work_that_edits_does_so() -> None:
    assert {name.partition("-")[0] for name in EDITED} == {"locogen"}


@pytest.mark.parametrize("name", ["ppl-sdxl", "ppl-sd3", "ppl-if"])
def test_words_are_swept_with_as_many_prompts_as_they_may_be_asked_for(name: str) -> None:
    """Every record is a pair of words of its own: one that came twice would be evidence twice."""
    (item,) = outline(load_sweep(preset_file(name))).attributes
    assert len(item.records) == 16
    words = [part for record in item.records for text in (record.prompt, record.donor) for part in text.split('"')[1:2]]
    assert len(set(words)) == 32
    for record in item.records:
        said, other = (text.split('"')[1] for text in (record.prompt, record.donor))
        assert record.prompt.replace(said, other) == record.donor
        assert (said in record.score_text, other in record.donor_text) == (True, True)
        assert not {said, other} & set(record.content_text.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_draws_as_published(name: str) -> None:
    """Steps, scale, halves of guidance and scorer, as the code of each work has them."""
    spec = load_sweep(preset_file(name))
    (options,) = spec.interventions
    found = (spec.generation.steps, spec.generation.guidance_scale, spec.scorer)
    if name.startswith("locogen"):
        assert (found[0], found[2], options) == (50, "openai/clip-vit-base-patch16", type(options)())
        return
    assert found[2] == "openai/clip-vit-base-patch32"
    expected = {"ppl-sdxl": (50, 5.0), "ppl-sd3": (28, 7.0), "ppl-if": (50, 7.0), "dit-pixart": (20, 4.5),
                "dit-sana": (20, 4.5), "dit-flux": (28, 3.5)}  # fmt: skip
    assert found[:2] == expected[name]
    if name.startswith("ppl"):
        assert (options.guidance_half, options.steps, options.tokens) == ("conditional", None, "all")
    assert (options.pooled == "donor") == (name == "dit-flux")
    assert spec.localize.compare == (("attention_contribution",) if name.startswith("dit") else ())


@pytest.mark.parametrize("name", EDITED)
def test_a_preset_edits_as_published_with_ours_beside(name: str) -> None:
    spec = load_sweep(preset_file(name))
    resolved = outline(spec)
    check_methods(spec, resolved)
    (model,) = resolved.models
    window = Window(8, 2)
    for item in resolved.attributes:
        settings = [edit.settings for edit in candidates(spec, model, item, window.sites, "localized")]
        theirs, ours = (
            [one for one in settings if (one.editor, one.targets) == ("loco_edit", targets)]
            for targets in ("published", "paired")
        )
        assert [(one.strength, one.preserve, one.tokens) for one in theirs] == [(0.01, 0, "last_subject")]
        assert len(ours) == 4
        assert len(item.published_records("loco_edit")) == 4
        neurons = [one for one in settings if one.editor == "neurons"]
        assert {(one.tokens, one.neurons) for one in neurons} == {
            (tokens, count) for tokens in ("last_position", "last_subject") for count in (30, 50, 100)
        }
        assert {(one.guidance_half, one.fill) for one in neurons} == {("conditional", "donor_mean")}


def test_what_was_published_of_an_attribute_comes_before_what_was_of_its_kind() -> None:
    content = {
        "work": "w", "by": "b", "model": "sd14",
        "windows": [
            {"attributes": ["style"], "start": 8, "size": 2, "source": "text of the paper"},
            {"attributes": ["style/monet"], "start": 3, "size": 2, "source": "text of the paper"},
        ],
    }  # fmt: skip
    known = type(published(NAMES[0])).model_validate(content)
    found = {key: known.window_of(key) for key in ("style/monet", "style/picasso", "fact/monet")}
    assert {key: item and item.window for key, item in found.items()} == {
        "style/monet": Window(3, 2), "style/picasso": Window(8, 2), "fact/monet": None
    }  # fmt: skip


def test_presets_are_listed_written_out_and_planned_without_weights(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_hub(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("loco_core.diffusion.hub._unreachable", lambda: "no network")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_hub)
    code, out, _ = command("reproduce")
    assert code == 0
    assert all(f"{name}: " in out for name in NAMES)
    assert "style at sites 8-9 (text of the paper)" in out
    assert "not yet run on real weights" in out
    file = tmp_path / "sweep.yaml"
    assert command("reproduce", "locogen-sd14", "--write", file)[0] == 0
    assert load_sweep(file) == load_sweep(preset_file("locogen-sd14"))
    code, _, err = command("reproduce", "locogen-sd21", "--write", file)
    assert (code, "exists already" in err, err.count("\n")) == (2, True, 1)
    assert load_sweep(file).name == "locogen-sd14"
    code, out, err = command("plan", file, "--results", tmp_path / "none")
    # 58 windows, 2 random sets of each of 4 sizes, clean, donor, identity, all sites; 9 attributes, 8 prompts, 8 seeds.
    assert (code, f"cells:   {70 * 9 * 64:,}" in out) == (0, True)
    assert "weights are missing" in err
    assert "no network" in err
    # A prompt and seed is one unit; all sites, as a window or not, are one picture.
    assert f"images:  {68 * 9 * 64:,} (0.97 per cell)\n" in out
    code, out, _ = command("plan", file, "generation.unit_seconds=30", "--results", tmp_path / "none")
    assert (code, "(0.97 per cell, up to 1.89 where workers share" in out) == (0, True), out
    code, _, err = command("reproduce", "locogen-sd14", "--results", tmp_path / "none", "--backend", "inline")
    assert (code, err.count("\n"), "no network" in err) == (1, 1, True)
    assert not (tmp_path / "none").exists()
    # What remains of results that are there cannot be told without knowing their weights.
    (tmp_path / "none").mkdir()
    code, out, err = command("plan", file, "--results", tmp_path / "none")
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_a_misspelt_preset_is_one_line(command: Command, tmp_path: Path) -> None:
    code, _, err = command("reproduce", "locogen-sdxxl")
    assert (code, err.count("\n"), 'did you mean "locogen-sdxl"?' in err) == (2, 1, True)
    code, _, err = command("reproduce", "--write", tmp_path / "sweep.yaml")
    assert (code, "say which preset" in err) == (2, True)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("name: s\nmodels: [toy]\nattributes: [style/velor]\nscorer: none\nreproduces: locogen-sd41\n")
    code, _, err = command("run", sweep, "--results", tmp_path / "results", "--backend", "inline")
    assert (code, err.count("\n")) == (2, 1)
    assert 'sweep.yaml:5:13: no preset "locogen-sd41"; did you mean' in err
