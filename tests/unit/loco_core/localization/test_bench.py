from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rich

from loco_core.errors import LocalizationError
from loco_core.localization.base import Rule
from loco_core.localization.bench import run_bench, run_planted
from loco_core.localization.bench.planted import (
    CARD_FILE,
    TRACES,
    TRUTH_FILE,
    PlantedResult,
    PlantedTruth,
    checksum,
    rates,
    read_card,
    write_card,
)
from loco_core.localization.localizers import argmin, attention_contribution, sequential, window
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


def test_a_result_says_what_the_table_lacks(tmp_path: Path, planted: Path) -> None:
    whole = pa.concat_tables([a_table("redundant", 0).scores, a_table("redundant", 0).complement_scores])
    without = pq.read_table(planted / "one.parquet")
    for rows, lacks in ((whole, False), (without, True)):
        pq.write_table(rows, tmp_path / "one.parquet")
        (result,) = run_planted(tmp_path, WINDOW, SETTINGS)
        assert ("the table lacks" in result.reason) == lacks


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


def a_result(sites: tuple[int, ...], true: tuple[int, ...], planted: str = "parameters") -> PlantedResult:
    changed = (*true, 7) if planted == "parameters" else None
    truth = PlantedTruth(true, "localized" if true else "not localized", planted, changed)
    said = "localized" if sites else "inconclusive"
    return PlantedResult("t", "m", "style/a", truth, said, sites, sites == true, "", 1, 2)


def test_rates_count_sites_and_tables_a_way_of_planting_at_a_time() -> None:
    some = [
        a_result((1, 2), (1, 2)), a_result((3,), (3, 4)), a_result((), (5,)), a_result((9,), (6,)),
        a_result((), ()), a_result((7,), ()), a_result((1,), (1,), "captions"),
    ]  # fmt: skip
    by_place, by_caption = rates(some)
    assert (by_place.planted, by_caption.planted) == ("parameters", "captions")
    assert (by_place.precise, by_place.recalled) == ((3, 4), (3, 6))
    assert (by_place.exact, by_place.false) == ((1, 4), (1, 2))
    assert (by_place.changed, by_caption.changed) == ((4, 5), (0, 0))
    assert (by_caption.exact, by_caption.false) == ((1, 1), (0, 0))


@pytest.mark.parametrize(
    ("named", "right", "recalled"),
    [((2, 3), (2, 3), (2, 2)), ((2, 3, 4), (2, 3, 4), (3, 3)), ((2, 4), (2, 4), (2, 2)), ((3,), (2, 3), (1, 2))],
)
def test_a_right_set_inside_another_is_as_right(
    named: tuple[int, ...], right: tuple[int, ...], recalled: tuple[int, int]
) -> None:
    truth = PlantedTruth((2, 3, 4), "localized", "parameters", (2, 3, 4), ((2, 3), (2, 4)))
    assert truth.nearest(named) == right
    (rate,) = rates([PlantedResult("t", "m", "style/a", truth, "localized", named, True, "", 1, 2)])
    assert rate.recalled == recalled
    assert rate.exact == (int(named == right), 1)


def test_plants_by_place_give_rates_and_no_verdict(planted: Path) -> None:
    truth = json.loads((planted / "truth.json").read_text())
    entry = {"sites": [15], "outcome": "localized", "planted": "parameters", "changed": [15, *range(9)]}
    truth["simulated"]["style"] = entry
    (planted / "truth.json").write_text(json.dumps(truth))
    report = run_bench(WINDOW, "window", SETTINGS, tables=1, planted=[planted])
    assert [result.right for result in report.planted] == [False]
    assert report.passed
    (rate,) = json.loads(report.to_json())["planted_rates"]
    assert rate["exact"] == [0, 1]
    assert report.planted[0].truth.changed == (*range(9), 15)
    found = set(report.planted[0].sites)
    assert rate["changed"] == [len(found & {*range(9), 15}), len(found)]


def test_a_set_is_cited_by_a_checksum_of_what_lies_there(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_card(planted) is None
    write_card(planted, "mine", 3)
    card = {"name": "mine", "version": 3, "sha256": checksum(planted)}
    report = run_bench(WINDOW, "window", SETTINGS, tables=1, planted=[planted])
    rich.print(*report.parts())
    assert f"mine 3 (SHA-256 {card['sha256'][:12]})" in capsys.readouterr().out
    assert json.loads(report.to_json())["planted_sets"] == [card]
    (planted / TRACES).mkdir()
    (planted / TRACES / "one.parquet").write_bytes(b"")
    with pytest.raises(LocalizationError, match="the files beside it have the checksum"):
        read_card(planted)
    (planted / TRUTH_FILE).unlink()
    with pytest.raises(LocalizationError, match="the files beside it have the checksum"):
        read_card(planted)
    (planted / CARD_FILE).write_text("{}")
    with pytest.raises(LocalizationError, match=r'expected \{"name"'):
        read_card(planted)


def test_a_localizer_that_reads_traces_is_given_those_of_planted_tables_alone(planted: Path) -> None:
    rule = Rule(attention_contribution.localize, bounds=False)
    assert run_planted(planted, rule, SETTINGS, "attention_contribution") == ()
    scores = pq.read_table(planted / "one.parquet")
    names = ("model", "attribute", "attribute_kind", "mode")
    told = {name: str(scores[name][0].as_py()) for name in names}
    rows = [
        {
            **told, "method": method, "control": "contribution", "component": "denoiser", "layer": layer,
            "layer_name": f"l{layer}", "prompt_id": f"p{prompt}", "template_id": "", "seed": seed,
            "value": 9.0 if (layer == 5) == (method == "attention_contribution") else 1.0, "status": "ok",
        }
        for method in ("attention_contribution", "another")
        for layer in range(9) for prompt in range(8) for seed in range(4)
    ]  # fmt: skip
    (planted / TRACES).mkdir()
    pq.write_table(pa.Table.from_pylist(rows), planted / TRACES / "one.parquet")
    truth = json.loads((planted / "truth.json").read_text())
    truth["simulated"]["style"] = {"sites": [4, 5], "outcome": "localized", "planted": "parameters"}
    (planted / "truth.json").write_text(json.dumps(truth))
    report = run_bench(rule, "attention_contribution", SETTINGS, planted=[planted], tracer="attention_contribution")
    assert report.tables == 0
    (result,) = report.planted
    assert (result.outcome, 5 in result.sites, len(result.sites), result.images) == ("localized", True, 2, 32)
    assert run_planted(planted, rule, SETTINGS, "causal_tracing") == ()


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
