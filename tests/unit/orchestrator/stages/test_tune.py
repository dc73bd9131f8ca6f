"""What a search asks for and gets, with made-up measurements: no model, no Ray."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loco_core.editing.base import EditSettings
from loco_core.errors import SpecError
from loco_core.types import Window
from orchestrator.scheduler.protocol import Settled, Unit, UnitReport
from orchestrator.spec import EditSpec
from orchestrator.stages.base import StageContext
from orchestrator.stages.edit.plan import Evaluation, Fit, PlannedEdit, Probe
from orchestrator.stages.tune.stage import FAILED, Request, Space, TuneStage, check_searchable, objective
from orchestrator.store import Store, make_table
from orchestrator.store.testing import MemoryBlobs
from tests.support.sweeps import fake_resolved, tiny_sweep

SPEC = tiny_sweep(
    "x", attributes=["style/velor"], prompts=1, edit={"max_neighbour_loss": 0.25},
    evaluate={"prompts": 1, "seeds": 2, "neighbours": 1},
    # A unit a picture: what failed with one seed is what is lacking with two.
    generation={"steps": 2, "guidance_scale": 3.0, "batch_size": 1},
)  # fmt: skip
WINDOW = Window(4, 2)
Flips = Callable[[PlannedEdit, Probe], bool]


class Asked:
    """A search whose trials are all known beforehand: each asks for one seed, then for both."""

    def __init__(self, strengths: dict[str, float]) -> None:
        self._new = [self._request(name, strength, 1) for name, strength in strengths.items()]
        self._strengths, self.answers, self.started = strengths, list[tuple[str, float]](), False

    def _request(self, name: str, strength: float, seeds: int) -> Request:
        return Request(name, EditSettings(tokens="all", strength=strength), WINDOW, seeds)

    def start(self) -> None:
        self.started = True

    def take(self) -> list[Request]:
        new, self._new = self._new, []
        return new

    def answer(self, trial: str, found: float) -> None:
        if sum(name == trial for name, _ in self.answers) == 0:
            self._new.append(self._request(trial, self._strengths[trial], 2))
        self.answers.append((trial, found))

    def over(self) -> bool:
        return not self._new

    def stop(self) -> None: ...


def committed(store: Store, unit: Unit, flips: Flips) -> None:
    """Commits what a worker would have measured."""
    payload = unit.payload
    if isinstance(payload, Fit) and not isinstance(payload, Evaluation):
        rows = [_fit(unit, edit) for edit in payload.edits]
        store.commit_unit(unit.unit_id, {"fits": make_table("fits", rows)}, "a")
        return
    assert isinstance(payload, Evaluation)
    rows = [_row(unit, edit, probe, flips) for edit in payload.edits for probe in payload.probes]
    store.commit_unit(unit.unit_id, {"evaluations": make_table("evaluations", rows)}, "a")


def _fit(unit: Unit, edit: PlannedEdit) -> dict[str, Any]:
    return {
        "unit_id": unit.unit_id, "edit_id": edit.edit_id, "model": unit.model, "attribute": unit.payload.attribute.key,
        "attribute_kind": unit.payload.attribute.kind, "editor": edit.settings.editor, "scope": edit.scope,
        "site_indices": list(edit.sites), "localization": unit.payload.localization, "neighbours": ["style/lumio"],
    }  # fmt: skip


def _row(unit: Unit, edit: PlannedEdit, probe: Probe, flips: Flips) -> dict[str, Any]:
    lost = probe.role == "neighbour" and edit.settings.strength > 1
    return {
        "unit_id": unit.unit_id, "edit_id": edit.edit_id, "model": unit.model, "attribute": unit.payload.attribute.key,
        "editor": edit.settings.editor, "scope": edit.scope, "split": unit.payload.split, "prompt_role": probe.role,
        "prompt": probe.record.prompt, "clip_text": probe.record.score_text, "seed": probe.seed,
        "judge_kind": unit.payload.attribute.kind, "judge_said": "x", "judge_before": "x",
        "judge_after": "y" if lost else "x", "flipped": flips(edit, probe), "status": "ok",
        "margin_texts": list(probe.record.against),
    }  # fmt: skip


def search(
    strengths: dict[str, float], flips: Flips, *, failing: Callable[[Unit], bool] = lambda unit: False
) -> tuple[TuneStage, Asked, Store, int]:
    """Runs a search until it asks for the best edit; returns how many units it took, too."""
    store = Store(MemoryBlobs())
    asked = Asked(strengths)
    context = StageContext(store=store, spec=SPEC, resolved=fake_resolved(SPEC), sweep_id="s")
    stage = TuneStage(context, "style/velor", asked, 0)
    todo, known = stage.begin(), set[str]()
    for _ in range(100):
        settled = []
        # As the scheduler does: a unit that it knows is not run again.
        for unit in [unit for unit in todo if unit.unit_id not in known]:
            known.add(unit.unit_id)
            failed = failing(unit)
            if not failed:
                committed(store, unit, flips)
            settled.append(Settled(unit, UnitReport(unit.unit_id, 1, "failed" if failed else "committed")))
        todo = stage.settled(settled) if settled else []
        more = stage.asked()
        context.side.wait()
        more = None if more is None else [*more, *context.side.take()]
        if more is None or any(not isinstance(unit.payload, Evaluation) for unit in more):
            return stage, asked, store, len(known)
        todo += more
    raise AssertionError("the search hangs")


def near(edit: PlannedEdit, probe: Probe) -> bool:
    return abs(math.log10(edit.settings.strength) + 1) < 0.5


def test_the_best_trial_is_the_most_effective_that_spares_the_neighbours() -> None:
    stage, asked, store, _ = search({"a": 0.001, "b": 0.1, "c": 10.0}, lambda edit, _: edit.settings.strength > 0.01)
    assert asked.started
    assert stage.best is not None
    assert stage.best.request.trial == "b"
    assert dict(asked.answers) == {"a": 0.0, "b": 1.0, "c": -1.0}
    rows = {row["trial"]: row for row in store.read("trials").to_pylist()}
    assert [rows[name]["best"] for name in "abc"] == [False, True, False]
    assert {row["seeds"] for row in rows.values()} == {2}
    assert rows["c"]["neighbour_loss"] == 1.0


def test_trials_of_equal_settings_are_measured_once_and_both_answered() -> None:
    _, asked, _, once = search({"a": 0.1}, near)
    _, both, _, twice = search({"a": 0.1, "b": 0.1}, near)
    assert twice == once
    assert [name for name, _ in both.answers] == ["a", "b", "a", "b"]
    assert len(asked.answers) == 2


def test_a_unit_that_failed_is_not_waited_for_again() -> None:
    def failing(unit: Unit) -> bool:
        payload = unit.payload
        return isinstance(payload, Evaluation) and any(edit.settings.strength == 0.5 for edit in payload.edits)

    stage, asked, _, _ = search({"a": 0.5}, near, failing=failing)
    assert {found for _, found in asked.answers} == {FAILED}
    assert stage.best is None


def test_where_nothing_can_be_fitted_the_search_does_not_begin() -> None:
    stage, asked, _, _ = search({"a": 0.5}, near, failing=lambda unit: True)
    assert not asked.started
    assert stage.asked() is None


@pytest.mark.parametrize(("flipped", "loss", "expected"), [(0.8, 0.1, 0.8), (0.8, 0.1000001, -0.1000001), (0, 0, 0)])
def test_whatever_spoils_too_much_is_worse_than_what_does_nothing(flipped: float, loss: float, expected: float) -> None:
    assert objective(flipped, loss, 0.1) == expected


def test_any_editor_with_a_search_space_is_searched(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from loco_core.editing.base import LAMBDA, EditorInfo\n"
        "from dataclasses import replace\n"
        "INFO = EditorInfo(settings=(replace(LAMBDA, span=(1.0, 2.0)),))\n"
        "def edit(model, target, settings): ...\n"
    )
    check_searchable([str(mine), "loco_edit", "neurons"])
    with pytest.raises(SpecError, match="uce has no settings to search; expected loco_edit or neurons"):
        check_searchable(["uce"])
    space = Space((str(mine), "loco_edit"), WINDOW, 16, 4, EditSpec(preserve=3))
    trial = Proposed(str(mine))
    space.propose(trial)
    # Both have a lambda, and search it in different ranges.
    assert trial.asked == {"editor", f"{mine} lambda"}
    settings = space.request("a", {"editor": str(mine), f"{mine} lambda": 1.5}, 1).settings
    assert (settings.editor, settings.strength, settings.preserve) == (str(mine), 1.5, 3)
    alone = Space(("loco_edit", "neurons"), None, 16, 4, EditSpec())
    for editor, wanted in (("loco_edit", {"tokens", "lambda"}), ("neurons", {"neuron_tokens", "neurons"})):
        trial = Proposed(editor)
        alone.propose(trial)
        assert trial.asked == {"editor", "size", "start", *wanted}


class Proposed:
    """An Optuna trial that takes one editor."""

    def __init__(self, editor: str) -> None:
        self.editor, self.asked = editor, set[str]()

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        self.asked.add(name)
        return self.editor if name == "editor" else choices[0]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        self.asked.add(name)
        return low

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.asked.add(name)
        return low
