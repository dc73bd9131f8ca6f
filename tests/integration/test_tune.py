"""``tune`` on a real pipeline and a real Ray: trials, their table, and the edit that comes of the best."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from loco_core.types import Window
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.backends.ray.search import RayTuneSearch
from orchestrator.spec import EditSpec
from orchestrator.stages.tune.stage import Space
from orchestrator.store import open_store, verify
from tests.support.runs import run
from tests.support.sweeps import Command, tiny_sweep

TRIALS = 3


@pytest.fixture(scope="module")
def swept(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tune")
    spec = tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=1, controls={"random": 0},
        windows={"sizes": [2], "stride": 6},
        edit={"preserve": 2, "max_neighbour_loss": 0.5},
        evaluate={"prompts": 1, "seeds": 4, "neighbours": 1, "judge": "toy-judge", "windows": False},
    )  # fmt: skip
    assert run(spec, root).summary.outcome == "done"
    return root


def test_a_search_writes_its_trials_and_measures_the_best_edit(swept: Path, command: Command) -> None:
    code, out, err = command("tune", swept, "--trials", TRIALS, "--workers", 1, "--editor", "loco_edit",
                             "--editor", "neurons")  # fmt: skip
    assert (code, err) == (0, "")
    assert f"{TRIALS} trials" in out
    assert "Configuration for experiment" not in out
    trials, edits = pd.read_parquet(swept / "trials"), pd.read_parquet(swept / "edits")
    assert len(trials) == TRIALS == trials.trial.nunique()
    assert set(trials.seeds) <= {1, 2, 4}
    assert (trials.stopped == (trials.seeds < 4)).all()
    for _, trial in trials.iterrows():
        expected = trial.flipped if trial.neighbour_loss <= 0.5 else -trial.neighbour_loss
        assert trial.objective == expected
        assert trial.window_start + trial.window_size <= 16
        assert pd.isna(trial["lambda"]) == (trial.editor == "neurons") != pd.isna(trial.neurons)
    (best,) = trials[trials.best].itertuples()
    assert best.objective == trials[~trials.stopped].objective.max()
    (chosen,) = edits[edits.chosen].itertuples()
    assert chosen.edit_id == best.edit_id
    assert chosen.localization.endswith("tuned")
    assert {"placebo", "random"} & set(edits.scope)
    rows = pd.read_parquet(swept / "evaluations")
    assert set(rows[(rows.edit_id == best.edit_id)].split) == {"select", "report"}
    assert verify(open_store(str(swept))) == []


def test_a_search_stops_those_that_fall_behind_and_closes_in_on_the_best() -> None:
    backend = RayBackend(lambda model: None, workers=1, threads=1)  # type: ignore[arg-type, return-value]
    try:
        space = Space(("loco_edit",), Window(4, 2), 16, 4, EditSpec(preserve=0))
        search = RayTuneSearch(space, trials=32, concurrent=4, seeds=8, seed=1)
        search.start()
        reached: dict[str, int] = {}
        strengths: list[float] = []
        deadline = time.monotonic() + 120
        while not search.over():
            assert time.monotonic() < deadline
            for request in search.take():
                assert request.seeds in (1, 2, 4, 8)
                assert request.window == Window(4, 2)
                if request.trial not in reached:
                    strengths.append(request.settings.strength)
                reached[request.trial] = request.seeds
                # The best lambda is 0.1.
                search.answer(request.trial, 1 - abs(math.log10(request.settings.strength) + 1) / 3)
            time.sleep(0.05)
    finally:
        search.stop()
        backend.shutdown()
    assert len(reached) == 32
    assert sum(seeds == 1 for seeds in reached.values()) >= 2
    assert sum(seeds == 8 for seeds in reached.values()) <= 16
    # The first ten are drawn blindly.
    early, late = (np.abs(np.log10(part) + 1).mean() for part in (strengths[:10], strengths[-10:]))
    assert late < early


def test_what_goes_wrong_is_one_line(swept: Path, command: Command) -> None:
    for words, message in (
        (["--attribute", "style/velro"], 'no attribute "style/velro"; did you mean "style/velor"?'),
        (["--window", "15,4"], "a window of 4 starts at 12 or before"),
        (["--editor", "loco_edti"], "loco_edit"),
    ):
        code, _, err = command("tune", swept, *words)
        assert code == 2
        assert message in err
