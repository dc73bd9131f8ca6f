"""``schema`` as people use it: to read what a column means, and to give an editor a schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from orchestrator.store.schemas import TABLES
from tests.support.sweeps import Command


@pytest.mark.parametrize("kind", ["sweep", "cluster"])
def test_it_prints_the_json_schema_of_a_file(command: Command, kind: str) -> None:
    code, out, err = command("schema", kind)
    assert (code, err) == (0, "")
    Draft202012Validator.check_schema(json.loads(out))
    assert not Draft202012Validator(json.loads(out)).is_valid({"unheard_of": 1})


@pytest.mark.parametrize("table", TABLES)
def test_it_lists_the_columns_of_every_table(command: Command, table: str) -> None:
    code, out, err = command("schema", table, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["column"] for row in rows] == TABLES[table].names
    assert [row["type"] for row in rows] == [str(field.type) for field in TABLES[table]]
    assert all(row["unit"] and row["meaning"] for row in rows)


def test_in_a_pipe_it_is_tab_separated(command: Command) -> None:
    header, *rows = [line.split("\t") for line in command("schema", "effects")[1].splitlines()]
    assert header == ["column", "type", "unit", "meaning"]
    assert [row[0] for row in rows] == TABLES["effects"].names
    assert {len(row) for row in rows} == {4}


@pytest.mark.parametrize("kind", [None, "aws", "gcp", "onprem", "slurm", "kuberay", "skypilot"])
def test_files_that_init_writes_name_a_schema_that_accepts_them(
    command: Command, tmp_path: Path, kind: str | None
) -> None:
    assert command("init", *([kind] if kind else []), "--folder", tmp_path)[0] == 0
    files = [path for path in tmp_path.glob("*.yaml") if path.name in ("sweep.yaml", "cluster.yaml")]
    assert len(files) == (2 if kind else 1)
    for path in files:
        text = path.read_text()
        address = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
        Draft202012Validator(json.loads((path.parent / address).read_text())).validate(yaml.safe_load(text))


def test_without_a_name_it_lists_what_there_is(command: Command) -> None:
    rows = json.loads(command("schema", "--json")[1])
    assert [row["name"] for row in rows] == ["sweep", "cluster", *TABLES]
    assert all(row["about"] for row in rows)
    assert "localizations" in command("schema")[1]


def test_a_wrong_name_gets_a_hint(command: Command, tmp_path: Path) -> None:
    assert command("schema", "score")[::2] == (2, "error: there is no schema 'score'; did you mean \"scores\"?\n")
