"""The JSON Schemas say what the models say: an editor that knows them accepts and refuses what the commands do."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter

from loco_core.localization.base import LocalizeSettings
from orchestrator.spec import SweepSpec, attributes, cluster, edit, metrics, model, rayjob, slurm, sweep
from orchestrator.spec.json_schema import KINDS, Kind, file_name, schema_of_models, schema_text, with_schemas
from orchestrator.spec.rules import Strict
from tests.support.options import content, keys

ROOT = Path(__file__).parents[4]
BASE = {"name": "first", "models": ["toy"], "attributes": ["style/lumio"], "scorer": "toy-clip"}
BASES: dict[Kind, dict[str, Any]] = {
    "sweep": BASE,
    "cluster": {"name": "first", "sweep": BASE, "results": "s3://bucket/first", "cluster": {"local": True}},
}
MODELS: list[type[BaseModel]] = [
    LocalizeSettings,
    *(
        found
        for module in (attributes, cluster, edit, metrics, model, rayjob, slurm, sweep)
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Strict) and found.__module__ == module.__name__
    ),
]
FIELDS = [(found, name) for found in MODELS for name in found.model_fields]


@cache
def validator(kind: Kind) -> Draft202012Validator:
    schema = json.loads(schema_text(kind))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_in_the_package_is_that_of_the_models(kind: Kind) -> None:
    assert schema_text(kind) == schema_of_models(kind), "run `make docs`"


def files() -> Iterator[tuple[str, Any]]:
    """Yields every sweep and cluster file of the project, and the YAML of its pages, by where it stands."""
    for folder in ("cluster", "orchestrator/presets", "orchestrator/cli", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.yaml")):
            yield str(path.relative_to(ROOT)), yaml.safe_load(path.read_text())
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, text in enumerate(re.findall(r"^```yaml[^\n]*\n(.*?)^```", path.read_text(), re.DOTALL | re.M)):
            yield f"{path.relative_to(ROOT)} {number + 1}", yaml.safe_load(text)


def kind_of(found: Any) -> Kind | None:
    if not isinstance(found, dict):
        return None
    if "cluster" in found and not {"auth", "provider"} & found.keys():
        return "cluster"
    return "sweep" if found.keys() & SweepSpec.model_fields.keys() - {"name"} else None


def test_every_sweep_and_cluster_file_of_the_project_is_valid() -> None:
    seen = dict.fromkeys(KINDS, 0)
    for where, found in files():
        if kind := kind_of(found):
            seen[kind] += 1
            # A page may show a few keys.
            whole = {**BASES[kind], **found} if ".md" in where else found
            assert [f"{where}: {error.message}" for error in validator(kind).iter_errors(whole)] == []
    assert seen["sweep"] >= 10
    assert seen["cluster"] >= 6


@pytest.mark.parametrize(("owner", "name"), FIELDS, ids=lambda item: getattr(item, "__name__", item))
def test_every_key_has_a_meaning_and_examples_that_are_valid(owner: type[BaseModel], name: str) -> None:
    field = owner.model_fields[name]
    assert (field.description or "").endswith("."), "a sentence"
    assert field.examples
    if field.default is None:
        assert "Default:" in (field.description or "") or owner is cluster.ClusterChoice
    schema = owner.model_json_schema()
    for example in field.examples:
        TypeAdapter(Annotated[field.annotation, field]).validate_json(json.dumps(example), strict=True)
        Draft202012Validator({**schema["properties"][name], "$defs": schema.get("$defs", {})}).validate(example)
        assert example != field.default, "an example says something"


def test_every_word_that_a_key_admits_is_in_the_schema() -> None:
    flat = {
        "name": "first", "models.*.id": "toy", "attributes": ["style/lumio"], "scorer": "toy-clip",
        "edit.editors": ["neurons"], "notify.to": ["${env:ANY}"],
        "evaluate.judge.use": "toy-judge",
    }  # fmt: skip
    tried = [
        (path, value) for path, finite, _ in keys(SweepSpec) for value in finite
        # Above those of a metric stands its name.
        if not path.startswith(
            ("attributes.", "models.*.super_resolution.", "models.*.donor.", "evaluate.metrics.*.*.")
        )
    ]  # fmt: skip
    assert len(tried) > 50
    for path, value in tried:
        assert [error.message for error in validator("sweep").iter_errors(content(flat, {path: value}))] == [], path


@pytest.mark.parametrize(
    "change",
    [
        {"models": ["toy", {"id": "mine", "path": "./x"}]},
        {"models": [{"id": "if", "super_resolution": "DeepFloyd/IF-II-L-v1.0"}]},
        {"models": [{"id": "if", "super_resolution": {"path": "x/y", "revision": "main"}}]},
        {"models": [{"id": "a", "donor": "./x"}]},
        {"models": [{"id": "a", "donor": {"path": "./x", "loras": ["./y.safetensors"]}}]},
        {"models": [{"id": "a", "loras": ["./x.safetensors", {"path": "./y.safetensors", "scale": 1}]}]},
        {"models": [{"id": "a", "worker": {"min_gpu_memory": "24GiB"}}]},
        {"models": [{"id": "a", "worker": {"min_gpu_memory": 10**9}}]},
        {"seeds": 8},
        {"seeds": [3, 5]},
        {"generation": {"batch_size": "auto"}},
        {"edit": {}},
        {"edit": {"targets": "paired"}},
        {"edit": {"targets": ["published", "paired"]}},
        {"edit": None},
    ],
)
def test_shorthands_are_valid(change: dict[str, Any]) -> None:
    found = {**BASE, **change}
    validator("sweep").validate(found)
    SweepSpec.model_validate_json(json.dumps(found), strict=True)


RECORD = dict.fromkeys(("prompt", "score_text", "content_text"), "a") | dict.fromkeys(("donor", "donor_text"), "b")
FULL = {
    **BASE,
    "models": [{"id": "a", "engine": {}, "worker": {}, "super_resolution": {"path": "x/y"},
                "loras": [{"path": "a.safetensors"}],
                "textual_inversions": [{"path": "b.safetensors", "token": "<x>"}]}],
    "attributes": [
        {
            "kind": "style", "name": "a", "mode": "remove", "records": [RECORD],
            "published": {"uce": {"keys": ["a"], "anchors": ["b"]}},
        }
    ],
    "windows": {}, "generation": {}, "localize": {}, "controls": {}, "interventions": [{}], "edit": {}, "evaluate": {},
}  # fmt: skip
CLUSTER = {
    "name": "a", "sweep": BASE, "results": "/data", "workers": {}, "cluster": {"rayjob": {"image": "x"}},
    "runtime_env": {}, "retries": {}, "cost": {},
}  # fmt: skip


def places(found: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields where a mapping with fixed keys stands."""
    if isinstance(found, dict):
        if at[-1:] != ("published",):
            yield at
        for key, value in found.items():
            yield from places(value, (*at, key))
    elif isinstance(found, list):
        for i, value in enumerate(found):
            yield from places(value, (*at, i))


@pytest.mark.parametrize(
    ("kind", "at"),
    [*(("sweep", at) for at in places(FULL)), *(("cluster", at) for at in places(CLUSTER))],
    ids=lambda item: item if isinstance(item, str) else ".".join(map(str, item)) or "top",
)
def test_an_unknown_key_is_refused_wherever_it_stands(kind: Kind, at: tuple[Any, ...]) -> None:
    found: Any = copy.deepcopy(FULL if kind == "sweep" else CLUSTER)
    assert validator(kind).is_valid(found)
    inner = found
    for step in at:
        inner = inner[step]
    inner["unheard_of"] = 1
    assert not validator(kind).is_valid(found)


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 0}, {"prompts": "8"}, {"models": []}, {"images": "some"}, {"windows": {"stride": 0}},
        {"generation": {"batch_size": "fast"}}, {"generation": {"height": 100}}, {"localize": {"threshold": 2}},
    ],
)  # fmt: skip
def test_wrong_values_are_refused(change: dict[str, Any]) -> None:
    assert not validator("sweep").is_valid({**BASE, **change})


def test_files_for_a_person_begin_with_the_address_of_their_schema(tmp_path: Path) -> None:
    texts = {"sweep.yaml": yaml.safe_dump(BASE), "cluster.yaml": "# mine\nname: a\n", "ray.yaml": "x: 1\n"}
    for name, data in with_schemas({name: text.encode() for name, text in texts.items()}).items():
        (tmp_path / name).write_bytes(data)
    for kind in KINDS:
        first, *rest = (tmp_path / f"{kind}.yaml").read_text().splitlines(keepends=True)
        assert "".join(rest) == texts[f"{kind}.yaml"]
        address = first.removeprefix("# yaml-language-server: $schema=").rstrip("\n")
        assert (tmp_path / address).read_text() == schema_text(kind)
    assert (tmp_path / "ray.yaml").read_text() == texts["ray.yaml"]
    assert file_name("cluster") not in with_schemas({"sweep.yaml": b""})
