"""``show`` and ``compare``, on results of a worker that needs no model: sites 4 and 5 hold the attribute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.backends.inline import InlineBackend
from orchestrator.cli.show import bars
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Backend
from orchestrator.store import open_store
from orchestrator.worker import WorkerSettings
from tests.support.sweeps import Command, FakeWorker, fake_resolved, tiny_sweep


def make(root: Path, **changes: Any) -> Path:
    spec = tiny_sweep("x", attributes=["style/velor"], prompts=4, windows={"sizes": [1, 2]}, **changes)

    def backend(settings: WorkerSettings) -> Backend:
        return InlineBackend(lambda model: FakeWorker(settings, model, lambda: open_store(settings.results)), threads=1)

    run_sweep(
        spec, str(root), backend, on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch(),
        resolved=fake_resolved(spec),
    )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("results") / "first", seeds=8)


def test_bars_show_effects_from_0_to_1() -> None:
    assert bars([0.0, 0.5, 1.0, -0.2, 1.3, None]) == "▁▅█▁█·"


def test_show_draws_a_line_per_window_size(command: Command, first: Path) -> None:
    code, out, _ = command("show", first, "style/velor")
    header, one, two = (line.split("\t") for line in out.splitlines())
    assert code == 0
    assert header == ["model", "size", "effect by start", "best", "effect", "outcome"]
    assert one[:2] == ["tiny", "1"]
    assert one[-1] == "", "nothing is found at one site"
    assert two[1:4] == ["2", f"0 {'▁' * 4}█{'▁' * 10} 14", "4-5"]
    assert two[-1] == "localized"
    (_, profile) = json.loads(command("show", first, "style/velor", "--json")[1])
    assert profile["effect"] == pytest.approx(1, abs=0.05)
    assert profile["low"] < profile["effect"] < profile["high"]
    assert len(profile["effects"]) == len(profile["starts"]) == 15


def test_report_opens_the_page_that_it_has_written(
    command: Command, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: not opened.append(address))
    assert command("report", first, "--open") == (0, f"{first}/report.html\n", "")
    assert opened == [(first / "report.html").as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    code, out, err = command("report", first, "--open")
    assert (code, out, err.count("\n")) == (2, f"{first}/report.html\n", 1)
    assert "no browser was found" in err


def test_show_of_what_is_not_there_is_one_line(command: Command, first: Path) -> None:
    for words, expected in (
        (("style/veelor",), 'did you mean "style/velor"'),
        (("style/velor", "--model", "other"), "no effects of style/velor in other"),
    ):
        code, out, err = command("show", first, *words)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert expected in err


def test_the_same_prompts_and_seeds_are_compared_pair_by_pair(command: Command, first: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", seeds=8, name="other", localize={"resamples": 200})
    found = json.loads(command("compare", first, other, "--json")[1])
    (item,) = found["attributes"]
    assert item["first"] == item["second"] == {
        "outcome": "localized in 4 prompts", "window": {"start": 4, "size": 2}
    }  # fmt: skip
    (difference,) = item["differences"]
    assert difference["paired"]
    assert difference["low"] == difference["difference"] == difference["high"] == 0, "the pictures are the same"
    assert found["spec"] == [["localize.resamples", "100", "200"], ["name", '"tiny"', '"other"']]


def test_other_seeds_are_compared_as_independent(command: Command, first: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", seeds=[20, 21, 22, 23])
    found = json.loads(command("compare", first, other, "--json")[1])
    (difference,) = found["attributes"][0]["differences"]
    assert not difference["paired"]
    assert difference["low"] < difference["difference"] < difference["high"]
    assert difference["difference"] == pytest.approx(difference["second"] - difference["first"])
    code, out, _ = command("compare", first, other)
    assert code == 0
    assert "unpaired" in out
    assert "seeds\t[0, 1, 2, 3, 4, 5, 6, 7]\t[20, 21, 22, 23]" in out


def test_results_without_pictures_of_all_sites_are_compared_as_well(
    command: Command, first: Path, tmp_path: Path
) -> None:
    other = make(tmp_path / "other", seeds=8, controls={"all_sites": False})
    code, out, err = command("compare", first, other, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["attributes"][0]["differences"][0]["paired"]


def test_tables_without_a_sweep_are_not_said_to_have_the_same(command: Command, first: Path, tmp_path: Path) -> None:
    pd.read_parquet(first / "scores").to_parquet(tmp_path / "scores.parquet")
    code, out, err = command("compare", tmp_path / "scores.parquet", tmp_path / "scores.parquet")
    assert (code, err) == (0, "")
    assert "what differs in the sweeps is not known" in out
