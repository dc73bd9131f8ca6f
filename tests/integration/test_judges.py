"""A sweep whose edits are judged by a second CLIP model, from the file to the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from loco_core.errors import LocoError
from orchestrator.reporting import write_report
from orchestrator.reporting.findings import read_findings
from orchestrator.resolve.judge_cost import judge_cost
from orchestrator.resolve.lookup import resolve
from orchestrator.runs.compare import compare_results
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit import stage
from orchestrator.stages.edit.summary import summarize
from orchestrator.store import open_store
from orchestrator.store.documents import Pinned
from orchestrator.store.layout import RESOLVED
from tests.support import judge_models
from tests.support.runs import localizer_of, run
from tests.support.sweeps import Command, tiny_sweep


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judge_models.other_clip(tmp_path_factory.mktemp("judge") / "second")


@pytest.fixture(scope="module")
def localizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("localizer") / "eight.py"
    file.write_text(localizer_of(start=8, size=2))
    return file


def sweep(pipeline: Path, localizer: Path, judge: Any, **edit: Any) -> SweepSpec:
    return tiny_sweep(
        pipeline, attributes=["style/velor"], prompts=1, seeds=1, controls={"random": 0},
        windows={"sizes": [2], "stride": 6}, localize={"localizer": str(localizer), "resamples": 100},
        edit={"editors": ["loco_edit"], "targets": "paired", "lambdas": [0.01, 0.1], "tokens": ["all"], **edit},
        evaluate={"prompts": 1, "seeds": 1, "neighbours": 1, "judge": judge, "windows": False},
        generation={"steps": 1, "batch_size": 16},
    )  # fmt: skip


def by_clip(clip: Path, **settings: Any) -> dict[str, Any]:
    return {"use": "zero_shot", "model": str(clip), **settings}


@pytest.fixture(scope="module")
def results(tiny_pipeline: Path, clip: Path, localizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("judged")
    assert run(sweep(tiny_pipeline, localizer, by_clip(clip, abstain=0.0)), root).summary.outcome == "done"
    return root


def test_edits_are_chosen_and_graded_by_the_second_model(results: Path, clip: Path) -> None:
    rows, edits = pd.read_parquet(results / "evaluations"), pd.read_parquet(results / "edits")
    (name,) = rows.judge.unique()
    assert name.startswith("zero_shot:second@")
    # What stands in its place in a picture of a style is what plain prompts show; other kinds are seen beside it.
    targets = rows[(rows.prompt_role == "target") & (rows.judge_kind == "style")]
    assert set(targets.judge_said) == {"velor"}
    assert set(rows.judge_kind) > {"style"}
    known = judge_models.classes()
    for kind, some in rows.groupby("judge_kind"):
        assert set(some.judge_before) | set(some.judge_after) <= {*known[str(kind)].names, "unsure", "invalid"}
    assert set(edits.chosen_by) == {name}
    assert edits.chosen.sum() == 1
    pinned = open_store(str(results)).document(RESOLVED, Pinned)
    assert pinned is not None
    assert pinned.judges[name]["model"] == str(clip)
    assert pinned.judges[name]["settings"] == {"abstain": 0.0}
    assert len(pinned.judges[name]["weights"]) == 64


def test_plan_says_what_a_judge_takes(
    tiny_pipeline: Path, localizer: Path, clip: Path, tmp_path: Path, command: Command
) -> None:
    file = tmp_path / "sweep.yaml"
    spec = sweep(tiny_pipeline, localizer, by_clip(clip))
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True)))
    code, out, _ = command("plan", file, "--json")
    assert code == 0
    found = json.loads(out)
    weights = load_file(clip / "model.safetensors")
    numbers = sum(value.numel() for value in weights.values())
    assert found["judge"]["bytes"] == 4 * numbers
    assert found["judge"]["seconds_per_image"] > 0
    code, out, _ = command("plan", file)
    line = (
        f"judge:   {found['judge']['judge']} holds {4 * numbers / 1e6:.1f} MB beside each pipeline, from the start of"
    )
    assert line in out
    # Half of the memory in half precision; a picture is read once for each answer, in two orders.
    resolved = resolve(spec)
    assert resolved.judge is not None
    vqa = resolved.judge.model_copy(update={"use": "vqa", "settings": {"dtype": "float16", "kinds": ["style"]}})
    other = judge_cost(resolved.model_copy(update={"judge": vqa}))
    assert other is not None
    assert other.bytes == 2 * numbers
    answers = len(judge_models.classes()["style"].classes)
    assert other.seconds_per_image == pytest.approx(2 * answers * found["judge"]["seconds_per_image"])
    # One that brings its weights holds them too, and a sweep without edits loads no judge for them.
    bundled = resolve(sweep(tiny_pipeline, localizer, "toy-judge"))
    own = judge_cost(bundled)
    assert own is not None
    assert (own.bytes or 0) > 0
    assert judge_cost(resolved.model_copy(update={"judge": None})) is None


def test_the_report_says_by_what_edits_were_chosen_and_graded(results: Path) -> None:
    store = open_store(str(results))
    found = read_findings(store)
    assert found.editing is not None
    assert "chooser and judge share theirs" in found.editing.judging
    assert "other weights than those of the scorer" in found.editing.judging
    (name,) = found.editing.judges
    assert "weights" in found.provenance[f"judge {name}"]
    assert write_report(store)
    pages = "".join(file.read_text() for file in results.rglob("*.html"))
    assert "chooser and judge share theirs" in pages


def test_other_settings_are_another_judge_and_compare_says_so(
    results: Path, tiny_pipeline: Path, localizer: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def noted(edits: Any, rows: Any, split: str = "report", judge: str | None = None) -> Any:
        rows = list(rows)
        seen.extend(row["judge"] for row in rows if split == "select")
        return summarize(edits, rows, split, judge)

    monkeypatch.setattr(stage, "summarize", noted)
    again = Path(shutil.copytree(results, tmp_path / "again"))
    judge = by_clip(clip, abstain=1.0, kinds=["style"])
    assert run(sweep(tiny_pipeline, localizer, judge, choose_by="scorer"), again).summary.outcome == "done"
    assert seen
    assert set(seen) == {None}, "the margin was to choose"
    before, rows = (pd.read_parquet(root / "evaluations") for root in (results, again))
    (old,) = before.judge.unique()
    # All is unsure now, so that nothing is left to count.
    assert {item.summary.flipped.of for finding in read_findings(open_store(str(again))).items
            for item in finding.edits if item.summary.chosen} == {0}  # fmt: skip
    new = rows[rows.judge != old]
    assert new.judge.nunique() == 1
    assert set(new.judge_after) == {"unsure"}
    assert set(new.judge_kind) == {"style"}
    assert set(pd.read_parquet(again / "edits").chosen_by) == {"toy-clip"}
    said = {key: (a, b) for key, a, b in compare_results(str(results), str(again)).spec or ()}
    assert said["evaluate.judge.abstain"] == ("0.0", "1.0")
    assert old in str(said["judges of edits"][1])
    editing = read_findings(open_store(str(again))).editing
    assert editing is not None
    assert "chosen by the margin of the scorer toy-clip" in editing.judging


def test_the_name_of_a_judge_follows_from_its_weights_its_settings_and_the_classes(
    tiny_pipeline: Path, localizer: Path, clip: Path, tmp_path: Path
) -> None:
    other, moved = (
        judge_models.other_clip(tmp_path / "second", share=0.03),
        shutil.copytree(clip, tmp_path / "a/second"),
    )
    wanted = [by_clip(clip), by_clip(moved), by_clip(other), by_clip(clip, abstain=0.2), by_clip(clip, kinds=["style"])]
    ids = []
    for judge in wanted:
        found = resolve(sweep(tiny_pipeline, localizer, judge)).judge
        assert found is not None
        ids.append(found.id)
    assert ids[0] == ids[1], "the same weights in another place"
    assert len(set(ids)) == len(wanted) - 1


def test_what_cannot_judge_is_refused_before_anything_is_drawn(
    tiny_pipeline: Path, localizer: Path, clip: Path, tmp_path: Path
) -> None:
    twin = shutil.copytree(judge_models.CLIP, tmp_path / "twin")
    # Other words beside the same weights make no other model.
    (twin / "special_tokens_map.json").write_text("{}")
    pictures = judge_models.references(tmp_path / "pictures", ["lumio", "a shape"])
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "holds the weights of the scorer toy-clip": (by_clip(judge_models.CLIP), {}),
        "twin holds the weights of the scorer": (by_clip(twin), {}),
        "no folder": (by_clip(tmp_path / "gone"), {}),
        "zero_shot needs a model": ("zero_shot", {}),
        "is asked about fact, so that nothing would judge edits of style/velor": (by_clip(clip, kinds=["fact"]), {}),
        "holds a clip model; ocr takes one whose model_type is": (
            {"use": "ocr", "model": str(clip), "kinds": ["style"]}, {},
        ),
        "revision main is given, but no hub id": (by_clip(clip, revision="main"), {}),
        'style has nothing to know "velor" by': (
            {"use": "style", "model": str(clip), "pictures": str(pictures)}, {},
        ),
        "it is judge, but there is none": (None, {"choose_by": "judge"}),
    }  # fmt: skip
    for words, (judge, edit) in cases.items():
        with pytest.raises(LocoError) as error:
            resolve(sweep(tiny_pipeline, localizer, judge, **edit))
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert error.value.loc[:2] in (("evaluate", "judge"), ("edit", "choose_by"))
