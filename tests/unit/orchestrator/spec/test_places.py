"""Every key that names a place, in every way in which places are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from loco_core.editing.base import EditSettings
from loco_core.errors import SpecError
from loco_core.localization.base import LocalizeSettings
from orchestrator.spec import SweepSpec, load_sweep
from orchestrator.spec.places import anchored, name_of
from orchestrator.stages.base import sweep_id
from orchestrator.stages.edit.candidates import planned_edit
from orchestrator.submit import load_cluster
from tests.support.sweeps import fake_resolved, tiny_sweep

BASE: dict[str, Any] = {"name": "s", "models": [{"id": "toy"}], "attributes": ["style/lumio"], "scorer": "toy-clip"}
RECORD = {"prompt": "a", "donor": "b", "score_text": "c", "donor_text": "d", "content_text": "e"}
INLINE = {"kind": "style", "name": "x", "mode": "remove", "records": [RECORD]}


def of_models(spec: SweepSpec) -> str | None:
    return spec.models[0].path


KEYS: dict[str, tuple[Any, Any]] = {
    "results": (lambda at: {"results": at}, lambda spec: spec.results),
    "model": (lambda at: {"models": [{"id": "m", "path": at}]}, of_models),
    "configuration": (
        lambda at: {"models": [{"id": "m", "path": "/x.safetensors", "config": at}]},
        lambda spec: spec.models[0].config,
    ),
    "second stage": (
        lambda at: {"models": [{"id": "m", "super_resolution": at}]},
        lambda spec: spec.models[0].super_resolution.path,
    ),
    "second stage, in full": (
        lambda at: {"models": [{"id": "m", "super_resolution": {"path": at}}]},
        lambda spec: spec.models[0].super_resolution.path,
    ),
    "scorer": (lambda at: {"scorer": at}, lambda spec: spec.scorer),
}
FILES: dict[str, tuple[Any, Any]] = {
    "scorer": (lambda at: {"scorer": at}, lambda spec: spec.scorer),
    "localizer": (lambda at: {"localize": {"localizer": at}}, lambda spec: spec.localize.localizer),
    "beside": (lambda at: {"localize": {"compare": ["argmin", at]}}, lambda spec: spec.localize.compare[1]),
    "editor": (lambda at: {"edit": {"editors": [at]}}, lambda spec: spec.edit.editors[0]),
    "lambdas": (
        lambda at: {"edit": {"editors": [at], "method_lambdas": {at: [1]}}},
        lambda spec: next(iter(spec.edit.method_lambdas)),
    ),
    "texts": (
        lambda at: {"attributes": [{**INLINE, "published": {at: {"keys": ["k"], "anchors": ["a"]}}}], "prompts": 1},
        lambda spec: next(iter(spec.attributes[0].published)),
    ),
}
WEIGHTS: dict[str, tuple[Any, Any]] = {
    "single file": (lambda at: {"models": [{"id": "m", "path": at}]}, of_models),
    "LoRA": (lambda at: {"models": [{"id": "m", "loras": [at]}]}, lambda spec: spec.models[0].loras[0].path),
    "LoRA, in full": (
        lambda at: {"models": [{"id": "m", "loras": [{"path": at, "scale": 2}]}]},
        lambda spec: spec.models[0].loras[0].path,
    ),
    "textual inversion": (
        lambda at: {"models": [{"id": "m", "textual_inversions": [{"path": at, "token": "<x>"}]}]},
        lambda spec: spec.models[0].textual_inversions[0].path,
    ),
}
WAYS = {
    "~/far/{}": "{home}/far/{}", "./{}": "{file}/{}", "../{}": "{above}/{}", "deep/er/{}": "{file}/deep/er/{}",
    "/abs/{}": "/abs/{}", "there/{}": "{file}/there/{}",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the file, which is not the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "project" / "there" / "x").mkdir(parents=True)
    (tmp_path / "cwd" / "there" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "project"


def read(folder: Path, changes: dict[str, Any]) -> SweepSpec:
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**BASE, **changes}))
    return load_sweep("../project/sweep.yaml")


def expected(folder: Path, pattern: str, name: str) -> str:
    return pattern.format(name, home=folder.parent / "home", file=folder, above=folder.parent)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", KEYS)
def test_folders_go_from_the_file_that_names_them(folder: Path, key: str, way: str) -> None:
    make, find = KEYS[key]
    assert find(read(folder, make(way.format("x")))) == expected(folder, WAYS[way], "x")


@pytest.mark.parametrize("way", [*WAYS, "{}"])
@pytest.mark.parametrize("key", FILES)
def test_code_goes_from_the_file_that_names_it(folder: Path, key: str, way: str) -> None:
    make, find = FILES[key]
    pattern = WAYS.get(way, "{file}/{}")
    assert find(read(folder, make(way.format("mine.py")))) == expected(folder, pattern, "mine.py")


@pytest.mark.parametrize("way", [*WAYS, "{}"])
@pytest.mark.parametrize("key", WEIGHTS)
def test_files_of_weights_go_from_the_file_that_names_them(folder: Path, key: str, way: str) -> None:
    make, find = WEIGHTS[key]
    pattern = WAYS.get(way, "{file}/{}")
    # With one slash, too: it is no hub id.
    assert find(read(folder, make(way.format("x.safetensors")))) == expected(folder, pattern, "x.safetensors")


@pytest.mark.parametrize("key", [key for key in KEYS if key != "results"])
def test_a_hub_id_stays_one_unless_there_is_such_a_folder_beside_the_file(folder: Path, key: str) -> None:
    make, find = KEYS[key]
    (folder.parent / "cwd" / "owner" / "name").mkdir(parents=True)
    assert find(read(folder, make("owner/name"))) == "owner/name"
    (folder / "owner" / "name").mkdir(parents=True)
    assert find(read(folder, make("owner/name"))) == str(folder / "owner" / "name")


def test_names_stay_names_whatever_lies_beside_the_file(folder: Path) -> None:
    for name in ("toy-clip", "window", "loco_edit"):
        (folder / name).mkdir()
    spec = read(folder, {"edit": {"editors": ["loco_edit"]}, "results": "s3://bucket/x", "localize": {}})
    assert (spec.scorer, spec.results) == ("toy-clip", "s3://bucket/x")
    assert (spec.localize.localizer, spec.edit and spec.edit.editors) == ("window", ("loco_edit",))
    assert read(folder, {"scorer": "unknown"}).scorer == "unknown"


def test_a_cluster_file_and_the_sweep_in_it_go_from_the_cluster_file(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "sweep.yaml").write_text(yaml.safe_dump({**BASE, "models": [{"id": "m", "path": "./x"}]}))
    content: dict[str, Any] = {
        "name": "c", "sweep": "sub/sweep.yaml", "results": "~/out", "cluster": {"local": True}
    }  # fmt: skip
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(content))
    loaded = load_cluster(file)
    assert loaded.spec.results == loaded.sweep.results == str(folder.parent / "home" / "out")
    assert of_models(loaded.sweep) == str(folder / "sub" / "x")
    inline = {**BASE, "models": [{"id": "m", "path": "./x"}], "scorer": "./mine.py"}
    file.write_text(yaml.safe_dump({**content, "sweep": inline, "results": "out"}))
    loaded = load_cluster(file)
    assert loaded.spec.results == str(folder / "out")
    assert of_models(loaded.sweep) == str(folder / "x")
    assert loaded.code == {str(folder / "mine.py"): folder / "mine.py"}
    file.write_text(yaml.safe_dump({**content, "cluster": {"launcher": "ray.yaml"}, "results": "s3://b/x"}))
    with pytest.raises(SpecError, match=r"models.0.path: './x' is a folder of this machine"):
        load_cluster(file)
    file.write_text(yaml.safe_dump({**content, "sweep": "gone.yaml"}))
    with pytest.raises(SpecError, match=r"cluster.yaml:5:8: sweep: .*gone.yaml: no such file"):
        load_cluster(file)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("~nobody-here/x", "nobody here has this home folder"),
        ("a/" + "é" * 200, "too long for a path"),
        ("/".join(["abcdefghi"] * 500), "too long for a path"),
    ],
)
def test_a_place_where_nothing_can_lie_is_refused(folder: Path, text: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        anchored(text)
    if len(text) < 2000:
        with pytest.raises(SpecError, match=rf"sweep.yaml:\d+:\d+: results: .*{problem}"):
            read(folder, {"results": text})


def test_the_folder_above_a_linked_one_is_that_of_where_it_leads(folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent / "cwd" / "there")
    assert of_models(read(folder, {"models": [{"id": "m", "path": "link/../y"}]})) == str(folder.parent / "cwd" / "y")
    assert of_models(read(folder, {"models": [{"id": "m", "path": "./link"}]})) == str(folder / "link")


def test_a_spec_that_was_stored_is_not_placed_again(folder: Path) -> None:
    spec = read(folder, {"results": "~/x", "localize": {"localizer": "mine.py"}})
    assert SweepSpec.model_validate(spec.model_dump(mode="json"), strict=False) == spec
    assert spec.localize == LocalizeSettings(localizer=str(folder / "mine.py"))


def test_identities_have_names_and_no_places(tmp_path: Path) -> None:
    files = [tmp_path / at / "mine.py" for at in ("a", "b/c", "d")]
    for file in (*files, files[2].with_name("other.py")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("def edit(): ...\n")
    here, there, _ = (tiny_sweep("unused", scorer=str(file)) for file in files)
    assert sweep_id(here) == sweep_id(there)
    assert sweep_id(here) != sweep_id(tiny_sweep("unused", scorer=str(files[2].with_name("other.py"))))
    assert (name_of("/a/clip"), name_of("owner/clip"), name_of("toy-clip")) == ("clip", "owner/clip", "toy-clip")

    spec = tiny_sweep("unused")
    resolved = fake_resolved(spec)

    def edit_of(editor: Path) -> str:
        settings = EditSettings(editor=str(editor))
        return planned_edit(spec, resolved.models[0], resolved.attributes[0], settings, "localized", (0,)).edit_id

    assert len({edit_of(file) for file in files}) == 1
    assert edit_of(files[0]) != edit_of(files[2].with_name("other.py"))
