"""The public face of the machine: sweeps from files, dicts and keywords; runs that resume; results as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import orchestrator
from loco_core.errors import SpecError, StoreError
from orchestrator.spec import SweepSpec
from orchestrator.store import open_store
from tests.support.fake_runs import run
from tests.support.sweeps import tiny_sweep

KEYS: dict[str, Any] = {
    "name": "face", "models": ["toy"], "attributes": ["style/lumio"], "windows": {"sizes": [2], "stride": 4},
    "prompts": 2, "seeds": 2, "generation": {"steps": 2, "guidance_scale": 3.0, "batch_size": 16},
    "scorer": "toy-clip", "controls": {"random": 0}, "images": "report",
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> orchestrator.Results:
    return orchestrator.run(KEYS, tmp_path_factory.mktemp("face") / "results", "inline", threads=1, progress=False)


def test_a_sweep_is_the_same_from_a_file_a_dict_and_keywords(tmp_path: Path) -> None:
    spec = tiny_sweep(tmp_path)
    file = tmp_path / "sweep.yaml"
    file.write_text(spec.model_dump_json(exclude_unset=True))
    content = spec.model_dump(exclude_unset=True)
    found = [orchestrator.Sweep(file), orchestrator.Sweep(content), orchestrator.Sweep(**content)]
    assert all(sweep.spec == orchestrator.Sweep(str(file)).spec for sweep in found)
    assert orchestrator.Sweep(file, seeds=[5, 7]).spec.seeds == (5, 7)


def test_numbers_of_numpy_tuples_and_paths_are_fine(tmp_path: Path) -> None:
    changes = {"seeds": np.arange(3), "prompts": np.int64(2), "models": ({"id": "mine", "path": tmp_path},)}
    spec: SweepSpec = orchestrator.Sweep(KEYS, **changes).spec
    assert (spec.seeds, spec.prompts, spec.models[0].path) == ((0, 1, 2), 2, str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": 0}, r"^prompts: 0: .*greater than or equal to 1$"),
        ({"models": [{"id": "toy", "dtype": "float31"}]}, r'^models\.0\.dtype: "float31": .*float32'),
        ({"windows": {"size": [1]}}, r"^windows\.size: \[1\]: "),
        ({"scorer": object()}, "what no sweep file can hold"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as error:
        orchestrator.Sweep(KEYS, **changes)
    assert "\n" not in str(error.value)


def test_an_unknown_name_in_a_file_is_said_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(orchestrator.Sweep(KEYS, attributes=["style/lumia"]).spec.model_dump_json(exclude_unset=True))
    for act in (lambda: orchestrator.Sweep(file).plan(), lambda: orchestrator.run(file, tmp_path / "r", "inline")):
        with pytest.raises(SpecError, match=r"sweep\.yaml:1:\d+: .*style/lumia.*did you mean"):
            act()


def test_the_same_call_again_has_nothing_to_do(
    results: orchestrator.Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results.ended is not None
    assert results.ended.summary.rows == len(results.scores()) > 0
    again = orchestrator.run(orchestrator.Sweep(KEYS), results.root, "inline", threads=1, progress=False)
    assert again.ended is not None
    assert (again.ended.summary.outcome, again.ended.summary.rows) == ("done", 0)
    assert capsys.readouterr().out == ""
    orchestrator.run(KEYS, results.root, "inline", threads=1)
    assert "units" in capsys.readouterr().out


def test_tables_are_read_by_columns_and_values(results: orchestrator.Results) -> None:
    scores = results.scores()
    window = results.scores(["window_start", "seed", "clip_score"], control="window", window_start=4)
    expected = scores[(scores.control == "window") & (scores.window_start == 4)]
    pd.testing.assert_frame_equal(
        window.reset_index(drop=True), expected[["window_start", "seed", "clip_score"]].reset_index(drop=True)
    )
    assert window.window_start.dtype == "Int32"
    for act, said in (
        (lambda: results.scores(["clip_scor"]), 'scores has no column "clip_scor"; did you mean "clip_score"'),
        (lambda: results.effects(modell="toy"), 'effects has no column "modell"'),
        (lambda: results.table("score"), 'no table "score"; did you mean "scores"'),
        (lambda: orchestrator.Results("/nowhere/at/all"), "/nowhere/at/all"),
    ):
        with pytest.raises(StoreError, match=said):
            act()


def test_pictures_are_those_that_were_asked_for(results: orchestrator.Results) -> None:
    found = results.pictures(control="window", window_start=4, seed=1)
    assert set(found.seed) == {1}
    assert set(found.window_start) == {4}
    assert all(picture.size == (32, 32) and picture.mode == "RGB" for picture in found.image)
    assert len(results.pictures(3)) == 3


def test_effects_are_drawn_where_they_are(tmp_path: Path) -> None:
    spec = tiny_sweep("x", attributes=["style/velor"], seeds=4, localize={"localizer": "argmin"})
    run(spec, open_store(str(tmp_path)))
    made_up = orchestrator.Results(tmp_path)
    axes = made_up.plot_effects()
    grid, effects = axes.images[0].get_array(), made_up.effects()
    assert effects.effect.notna().all()
    for row in effects.itertuples():
        assert np.isclose(grid[sorted(set(effects.window_size)).index(row.window_size), row.window_start], row.effect)
    ((x, y),) = zip(*axes.lines[0].get_data(), strict=True)
    found = made_up.localizations().iloc[0]
    assert (x, axes.get_yticklabels()[y].get_text()) == (found.window_start, str(found.window_size))
    figure, given = plt.subplots()
    assert made_up.plot_effects("tiny", "style/velor", given) is given
    plt.close(figure)
    with pytest.raises(StoreError, match='no effects of the attribute "style/vela"; did you mean "style/velor"'):
        made_up.plot_effects(attribute="style/vela")


def test_a_notebook_shows_how_far_it_is(results: orchestrator.Results) -> None:
    shown = results._repr_html_()
    assert "<td>style/lumio</td>" in shown
    assert f"{results.status().units} units" in shown
