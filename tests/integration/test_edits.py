"""Edits through the whole chain on a real pipeline: fitted, chosen, measured, killed and resumed."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.deltas import applied, from_bytes, read_delta
from loco_core.errors import EditError
from loco_core.types import Generation, Row, Window
from orchestrator.backends.inline import InlineBackend
from orchestrator.cli.main import app
from orchestrator.reporting import write_report
from orchestrator.runs.edits import Selection, run_edits
from orchestrator.runs.export import export_edit, find_edit
from orchestrator.runs.session import Controls
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Attempt, Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.context import Result, WorkerContext
from orchestrator.stages.edit import work as edit_work
from orchestrator.stages.edit.plan import Evaluation
from orchestrator.stages.edit.summary import summarize
from orchestrator.store import open_store, repair, verify
from tests.support.runs import edit_tables, localizer_of, run
from tests.support.sweeps import kill_at_storage_call, tiny_sweep

MOMENTS = 5


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepSpec:
    localizer = tmp_path_factory.mktemp("localizer") / "eight.py"
    localizer.write_text(localizer_of(start=8, size=2))
    return tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=1, images="report", controls={"random": 0},
        windows={"sizes": [2], "stride": 6}, localize={"localizer": str(localizer), "resamples": 100},
        edit={"lambdas": [0.01, 0.1], "neurons": [0.1], "tokens": ["all"]},
        evaluate={"prompts": 1, "seeds": 1, "neighbours": 1, "judge": "toy-judge", "windows": False},
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("edits")
    assert run(spec, root).summary.outcome == "done"
    return root


def test_one_edit_of_each_editor_is_chosen_and_held_against_baselines(undisturbed: Path) -> None:
    edits = pd.read_parquet(undisturbed / "edits")
    assert set(edits.scope) == {"localized", "all_sites", "placebo", "random"}
    chosen = edits[edits.chosen]
    assert sorted(zip(chosen.editor, chosen.targets.fillna("-"), strict=True)) == [
        ("loco_edit", "paired"), ("loco_edit", "published"), ("neurons", "-"),
    ]  # fmt: skip
    assert (chosen.scope == "localized").all()
    # As published lambda is absolute; else it is a share, and what stands in the equation is said beside it.
    published, paired = (edits[edits.targets == name] for name in ("published", "paired"))
    assert (set(published.lambda_absolute), published["lambda"].isna().all()) == ({0.01}, True)
    assert (paired.lambda_absolute > paired["lambda"]).all()
    assert set(edits[edits.editor == "neurons"].guidance_half) == {"conditional"}
    assert set(edits[edits.scope == "localized"].window_start) == {8}
    pairs = edits.set_index("edit_id").norm
    for _, placebo in edits[edits.scope == "placebo"].iterrows():
        assert placebo.norm == pytest.approx(pairs[placebo.base], rel=1e-3)
    counts = edits[edits.editor == "neurons"].groupby("scope").neurons.first()
    assert counts["random"] == counts["localized"]


def test_a_fact_has_donors_of_its_own_beside_what_is_unrelated(tiny_pipeline: Path, tmp_path: Path) -> None:
    spec = tiny_sweep(
        tiny_pipeline, attributes=["fact/zandia"], prompts=1, seeds=1, controls={"random": 0},
        windows={"sizes": [2], "stride": 7}, images="report", generation={"steps": 1, "batch_size": 16},
        evaluate={"prompts": 2, "seeds": 1, "neighbours": 5, "judge": "toy-judge", "windows": False},
        edit={"editors": ["loco_edit"], "targets": "paired", "lambdas": [0.1], "tokens": ["all"]},
    )  # fmt: skip
    run(spec, tmp_path)
    run_edits(
        Selection(str(tmp_path)), Controls(lambda s: InlineBackend(s, threads=1), lambda _: None, StopSwitch()),
        print, window=Window(3, 2),
    )  # fmt: skip
    rows = pd.read_parquet(tmp_path / "evaluations")
    report = rows[rows.split == "report"]
    roles = report.groupby("prompt").prompt_role.nunique()
    assert (roles == 1).all(), "a picture was drawn for two roles"
    prompts = report.groupby("prompt_role").prompt.unique()
    assert set(prompts.index) == {"target", "paraphrase", "donor", "neighbour", "unrelated"}
    assert all("the flag of morova" in prompt for prompt in prompts["donor"])
    assert not [prompt for prompt in prompts["unrelated"] if "flag of" in prompt]
    (chosen,) = (item for item in summarize(pd.read_parquet(tmp_path / "edits").to_dict("records"),
                                            rows.to_dict("records")) if item.chosen)  # fmt: skip
    assert chosen.ceiling.of == report[report.prompt_role == "donor"].prompt.nunique()
    assert write_report(open_store(str(tmp_path)))


def test_every_edit_is_measured_on_every_role_of_the_report(undisturbed: Path) -> None:
    edits, rows = pd.read_parquet(undisturbed / "edits"), pd.read_parquet(undisturbed / "evaluations")
    assert not rows.duplicated(["edit_id", "scope", "split", "prompt", "clip_text", "seed", "judge_kind"]).any()
    report = rows[rows.split == "report"]
    for edit_id in edits.edit_id:
        assert set(report[report.edit_id == edit_id].prompt_role) == {"target", "paraphrase", "neighbour", "unrelated"}
    assert set(rows[rows.split == "select"].scope) == {"localized"}
    assert (rows.image_distance > 0).all()
    assert not set(report.prompt) & set(pd.read_parquet(undisturbed / "scores").prompt)
    images = pd.read_parquet(undisturbed / "images")
    assert {"before", "edited"} <= set(images.control)


def test_deltas_can_be_read_and_name_what_they_come_from(undisturbed: Path) -> None:
    edits = pd.read_parquet(undisturbed / "edits")
    for _, edit in edits[edits.scope == "localized"].iterrows():
        delta = from_bytes((undisturbed / edit.delta_path).read_bytes(), edit.delta_path)
        assert delta.provenance.sites == (8, 9)
        assert delta.provenance.attributes == ("style/velor",)
        assert delta.provenance.weights == edit.model_revision
        assert delta.provenance.localization.endswith("sites 8-9")
    assert edits[edits.scope != "localized"].delta_path.isna().all()
    assert verify(open_store(str(undisturbed))) == []


ALL_FOUR = {"editors": ("loco_edit", "neurons", "uce", "diff_quick_fix")}


@pytest.fixture(scope="module")
def beside(spec: SweepSpec, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same results, gone on with the published methods."""
    root = Path(shutil.copytree(undisturbed, tmp_path_factory.mktemp("methods") / "results"))
    assert spec.edit is not None
    assert run(spec.model_copy(update={"edit": spec.edit.model_copy(update=ALL_FOUR)}), root).summary.outcome == "done"
    return root


def test_published_methods_are_fitted_chosen_and_measured_beside_the_editors(undisturbed: Path, beside: Path) -> None:
    edits, before = pd.read_parquet(beside / "edits"), pd.read_parquet(undisturbed / "edits")
    assert set(edits[edits.chosen].editor) == set(ALL_FOUR["editors"])
    # What was there is as it was.
    pd.testing.assert_frame_equal(edits[edits.edit_id.isin(before.edit_id)].reset_index(drop=True), before)
    mine = edits[edits.editor.isin(["uce", "diff_quick_fix"])]
    assert set(mine.scope) == {"method", "placebo"}
    assert set(mine.localization) == {"method: uce, all sites", "method: diff_quick_fix, text encoder"}
    assert mine.window_start.isna().all()
    assert mine["lambda"].isna().all()
    both = mine[mine.scope == "method"].set_index(["targets", "editor"])
    for targets in ("published", "paired"):
        chosen = both.loc[targets]
        assert chosen.lambda_absolute.to_dict() == {"uce": 0.5, "diff_quick_fix": 0.01}
        assert {name: len(found) for name, found in chosen.site_indices.items()} == {"uce": 16, "diff_quick_fix": 0}
    norms = edits.set_index("edit_id").norm
    for _, placebo in mine[mine.scope == "placebo"].iterrows():
        assert placebo.norm == pytest.approx(norms[placebo.base], rel=1e-3)
    rows = pd.read_parquet(beside / "evaluations")
    probes = ["split", "prompt_role", "prompt", "clip_text", "seed", "judge_kind"]
    seen = {
        edit_id: set(group[probes].itertuples(index=False, name=None))
        for edit_id, group in rows.groupby("edit_id") if edit_id in set(edits[edits.chosen].edit_id)
    }  # fmt: skip
    # All on the same splits and probes.
    assert len(seen) == 3 * 2 + 1
    assert len({frozenset(found) for found in seen.values()}) == 1
    assert (rows[rows.edit_id.isin(mine.edit_id)].image_distance > 0).all()
    assert verify(open_store(str(beside))) == []
    write_report(open_store(str(beside)))
    page = (beside / "report.html").read_text()
    assert "diff_quick_fix, as published, at the text encoder, absolute λ 0.01, tail" in page
    assert "diff_quick_fix, paired, at the text encoder, absolute λ 0.01, tail" in page
    assert "uce, as published, at all sites, absolute λ 0.5, last_subject" in page
    assert "loco_edit, as published, at sites 8–9, absolute λ 0.01, last_subject" in page
    assert "last_subject, conditional half" in page
    assert "fitted on texts as the method's authors use them" in page


def test_methods_edit_where_nothing_is_localized(spec: SweepSpec, undisturbed: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(undisturbed, tmp_path / "results"))
    assert spec.edit is not None
    honest = spec.localize.model_copy(update={"localizer": "window"})
    edit = spec.edit.model_copy(update=ALL_FOUR)
    result = run(spec.model_copy(update={"localize": honest, "edit": edit}), root)
    assert result.localizations[0].window is None
    edits = pd.read_parquet(root / "edits")
    assert set(edits.editor) == {"uce", "diff_quick_fix"}
    assert {item.editor for item in result.edits if item.chosen} == {"uce", "diff_quick_fix"}


def test_the_same_command_does_nothing_twice(spec: SweepSpec, undisturbed: Path) -> None:
    before = edit_tables(undisturbed)
    assert run(spec, undisturbed).summary.committed == 0
    for name, frame in edit_tables(undisturbed).items():
        pd.testing.assert_frame_equal(frame, before[name])


def _killed_run(spec: SweepSpec, root: Path, call: int) -> None:
    torch.set_num_threads(1)
    # Counted from the first edit on.
    kill_at_storage_call(call, first="deltas/")
    run(spec, root)


@pytest.mark.parametrize("call", sorted(random.Random(20261124).sample(range(1, 16), MOMENTS)))
def test_a_driver_killed_among_edits_loses_nothing(
    spec: SweepSpec, undisturbed: Path, tmp_path: Path, call: int
) -> None:
    child = get_context("fork").Process(target=_killed_run, args=(spec, tmp_path, call))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    run(spec, tmp_path)
    expected = edit_tables(undisturbed)
    for name, frame in edit_tables(tmp_path).items():
        pd.testing.assert_frame_equal(frame, expected[name])


def test_an_exported_model_is_plain_diffusers_and_draws_the_edited_pictures(
    beside: Path, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    edits = {
        f"{editor}-{targets}": (editor, targets)
        for editor in ("loco_edit", "diff_quick_fix") for targets in ("published", "paired")
    }  # fmt: skip
    for folder, (editor, targets) in edits.items():
        words = ["export", str(beside), str(tmp_path / folder), "--editor", editor, "--targets", targets]
        assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    script = """
import sys, torch
from diffusers import StableDiffusionPipeline
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
    pipe.unet.to(memory_format=torch.channels_last)
    latents = pipe("a red circle in the style of velor", num_inference_steps=2, guidance_scale=3.0,
                   output_type="latent", generator=torch.Generator().manual_seed(7)).images
    torch.save(latents, folder + "/latents")
"""
    folders = [str(tmp_path / folder) for folder in edits]
    subprocess.run([sys.executable, "-c", script, *folders], check=True, timeout=300)
    row = Row("a red circle in the style of velor", "", 7)
    clean = next(generate(tiny_model, [row], Generation(2, 3.0), 1)).latents
    drawn = []
    for folder, (editor, targets) in edits.items():
        wanted = f"chosen and editor == '{editor}' and targets == '{targets}'"
        (edit,) = pd.read_parquet(beside / "edits").query(wanted).itertuples()
        with applied(tiny_model, read_delta(beside / edit.delta_path), edit.model_revision):
            own = next(generate(tiny_model, [row], Generation(2, 3.0), 1)).latents
        plain = torch.load(tmp_path / folder / "latents", weights_only=True)
        assert torch.allclose(own, plain, rtol=1e-4, atol=1e-5)
        assert all(not torch.allclose(own, other, atol=1e-4) for other in (clean, *drawn))
        drawn.append(own)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attribute", "style/veler"], 'no edit has the attribute "style/veler"; did you mean "style/velor"'),
        ([], "3 edits match: .*loco_edit, as published, .* or narrow them down with --editor and --targets$"),
        (["--editor", "loco_edit"], "2 edits match: .*loco_edit, paired.*, or narrow them down with --targets$"),
        (
            ["--editor", "neurons"],
            "in this runtime alone: the conditional half of guidance alone is edited, and plain "
            "diffusers cannot tell the halves",
        ),
        (["--edit", "zz"], "no edits match; name one with --edit"),
    ],
)
def test_an_export_that_is_not_clear_is_one_line(
    undisturbed: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(EditError, match=message):
        CliRunner().invoke(app, ["export", str(undisturbed), str(tmp_path / "x"), *words], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_delta_and_a_folder_in_the_way_are_refused(undisturbed: Path, tmp_path: Path) -> None:
    store = open_store(str(undisturbed))
    edit = find_edit(store, None, {"model": None, "editor": "neurons", "targets": None})
    with pytest.raises(EditError, match="exists already"):
        export_edit(store, edit, tmp_path)
    with pytest.raises(EditError, match="is not the file that was written"):
        export_edit(store, replace(edit, delta_sha256="0"), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_edits_that_failed_are_tried_again_by_the_same_command(
    spec: SweepSpec, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = edit_work.work

    def work(context: WorkerContext, unit: Unit, attempt: Attempt) -> Result:
        if isinstance(unit.payload, Evaluation) and unit.payload.split == "select":
            raise RuntimeError("out of memory")
        return honest(context, unit, attempt)

    monkeypatch.setattr(edit_work, "work", work)
    first = run(spec, tmp_path)
    (error,) = (str(failure.error) for failure in first.summary.failures)
    assert error.startswith("out of memory (integration/test_edits.py, line ")
    assert first.failed_cells == 0
    assert open_store(str(tmp_path)).read("edits").num_rows == 0
    (failure,) = pd.read_parquet(tmp_path / "failures").itertuples()
    assert (failure.attribute, failure.error) == ("style/velor", error)
    monkeypatch.undo()
    again = run(spec, tmp_path)
    assert (again.summary.failures, again.failed_cells) == ((), 0)
    for name, table in edit_tables(tmp_path).items():
        pd.testing.assert_frame_equal(table, edit_tables(undisturbed)[name])
    assert verify(open_store(str(tmp_path))) == []


def test_deltas_that_are_damaged_or_gone_are_named_and_fitted_again(
    spec: SweepSpec, undisturbed: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(undisturbed, tmp_path / "results"))
    whole = {path.name: path.read_bytes() for path in (root / "deltas").iterdir()}
    first, second, *_ = sorted(whole)
    (root / "deltas" / first).write_bytes(whole[first][:-8])
    (root / "deltas" / second).unlink()
    store = open_store(str(root))
    found = {damage.path: damage.problem for damage in verify(store)}
    assert found == {f"deltas/{first}": "not the file that was written", f"deltas/{second}": "missing"}
    repair(store)
    run(spec, root)
    assert {path.name: path.read_bytes() for path in (root / "deltas").iterdir()} == whole
    assert verify(store) == []
