from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import rich

from loco_core.errors import LocalizationError
from loco_core.localization.base import Rule
from loco_core.localization.bench import run_bench, run_planted
from loco_core.localization.localizers import argmin, sequential, window
from loco_core.testing.localizers import SETTINGS, a_table

WINDOW = Rule(window.localize)


def test_window_meets_the_aims_and_argmin_does_not() -> None:
    good = run_bench(WINDOW, "window", SETTINGS, tables=60)
    bad = run_bench(Rule(argmin.localize), "argmin", SETTINGS, tables=60)
    false_localization = good.measures[0], bad.measures[0]
    assert false_localization[0].hits <= 1
    assert false_localization[1].value is not None
    assert false_localization[1].value > 0.7
    power = next(m for m in good.measures if m.name.startswith("power"))
    assert power.value is not None
    assert power.value > 0.85
    assert not bad.passed
    assert sum(count.tables for count in good.outcomes) == 60


def test_sequential_takes_few_images_for_the_answer_of_the_whole_grid() -> None:
    rule = Rule(sequential.localize, sequential.begin)
    report = run_bench(rule, "sequential", SETTINGS, tables=15, reference=WINDOW)
    assert report.savings is not None
    assert report.savings.images < 0.35 * report.savings.all_images
    assert report.savings.same >= 14
    assert report.measures[0].hits <= 1


def test_report_is_reproducible_json_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    one = run_bench(WINDOW, "window", SETTINGS, tables=10, seed=4)
    two = run_bench(WINDOW, "window", SETTINGS, tables=10, seed=4)
    assert one.measures == two.measures
    assert json.loads(one.to_json())["measures"][0]["name"] == one.measures[0].name
    rich.print(*one.parts())
    assert "10 tables, usual" in capsys.readouterr().out


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    table = a_table("single", 0)
    assert table.window is not None
    pq.write_table(table.scores, tmp_path / "one.parquet")
    truth = {"simulated": {"style": {"sites": list(table.window.sites), "outcome": "localized"}}}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path


def test_planted_tables_need_the_exact_set(planted: Path) -> None:
    results = run_planted(planted, WINDOW, SETTINGS)
    assert [r.right for r in results] == [True]
    truth = json.loads((planted / "truth.json").read_text())
    truth["simulated"]["style"]["sites"].append(15)
    (planted / "truth.json").write_text(json.dumps(truth))
    assert not run_planted(planted, WINDOW, SETTINGS)[0].right


def test_truth_of_an_attribute_goes_before_that_of_its_kind(planted: Path) -> None:
    truth = json.loads((planted / "truth.json").read_text())
    truth["simulated"]["style/simulated"] = {"sites": [], "outcome": "absent"}
    (planted / "truth.json").write_text(json.dumps(truth))
    report = run_bench(WINDOW, "window", SETTINGS, tables=1, planted=[planted])
    assert not report.passed
    assert report.planted[0].truth.outcome == "absent"


@pytest.mark.parametrize(("kind", "right"), [("single", False), ("distributed", True)])
def test_where_no_run_of_sites_holds_it_any_outcome_but_a_place_is_right(
    tmp_path: Path, kind: str, right: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(a_table(kind, 0).scores, tmp_path / "one.parquet")
    entry = {"sites": [], "outcome": "not localized", "planted": "parameters"}
    (tmp_path / "truth.json").write_text(json.dumps({"simulated": {"style": entry}}))
    report = run_bench(WINDOW, "window", SETTINGS, tables=1, planted=[tmp_path])
    assert [result.right for result in report.planted] == [right]
    rich.print(*report.parts())
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ('{"simulatd": {}}', 'no truth for model "simulated"; did you mean "simulatd"'),
        ('{"simulated": {"object": {}}}', 'no truth for "style"'),
        ('{"simulated": {"style": {"sites": [1]}}}', "expected"),
        ("[1]", "expected"),
        ("{", "not readable as JSON"),
    ],
)
def test_broken_truth_is_one_clean_line(planted: Path, truth: str, message: str) -> None:
    (planted / "truth.json").write_text(truth)
    with pytest.raises(LocalizationError) as error:
        run_planted(planted, WINDOW, SETTINGS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_tables_and_truncated_tables_are_named(planted: Path) -> None:
    whole = (planted / "one.parquet").read_bytes()
    (planted / "one.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LocalizationError, match=r"one\.parquet: not a readable Parquet"):
        run_planted(planted, WINDOW, SETTINGS)
    (planted / "one.parquet").unlink()
    with pytest.raises(LocalizationError, match=r"no \.parquet tables"):
        run_planted(planted, WINDOW, SETTINGS)
