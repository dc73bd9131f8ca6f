"""Edits of several attributes through the chain: fitted, chosen, measured, shown, exported, killed and resumed."""

from __future__ import annotations

import os
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from loco_core.editing.deltas import read_delta
from loco_core.errors import SpecError
from orchestrator.reporting import write_report
from orchestrator.resolve.lookup import resolve
from orchestrator.runs.outlook import outlook
from orchestrator.spec import SweepSpec
from orchestrator.store import open_store, verify
from orchestrator.store.local import LocalBlobs
from tests.support.runs import edit_tables, run
from tests.support.sweeps import Command, tiny_sweep

LOCALIZER = """
from dataclasses import replace
from loco_core.localization.localizers.window import localize as honest

STARTS = {"style/velor": 8, "fact/zandia": 9}

def localize(scores, settings, site_names=()):
    start = STARTS[scores["attribute"][0].as_py()]
    return replace(honest(scores, settings, site_names), outcome="localized", window_start=start, window_size=2,
                   wants=())
"""
NAMES = ["fact/zandia", "style/velor"]
BOTH = ("--attribute", "style/velor", "--attribute", "fact/zandia")
SEQUENCE = ["style/velor", "fact/zandia"]


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepSpec:
    localizer = tmp_path_factory.mktemp("localizer") / "apart.py"
    localizer.write_text(LOCALIZER)
    return tiny_sweep(
        tiny_pipeline, prompts=1, seeds=1, images="report", controls={"random": 0}, windows={"sizes": [2], "stride": 7},
        generation={"steps": 1, "batch_size": 16}, localize={"localizer": str(localizer), "resamples": 100},
        edit={
            "editors": ["loco_edit", "uce"], "targets": "paired", "lambdas": [0.01, 0.1], "tokens": ["all"],
            "together": ["style/velor", "fact/zandia"], "sequence": ["style/velor", "fact/zandia"],
        },
        evaluate={
            "prompts": 1, "seeds": 1, "neighbours": 1, "judge": "toy-judge", "windows": False, "metrics": ["ssim"],
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("together")
    torch.set_num_threads(1)
    assert run(spec, root).summary.outcome == "done"
    return root


def test_one_edit_is_fitted_to_all_attributes_and_measured_on_each(results: Path) -> None:
    edits = pd.read_parquet(results / "edits")
    mine = edits[edits.scope == "together"]
    assert edits[~edits.scope.isin(["together", "sequence"])].attributes.isna().all()
    assert all(list(names) == NAMES for names in mine.attributes)
    # Each row is about one attribute, with its own sites; of UCE all of them.
    sites = {
        name: set(map(tuple, each.site_indices)) for name, each in mine[mine.editor == "loco_edit"].groupby("attribute")
    }
    assert sites == {"style/velor": {(8, 9)}, "fact/zandia": {(9, 10)}}
    assert {len(each) for each in mine[mine.editor == "uce"].site_indices} == {16}
    assert set(mine.localization) == {
        "together: fact/zandia + style/velor", "together: fact/zandia + style/velor (uce, all sites)",
    }  # fmt: skip
    chosen = mine[mine.chosen]
    assert sorted(zip(chosen.editor, chosen.attribute, strict=True)) == [
        (editor, name) for editor in ("loco_edit", "uce") for name in NAMES
    ]
    seen = pd.read_parquet(results / "evaluations")
    seen = seen[seen.scope == "together"]
    assert all(list(names) == NAMES for names in seen.attributes)
    for split, ids in (("select", mine.edit_id), ("report", chosen.edit_id)):
        rows = seen[seen.split == split]
        assert set(zip(rows.edit_id, rows.attribute, strict=True)) == {(i, name) for i in set(ids) for name in NAMES}
    metrics = pd.read_parquet(results / "metrics")
    metrics = metrics[metrics.scope == "together"]
    assert set(zip(metrics.edit_id, metrics.attribute, strict=True)) == {(i, n) for i in chosen.edit_id for n in NAMES}
    assert verify(open_store(str(results))) == []


def test_its_weights_are_those_of_each_alone_where_they_do_not_meet(results: Path) -> None:
    edits = pd.read_parquet(results / "edits")
    edits = edits[(edits.editor == "loco_edit") & (edits["lambda"] == 0.1)]
    assert edits.scope.isin(["localized", "together"]).sum() == 4

    def weights(scope: str, attribute: str) -> dict[str, torch.Tensor]:
        (row,) = edits[(edits.scope == scope) & (edits.attribute == attribute)].itertuples()
        return {change.module: change.weight for change in read_delta(results / row.delta_path).changes}

    group = weights("together", "style/velor")
    assert group.keys() == weights("together", "fact/zandia").keys()
    alone = [weights("localized", name) for name in NAMES]
    (shared,) = {len(alone[0].keys() & alone[1].keys())}
    assert (len(group), shared) == (6, 2)
    for name, weight in group.items():
        theirs = [each[name] for each in alone if name in each]
        assert any(torch.equal(weight, each) for each in theirs) == (len(theirs) == 1)


def test_it_is_shown_and_exported(command: Command, results: Path, spec: SweepSpec, tmp_path: Path) -> None:
    write_report(open_store(str(results)))
    page = (results / "report.html").read_text()
    assert "together with fact/zandia" in page
    assert "together with style/velor" in page
    assert '"name":"together"' in page
    assert "fact/zandia + style/velor in tiny, by loco_edit, paired" in page
    code, out, err = command("show", results, "style/velor")
    assert (code, err) == (0, "")
    assert "fact/zandia + style/velor in tiny, by uce, paired: flipped / spared" in out
    assert {line.split("\t")[0] for line in out.splitlines()} >= {"edit", "each alone", "all at once"}
    for title in ("style/velor, then fact/zandia in tiny, by loco_edit, paired", "after 1: style/velor"):
        assert title in page
        assert title in out
    words = (results, tmp_path / "edited", *BOTH, "--editor", "loco_edit", "--format", "delta")
    code, out, err = command("export", *words)
    assert (code, err) == (0, "")
    assert "with fact/zandia and style/velor edited" in out
    made = read_delta(tmp_path / "edited" / "delta.safetensors").provenance
    assert (made.attributes, made.sites) == (tuple(NAMES), (8, 9, 10))
    assert "fact/zandia, style/velor" in (tmp_path / "edited" / "README.md").read_text()
    # One attribute means its own edit, and an id whatever it is of.
    code, out, _ = command("export", results, tmp_path / "one", *BOTH[:2], "--editor", "loco_edit", "--format", "delta")
    assert (code, "with style/velor edited" in out) == (0, True)
    edits = pd.read_parquet(results / "edits")
    named = edits[(edits.scope == "together") & (edits.editor == "uce")].edit_id.iloc[0]
    assert command("export", results, tmp_path / "two", "--edit", named, "--format", "delta")[0] == 0


def test_it_is_measured_on_more(command: Command, results: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(results, tmp_path / "results"))
    code, out, err = command(
        "evaluate", root, "--attribute", "style/velor", "--seeds", 2, "--trust", "--backend", "inline", "--threads", 1
    )
    assert code == 0, err
    assert "cannot be fitted again" not in out + err
    seen = pd.read_parquet(root / "evaluations")
    seen = seen[(seen.scope == "together") & (seen.split == "report")]
    assert seen.groupby("attribute").seed.nunique().to_dict() == {"style/velor": 2, "fact/zandia": 1}
    seen = pd.read_parquet(root / "evaluations")
    seen = seen[(seen.scope == "sequence") & (seen.attribute == "style/velor")]
    assert (seen.groupby(["editor", "step"]).seed.nunique() == 2).all()


def test_edits_one_after_the_other_are_measured_on_all_attributes_after_every_step(results: Path) -> None:
    edits = pd.read_parquet(results / "edits")
    mine = edits[edits.scope == "sequence"]
    assert all(list(names) == SEQUENCE for names in mine.attributes)
    listed = sorted(zip(mine.editor, mine.step, mine.attribute, mine.chosen, strict=True))
    # The last step is what there is in the end.
    assert listed == sorted(
        (editor, step, name, step == 2) for editor in ("loco_edit", "uce") for step in (1, 2) for name in SEQUENCE
    )
    assert edits[edits.scope != "sequence"].step.isna().all()
    seen = pd.read_parquet(results / "evaluations")
    seen = seen[seen.scope == "sequence"]
    assert set(seen.split) == {"report"}
    cells = set(zip(seen.edit_id, seen.step, seen.attribute, strict=True))
    assert cells == set(zip(mine.edit_id, mine.step, mine.attribute, strict=True))
    assert all(list(names) == SEQUENCE for names in seen.attributes)


def test_a_step_begins_where_the_one_before_ended(results: Path) -> None:
    edits = pd.read_parquet(results / "edits")
    edits = edits[edits.editor == "loco_edit"]

    def weights(rows: pd.DataFrame) -> dict[str, torch.Tensor]:
        (path,) = set(rows.delta_path)
        return {change.module: change.weight for change in read_delta(results / path).changes}

    alone = weights(edits[(edits.scope == "localized") & (edits.attribute == "style/velor") & edits.chosen])
    one, two = (weights(edits[(edits.scope == "sequence") & (edits.step == step)]) for step in (1, 2))
    assert one.keys() == alone.keys()
    assert all(torch.equal(one[name], alone[name]) for name in one)
    # Sites 8 and 9, then 9 and 10.
    assert len(two) == 6
    assert sum(torch.equal(two[name], one[name]) for name in one) == 2


def test_an_editor_that_is_held_against_nothing_is_measured_and_takes_its_turn(spec: SweepSpec, tmp_path: Path) -> None:
    file, root = tmp_path / "bare.py", tmp_path / "results"
    file.write_text(
        "from loco_core.editing.base import EditorInfo\n"
        "from loco_core.editing.editors.loco_edit import edit\n"
        "INFO = EditorInfo(baselines=())\n"
    )
    assert spec.edit is not None
    bare = spec.edit.model_copy(update={"editors": (str(file),), "lambdas": (0.1,), "together": ()})
    assert run(spec.model_copy(update={"edit": bare}), root).summary.outcome == "done"
    seen = pd.read_parquet(root / "evaluations")
    assert set(seen[seen.split == "report"].scope) == {"localized", "sequence"}


def test_a_step_is_exported_by_its_id(command: Command, results: Path, tmp_path: Path) -> None:
    edits = pd.read_parquet(results / "edits")
    for step in (1, 2):
        (name, *_) = edits[(edits.scope == "sequence") & (edits.step == step) & (edits.editor == "loco_edit")].edit_id
        code, out, _ = command("export", results, tmp_path / str(step), "--edit", name, "--format", "delta")
        assert code == 0, out
        made = read_delta(tmp_path / str(step) / "delta.safetensors").provenance
        assert list(made.attributes) == SEQUENCE[:step]


def _killed(scope: str, spec: SweepSpec, root: Path, call: int) -> None:
    """Ends in the middle of a storage call, counted from the first weights of a scope on."""
    torch.set_num_threads(1)
    calls = 0
    for name in ("put_if_absent", "replace", "compare_and_swap"):
        original = getattr(LocalBlobs, name)

        def counted(self: LocalBlobs, path: str, *args: Any, original: Any = original) -> Any:
            nonlocal calls
            calls += calls > 0 or f"-{scope}-" in path
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, path, *args)

        setattr(LocalBlobs, name, counted)
    run(spec, root)


@pytest.mark.parametrize(("scope", "call"), [("together", 1), ("sequence", 2), ("sequence", 6)])
def test_a_run_killed_midway_resumes_to_the_same_tables(
    scope: str, call: int, spec: SweepSpec, results: Path, tmp_path: Path
) -> None:
    """While the weights of a group are written, and while it is measured."""
    root = tmp_path / "results"
    child = get_context("fork").Process(target=_killed, args=(scope, spec, root, call))
    child.start()
    child.join(240)
    assert child.exitcode == -signal.SIGKILL
    run(spec, root)
    for name, frame in edit_tables(root).items():
        order = ["edit_id", "attribute", "scope", "prompt", "judge_kind", "seed", "cell_id", "split"]
        keys = [column for column in order if column in frame]
        expected = edit_tables(results)[name]
        pd.testing.assert_frame_equal(
            frame.sort_values(keys, ignore_index=True), expected.sort_values(keys, ignore_index=True)
        )
    assert verify(open_store(str(root))) == []


def test_a_group_is_taken_back_where_one_of_it_is_localized_no_more(
    results: Path, spec: SweepSpec, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(results, tmp_path / "results"))
    again = spec.model_copy(update={"localize": spec.localize.model_copy(update={"localizer": "window"})})
    run(again, root)
    edits = pd.read_parquet(root / "edits")
    for scope in ("together", "sequence"):
        assert set(edits[edits.scope == scope].editor) == {"uce"}
    # What needs a localization is refused before anything is run.
    assert again.edit is not None
    for given in ({"sequence": ()}, {"together": ()}):
        wanted = again.edit.model_copy(update={"editors": ("loco_edit",), **given})
        alone = again.model_copy(update={"edit": wanted})
        with pytest.raises(SpecError, match="is localized nowhere in these results"):
            outlook(alone, resolve(alone), str(root))
    outlook(again, resolve(again), str(root))
