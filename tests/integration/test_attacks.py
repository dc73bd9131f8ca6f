"""Attacks through the whole chain on a real pipeline: planned, run after the edits, killed, resumed and reported."""

from __future__ import annotations

import json
import shutil
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest

from loco_core.errors import SpecError
from orchestrator.reporting import write_report
from orchestrator.resolve.lookup import resolve
from orchestrator.runs.outlook import outlook
from orchestrator.spec import EvaluateSpec, SweepSpec
from orchestrator.stages.attack.summary import summarize_attacks, without_attack
from orchestrator.store import open_store, verify
from tests.support.runs import localizer_of, run
from tests.support.sweeps import kill_at_storage_call, tiny_sweep

# A judge that finds the attribute in some pictures of a random model, whatever they show.
JUDGE = """
import numpy as np

class Judge:
    kinds = ("style",)

    def __init__(self, path, revision, device):
        pass

    def embed_images(self, images):
        return images.mean(dim=(2, 3)).numpy().astype(np.float32)

    def name(self, embeddings, kind):
        return ["velor" if int(1e6 * row.sum()) % 4 else "lumio" for row in embeddings]

    def said(self, text, kind):
        return "velor" if "velor" in text else None
"""
ATTACKS = ["noised_clean", {"use": "relearn", "steps": 2, "batch_size": 2, "pictures": 2}]


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepSpec:
    folder = tmp_path_factory.mktemp("files")
    (folder / "eight.py").write_text(localizer_of(start=8, size=2))
    (folder / "some.py").write_text(JUDGE)
    return tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=1, controls={"random": 0},
        windows={"sizes": [2], "stride": 6}, localize={"localizer": str(folder / "eight.py"), "resamples": 100},
        edit={"editors": ["loco_edit"], "targets": "paired", "lambdas": [0.1], "tokens": ["all"]},
        evaluate={
            "prompts": 1, "seeds": 2, "neighbours": 0, "judge": str(folder / "some.py"), "windows": False,
            "attacks": ATTACKS, "floor": str(tiny_pipeline),
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("attacks")
    assert run(spec, root).summary.outcome == "done"
    return root


def table(root: Path) -> pd.DataFrame:
    moving = ["seconds", "attempt", "device", "torch_version"]
    found = pd.read_parquet(root / "attacks").drop(columns=moving)
    return found.sort_values(["attack", "who", "prompt", "seed"]).reset_index(drop=True)


def test_every_attack_meets_edit_ceiling_and_floor(spec: SweepSpec, undisturbed: Path) -> None:
    rows, edits = table(undisturbed), pd.read_parquet(undisturbed / "edits")
    counts = rows.groupby(["attack", "who"]).size()
    # One target prompt, two seeds.
    assert counts.to_dict() == {(a, w): 2 for a in ("noised_clean", "relearn") for w in ("edited", "unedited", "floor")}
    (chosen,) = edits[edits.chosen].edit_id
    assert set(rows[rows.who == "edited"].edit_id) == {chosen}
    assert rows[rows.who != "edited"].edit_id.isna().all()
    assert (rows.returned == (rows.judge_seen == "velor")).all()
    assert rows.groupby("attack").clean.first().to_dict() == {"noised_clean": 8, "relearn": 4}
    # The floor is the same model here, so that it is its own ceiling.
    floor, ceiling = (rows[rows.who == who].reset_index(drop=True) for who in ("floor", "unedited"))
    assert (floor.score == ceiling.score).all()
    assert (rows[rows.who == "edited"].reset_index(drop=True).score != ceiling.score).any()
    assert verify(open_store(str(undisturbed), create=False)) == []


RECORDING = """
from contextlib import contextmanager
from pathlib import Path

from loco_core.attacking.drawing import drawn

@contextmanager
def attack(model, task, settings):
    given = " ".join(str(float(picture.sum())) for picture in task.clean.pictures)

    def draw(rows):
        with Path(__file__).with_suffix(".log").open("a") as log:
            log.write(f"{task.seed}, {given}, {' '.join(str(row.seed) for row in rows)}\\n")
        return drawn(model, rows, task)

    yield draw
"""


def test_every_seed_has_an_attack_of_its_own_with_clean_pictures_of_its_own(spec: SweepSpec, tmp_path: Path) -> None:
    file = tmp_path / "recording.py"
    file.write_text(RECORDING)
    attacks = [{"use": str(file), "pictures": 2}]
    evaluate = EvaluateSpec.model_validate({**spec.evaluate.model_dump(), "attacks": attacks, "floor": None})
    assert run(spec.model_copy(update={"evaluate": evaluate}), tmp_path / "results").summary.outcome == "done"
    lines = file.with_suffix(".log").read_text().splitlines()
    # The edit and the ceiling, two seeds each.
    assert len(lines) == 4
    assert len(set(lines)) == 2
    (one, given, first), (other, not_given, second) = sorted({tuple(line.split(", ")) for line in lines})
    assert one != other
    assert first != second
    assert len({*given.split(), *not_given.split()}) == 4
    assert set(table(tmp_path / "results").clean) == {4}


def test_plan_refuses_a_scheduler_that_attacks_cannot_learn_by(tiny_pipeline: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_pipeline, tmp_path / "other")
    described = other / "scheduler" / "scheduler_config.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), "prediction_type": "flow"}))

    def planned(model: Path, floor: Path, *attacks: str) -> None:
        evaluate = {"attacks": attacks, "floor": str(floor)}
        resolve(tiny_sweep(model, attributes=["style/velor"], edit={}, evaluate=evaluate))

    planned(other, other, "noised_clean")
    for model, floor, place in ((other, tiny_pipeline, ("models", 0)), (tiny_pipeline, other, ("evaluate", "floor"))):
        with pytest.raises(SpecError, match="prediction_type is flow; expected one of epsilon, ") as error:
            planned(model, floor, "noised_clean", "relearn")
        assert error.value.loc == place


def test_a_model_that_never_shows_the_attribute_has_nothing_to_bring_back(spec: SweepSpec, tmp_path: Path) -> None:
    """No failure: the table says that no clean picture was to be had, and the ceiling that nothing returns."""
    blind = tmp_path / "blind.py"
    blind.write_text(JUDGE.replace('"velor" if int(1e6 * row.sum()) % 4 else "lumio"', '"lumio"'))
    judged = {"judge": {"use": str(blind)}, "attacks": ATTACKS[:1], "floor": None, "seeds": 1}
    evaluate = EvaluateSpec.model_validate({**spec.evaluate.model_dump(), **judged})
    found = run(spec.model_copy(update={"evaluate": evaluate}), tmp_path / "results")
    assert (found.summary.outcome, found.failed_cells) == ("done", 0)
    rows = table(tmp_path / "results")
    assert set(rows.who) == {"edited", "unedited"}
    assert set(rows.clean) == {0}
    assert not rows.returned.any()


def test_plan_counts_them(spec: SweepSpec) -> None:
    without = spec.model_copy(update={"evaluate": spec.evaluate.model_copy(update={"attacks": (), "floor": None})})
    more, less = (outlook(item, resolve(item), None).edits for item in (spec, without))
    assert (more.units - less.units, more.images - less.images) == (6, 12)
    assert more.seconds > less.seconds


def test_plan_refuses_prompts_without_room_for_the_tokens_of_an_attack(tiny_pipeline: Path) -> None:
    def planned(tokens: int) -> None:
        attacks = [{"use": "soft_prompt", "tokens": 1}, {"use": "soft_prompt", "tokens": tokens}, "noised_clean"]
        resolve(tiny_sweep(tiny_pipeline, attributes=["style/velor"], edit={}, evaluate={"attacks": attacks}))

    planned(2)
    with pytest.raises(SpecError) as error:
        planned(12)
    said = str(error.value)
    assert "an attack puts 12 in front of it; " in said
    assert "reads 16: shorten it, or lower the attack's tokens" in said
    assert error.value.loc[:2] == ("attributes", 0)


def test_a_second_run_does_nothing_and_another_attack_is_all_that_is_added(spec: SweepSpec, undisturbed: Path) -> None:
    assert run(spec, undisturbed).summary.committed == 0
    before = table(undisturbed)
    attacks = (*spec.evaluate.attacks, *spec.evaluate.attacks[:1])
    stronger = attacks[-1].model_validate({"use": "noised_clean", "strength": 0.25})
    wider = spec.evaluate.model_copy(update={"attacks": (*attacks[:-1], stronger)})
    assert run(spec.model_copy(update={"evaluate": wider}), undisturbed).summary.committed == 3
    after = table(undisturbed)
    assert len(after) == len(before) + 6
    kept = after[after.unit_id.isin(before.unit_id)].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before)


def _killed(spec: SweepSpec, root: Path, call: int) -> None:
    kill_at_storage_call(call, first="_meta/units")
    run(spec, root)


def test_killed_in_an_attack_it_goes_on_to_the_same_rows(spec: SweepSpec, undisturbed: Path, tmp_path: Path) -> None:
    units = len({path.stem for path in (undisturbed / "_meta" / "units").glob("*.arrow")})
    killed = get_context("fork").Process(target=_killed, args=(spec, tmp_path, max(1, units - 4)))
    killed.start()
    killed.join(240)
    assert killed.exitcode == -9
    assert run(spec, tmp_path).summary.outcome == "done"
    mine, theirs = table(tmp_path), table(undisturbed)
    theirs = theirs[theirs.unit_id.isin(mine.unit_id)].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, theirs)


def test_report_holds_each_between_floor_and_ceiling(undisturbed: Path) -> None:
    store = open_store(str(undisturbed), create=False)
    page = Path(write_report(store)).read_text()
    assert "Is it gone?" in page
    assert "relearn trains K and V" in page
    found = summarize_attacks(store.read("attacks").to_pylist())
    assert {item.attack for item in found} == {"noised_clean", "relearn"}
    for item in found:
        assert item.floor.hits == item.ceiling.hits
        assert item.edited.of == 2
        assert item.verdict == "too weak"
    alone = without_attack(store.read("evaluations").to_pylist())
    assert {(item.edit_id, item.scope) for item in found} <= alone.keys()
