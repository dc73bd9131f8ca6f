"""Values of the command line in place of a file's, and environment variables in names and paths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loco_core.errors import SpecError
from orchestrator.spec import Source, load_sweep, place
from orchestrator.submit import load_cluster

TEXT = """\
name: first
models: [toy, {id: other, path: here}]
attributes: [style/lumio]
windows: {sizes: [1]}
prompts: 2
seeds: 2
generation: {steps: 4, guidance_scale: 3.0}
scorer: toy-clip
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "sweep.yaml").write_text(TEXT)
    return tmp_path / "sweep.yaml"


def test_values_are_yaml_and_stand_in_place_of_those_of_the_file(path: Path) -> None:
    words = ("seeds=[3, 5]", "generation.steps=20", "models.1.dtype=float16", "edit.lambdas=[0.1]", "name=second")
    spec = load_sweep(Source(path, words))
    assert (spec.name, spec.seeds, spec.generation.steps) == ("second", (3, 5), 20)
    assert spec.generation.guidance_scale == 3.0, "keys that no override names stay"
    assert [model.dtype for model in spec.models] == ["float32", "float16"]
    assert spec.edit is not None
    assert spec.edit.lambdas == (0.1,)
    assert path.read_text() == TEXT


def test_a_key_of_a_merged_map_is_put_in_place_and_the_anchor_stays(path: Path) -> None:
    text = TEXT.replace("[toy, {id: other, path: here}]", "[{<<: &m {dtype: float16}, id: toy}, {<<: *m, id: toy-dit}]")
    path.write_text(text)
    spec = load_sweep(Source(path, ("models.0.dtype=bfloat16",)))
    assert [model.dtype for model in spec.models] == ["bfloat16", "float16"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seeds", "seeds: expected KEY=VALUE such as seeds=16"),
        ("=3", "=3: expected KEY=VALUE"),
        ("sedes=3", "sedes=3: unknown key 'sedes'; expected one of name, "),
        ("prompts=many", 'prompts=many: prompts: "many" is wrong; expected'),
        ("generation.steps=0", "generation.steps=0: generation.steps: 0 is wrong; expected"),
        ("prompts.more=1", "prompts.more=1: prompts holds no keys; expected prompts=..."),
        ("models.7.dtype=float16", "models.7.dtype=float16: models has 2 items"),
        ("seeds=[1, 2", "seeds=[1, 2: "),
        ("seeds=[1, 1]", "seeds=[1, 1]: seeds: seed 1 is given more than once"),
    ],
)
def test_errors_name_the_override(path: Path, word: str, message: str) -> None:
    with pytest.raises(SpecError) as found:
        load_sweep(Source(path, (word,)))
    assert str(found.value).startswith(message), found.value
    assert "\n" not in str(found.value)


def test_what_shows_only_later_is_placed_at_the_override_too(path: Path) -> None:
    assert place(Source(path, ("attributes=[style/nobody]",)), ("attributes", 0)) == "attributes=[style/nobody]"
    assert place(Source(path, ("seeds=3",)), ("attributes", 0)) == f"{path}:3:14"


def test_names_and_paths_hold_environment_variables(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE", "north")
    monkeypatch.setenv("MODELS", str(path.parent / "models"))
    text = TEXT.replace("name: first", 'name: "${env:SITE}-first"').replace("path: here", 'path: "${env:MODELS}/here"')
    path.write_text(f"{text}results: out/${{env:SITE}}\n")
    spec = load_sweep(path)
    assert spec.name == "north-first"
    assert spec.models[1].path == str(path.parent / "models" / "here")
    assert spec.results == str(path.parent / "out" / "north")
    stored = type(spec).model_validate_json(spec.model_dump_json())
    monkeypatch.delenv("SITE")
    assert stored == spec, "what is stored needs no variable any more"


def test_a_cluster_file_names_its_head_and_its_results_by_variables(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEAD", "10.0.0.7")
    monkeypatch.setenv("BUCKET", "s3://mine")
    cluster = path.parent / "cluster.yaml"
    text = TEXT.replace(", {id: other, path: here}", "").replace("[toy]", "[sd15]")
    path.write_text(text)
    cluster.write_text(
        "name: c\nsweep: sweep.yaml\nresults: ${env:BUCKET}/run\ncluster: {address: 'http://${env:HEAD}:8265'}\n"
    )
    loaded = load_cluster(cluster, ("seeds=3", "workers.max=7"))
    assert loaded.spec.cluster.address == "http://10.0.0.7:8265"
    assert (loaded.spec.results, loaded.sweep.results) == ("s3://mine/run", "s3://mine/run")
    assert (loaded.sweep.seeds, loaded.spec.workers.max) == ((0, 1, 2), 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${env:NOT_SET_HERE}", "the environment variable NOT_SET_HERE is not set"),
        ("${USER}", "expected ${env:USER}"),
        ("${env:MY_API_TOKEN}", "looks like a credential"),
        ("${env:LINES_OF_TEXT}", "is no name and no path"),
    ],
)
def test_variables_that_cannot_stand_there_are_one_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "s3cr3t-value")
    monkeypatch.setenv("LINES_OF_TEXT", "a\nb")
    with pytest.raises(SpecError, match=re.escape(message)) as found:
        load_sweep(Source(path, (f"name={text}",)))
    assert "\n" not in str(found.value)
    assert "s3cr3t" not in str(found.value)
