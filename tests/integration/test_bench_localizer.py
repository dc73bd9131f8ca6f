"""``bench-localizer`` as a person meets it: one localizer, or several side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loco_core.localization.bench.planted import write_card
from loco_core.toyworld import PLANTED_TABLES
from tests.support.sweeps import Command


def test_a_bench_without_traces_says_so(command: Command) -> None:
    code, _, error = command("bench-localizer", "causal_tracing", "--planted", PLANTED_TABLES)
    assert (code, error.count("\n")) == (2, 1)
    assert "causal_tracing reads traces" in error


@pytest.fixture
def traced_tables(tmp_path: Path) -> Path:
    """Two bundled planted tables, one of them with traces, and what the set is cited by."""
    folder = tmp_path / "set"
    (folder / "traces").mkdir(parents=True)
    names = ("toy-planted-a-style-lumio-0.parquet", "toy-planted-a-object-star-0.parquet")
    for name in (*names, "truth.json"):
        shutil.copy(PLANTED_TABLES / name, folder)
    about = {
        "model": "toy-planted-a", "attribute": "style/lumio", "attribute_kind": "style", "mode": "remove",
        "method": "attention_contribution", "control": "contribution", "component": "denoiser", "template_id": "",
        "status": "ok", "seconds": 0.5,
    }  # fmt: skip
    rows = [
        {**about, "layer": at, "layer_name": f"l{at}", "prompt_id": "p", "seed": seed, "value": float(at in (12, 13))}
        for at in range(16) for seed in range(2)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "traces" / names[0])
    write_card(folder, "mine", 2)
    return folder


def test_a_localizer_that_reads_traces_is_shown_with_what_it_has(command: Command, traced_tables: Path) -> None:
    bench = ("bench-localizer", "attention_contribution", "--planted", traced_tables)
    for asked in ((), ("--condition", "all"), ("--condition", "3-prompts")):
        code, out, _ = command(*bench, *asked)
        assert code == 0
        assert "0 tables" not in out
        assert "what was said of what" not in out
        assert "tables of all conditions and 1 of 2 planted tables, as they have no traces" in out
        assert "tables of mine 2 (SHA-256 " in out
    code, _, error = command("bench-localizer", "window", "--screen", 8)
    assert (code, error.count("\n")) == (2, 1)
    assert "given the whole grid" in error


def test_methods_stand_side_by_side_those_of_others_too(command: Command, traced_tables: Path, tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(FIRST)
    code, out, _ = command("bench-localizer", "all", tmp_path / "first.py", "--planted", traced_tables)
    assert code == 0
    lines = {cells[1]: cells for cells in (line.split("\t") for line in out.splitlines()) if cells[0] == "captions"}
    assert set(lines) == {"window", "sequential", "argmin", "attention_contribution", "first"}
    assert lines["first"][2:7] == ["2", "0 of 2 (0-66)", "0 of 3 (0-56)", "0 of 2 (0-66)", "-"]
    # Three adjacent sites of sixteen: two of them are right.
    assert lines["attention_contribution"][2:] == [
        "1", "2 of 3 (21-94)", "2 of 2 (34-100)", "0 of 1 (0-79)", "-", "2", "16.0"
    ]  # fmt: skip
    assert (
        "left out, as these tables have no traces to read: attention_contribution 1 of 2, causal_tracing 2 of 2" in out
    )
    said = json.loads(
        command("bench-localizer", "argmin", tmp_path / "first.py", "--planted", traced_tables, "--json")[1]
    )
    assert [card["name"] for card in said["planted_sets"]] == ["mine"]
    assert [len(found["planted"]) for found in said["methods"].values()] == [2, 2]
    for words in (("window", "window"), ("all", "--condition", "usual")):
        code, _, error = command("bench-localizer", *words, "--planted", traced_tables)
        assert (code, error.count("\n")) == (2, 1)


FIRST = """
from loco_core.localization.base import Localization
from loco_core.localization.score_table import read_scores
from loco_core.types import Window


def localize(scores, settings, site_names=()):
    return Localization.of(read_scores(scores, site_names), "localized", "the first of all", best=Window(0, 1))
"""
