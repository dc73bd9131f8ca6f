from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ByteSize, TypeAdapter

from loco_core.errors import SpecError
from loco_core.types import Generation, Intervention, PromptRecord, PublishedTexts
from orchestrator.spec import (
    AttributeSpec,
    ClusterSpec,
    InterventionSpec,
    SweepSpec,
    check_compatible,
    load_sweep,
    place,
)
from orchestrator.spec.attributes import RecordSpec
from orchestrator.spec.rules import in_words

RECORD = {
    "prompt": "a dog, mori",
    "donor": "a dog",
    "score_text": "mori",
    "donor_text": "plain",
    "content_text": "a dog",
}
MINIMAL: dict[str, Any] = {"name": "s", "models": ["toy"], "attributes": ["style/mori"], "scorer": "clip"}
FULL: dict[str, Any] = {
    "name": "everything",
    "models": [
        "toy",
        {
            "id": "sd15",
            "path": "org/sd15",
            "revision": "abc",
            "dtype": "float16",
            "worker": {"gpus": 1, "min_gpu_memory": "24GiB", "label_selector": {"zone": "a"}},
        },
    ],
    "attributes": [
        "style/mori",
        {
            "kind": "fact",
            "name": "flag of X",
            "mode": "replace",
            "records": [RECORD],
            "published": {"loco_edit": {"keys": ["X", "a photo of X"], "anchors": ["Y"]}},
        },
    ],
    "windows": {"sizes": [1, 2], "stride": 1},
    "prompts": 1,
    "seeds": 4,
    "generation": {
        "steps": 20,
        "guidance_scale": 5,
        "height": 64,
        "width": 64,
        "scheduler": "DDIMScheduler",
        "batch_size": 4,
    },
    "scorer": "clip",
    "localize": {"threshold": 0.7},
    "controls": {"identity": True, "all_sites": True, "complement": True, "random": 3},
    "interventions": [{"part": "k", "steps": [0, 10], "tokens": "words", "guidance_half": "both"}],
    "edit": {
        "editors": ["loco_edit", "uce"],
        "targets": "published",
        "method_lambdas": {"uce": [0.1, 0.5]},
        "neurons": [0.5, 30],
        "neuron_tokens": ["last_position"],
        "guidance_half": "both",
        "fill": "zero",
    },
    "images": "none",
    "results": "out",
}


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def spec(**changes: Any) -> SweepSpec:
    return SweepSpec.model_validate(MINIMAL | changes, strict=False)


def problem(folder: Path, text: str) -> str:
    """Returns the message without the folder."""
    with pytest.raises(SpecError) as caught:
        load_sweep(write(folder, text))
    return str(caught.value).replace(f"{folder}/", "")


def test_a_full_file_is_read(tmp_path: Path) -> None:
    read = load_sweep(write(tmp_path, yaml.safe_dump(FULL, sort_keys=False)))
    assert read.seeds == (0, 1, 2, 3)
    assert read.models[0].id == "toy"
    assert read.models[1].worker.min_gpu_memory == 24 * 2**30
    assert read.generation.settings == Generation(20, 5.0, 64, 64, "DDIMScheduler")
    assert read.edit is not None
    assert read.edit.method_lambdas == {"uce": (0.1, 0.5)}
    assert (read.edit.targets, read.edit.neurons) == (("published",), (0.5, 30))
    assert (read.edit.neuron_tokens, read.edit.guidance_half, read.edit.fill) == (("last_position",), "both", "zero")
    assert read.interventions[0].at((3, 4)) == Intervention((3, 4), "k", 0, 10, "words", "both")
    assert isinstance(read.attributes[1], AttributeSpec)
    assert read.attributes[1].label == "fact/flag of X"
    assert read.attributes[1].attribute.records == (PromptRecord(**RECORD),)
    assert read.attributes[1].attribute.published == (PublishedTexts("loco_edit", (("X", "Y"), ("a photo of X", "Y"))),)


def test_a_short_file_gets_the_papers_settings(tmp_path: Path) -> None:
    read = load_sweep(write(tmp_path, yaml.safe_dump(MINIMAL)))
    assert read.interventions == (InterventionSpec(),)
    assert read.interventions[0].at((1,)) == Intervention((1,))
    assert read.generation.settings == Generation()


def test_a_spec_survives_its_own_json() -> None:
    whole = SweepSpec.model_validate(FULL, strict=False)
    assert SweepSpec.model_validate(whole.model_dump(mode="json"), strict=False) == whole


def test_words_and_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    text = "name: no\nmodels: [12:30]\nattributes: [style/2020-01-01]\nscorer: on\ngeneration: {guidance_scale: 1e1}\n"
    read = load_sweep(write(tmp_path, text))
    assert (read.name, read.models[0].id, read.scorer) == ("no", "12:30", "on")
    assert read.generation.guidance_scale == 10


BASE = "name: s\nmodels: [toy]\nattributes: [style/mori]\nscorer: clip\n"
PUBLISHED = (
    "[{{kind: style, name: fog, mode: remove, published: {{loco_edit: {{{}}}}}, records: ["
    + ", ".join(
        f"{{{{prompt: {n} in fog, donor: {n}, score_text: fog, donor_text: {n}, content_text: {n}}}}}"
        for n in ("one", "two", "three", "four", "five", "six", "seven", "eight")
    )
    + "]}}]"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BASE + "sceds: 3\n", "sweep.yaml:5:1: unknown key 'sceds'; expected one of name, "),
        (BASE + "sceds: 3\n", 'did you mean "seeds"?'),
        (BASE + "generation:\n  stesp: 3\n", "sweep.yaml:6:3: unknown key 'stesp'"),
        (BASE + "generation:\n  stesp: 3\n", 'did you mean "steps"?'),
        (BASE + "localize: {treshold: 1}\n", "sweep.yaml:5:12: unknown key 'treshold'"),
        (
            BASE + "generation: {steps: '20'}\n",
            'sweep.yaml:5:21: generation.steps: "20" is wrong; expected a valid integer',
        ),
        (BASE + "generation: {steps: 0}\n", "5:21: generation.steps: 0 is wrong; expected greater than or equal to 1"),
        (
            BASE + "generation: {guidance_scale: .nan}\n",
            "5:30: generation.guidance_scale: NaN is wrong; expected a finite number",
        ),
        (
            BASE.replace("[toy]", "[{id: toy, engine: {atention: math}}]"),
            "2:29: unknown key 'atention'; expected one of attention, channels_last,",
        ),
        (
            BASE.replace("[toy]", "[{id: toy, engine: {device_map: balanced}}]"),
            "2:41: models.0.engine.device_map: 'balanced' spreads a model over several GPUs; expected worker.gpus of 2",
        ),
        (
            BASE.replace("[toy]", "[{id: toy, engine: {device_map: none}, worker: {gpus: 2}}]"),
            "2:41: models.0.engine.device_map: 'none' leaves 1 of 2 GPUs of a worker idle; expected 'balanced', or",
        ),
        (
            BASE.replace("[toy]", "[{id: toy, engine: {offload: model}, worker: {gpus: 0}}]"),
            "2:38: models.0.engine.offload: 'model' keeps one GPU busy; expected worker.gpus: 1, not 0",
        ),
        (
            BASE.replace("[toy]", "[{id: toy, engine: {offload: sequential, compile: true}}]"),
            "2:59: models.0.engine.compile: compiled modules would read weights that are not there",
        ),
        (
            BASE.replace("[toy]", "[{id: toy, engine: {offload: model, device_map: balanced}}]"),
            "2:57: models.0.engine.device_map: 'balanced' keeps all weights on GPUs",
        ),
        (
            BASE.replace("[toy]", "[{id: toy, super_resolution: {path: a/b, revison: c}}]"),
            "2:50: unknown key 'revison'; expected one of path, revision; did you mean",
        ),
        (BASE.replace("[toy]", "[{id: toy, super_resolution: 3}]"), "2:38: models.0.super_resolution: 3 is wrong"),
        (BASE.replace("[toy]", "[{id: toy, super_resolution: ''}]"), '2:38: models.0.super_resolution: "" is wrong'),
        (BASE + "generation: 5\n", "5:13: generation: 5 is wrong; expected keys, such as generation: {"),
        (
            BASE + "images: nome\n",
            "5:9: images: \"nome\" is wrong; expected 'none', 'report' or 'all'; did you mean \"none\"?",
        ),
        (BASE + "seeds: no\n", "5:8: seeds: expected how many seeds, or a list of seeds"),
        (BASE + "seeds: 0\n", "5:8: seeds: expected 1 to 1,000,000 seeds"),
        (BASE + "seeds: [1, -2]\n", "5:12: seeds.1: -2 is wrong"),
        (BASE + "seeds: [1, 1]\n", "5:8: seeds: seed 1 is given more than once"),
        (BASE + "seeds: 3\nseeds: 4\n", "6:1: key 'seeds' is given twice"),
        (BASE + "windows: {sizes: [1, two]}\n", '5:22: windows.sizes.1: "two" is wrong; expected a valid integer'),
        (BASE + "windows: {sizes: []}\n", "5:18: windows.sizes: [] is wrong; expected at least 1 item"),
        (
            BASE + "interventions: [{steps: [5, 90]}]\n",
            "5:25: interventions.0.steps: [5, 90] is wrong; expected [start, end)",
        ),
        (
            BASE + "edit: {editors: [uce], method_lambdas: {uec: [1]}}\n",
            '5:46: edit.method_lambdas.uec: it is none of the editors; did you mean "uce"?',
        ),
        (BASE + "edit: {editors: [uce], method_lambdas: {uce: [0]}}\n", "edit.method_lambdas.uce.0: 0 is wrong"),
        (
            BASE + "edit: {editors: [uce], method_lambdas: {uce: [1, 1]}}\n",
            "5:46: edit.method_lambdas.uce: the value 1.0 is given more than once",
        ),
        (BASE + "edit: {targets: ours}\n", "5:17: edit.targets: \"ours\" is wrong; expected 'published' or 'paired'"),
        (
            BASE + "edit: {targets: [paired, paired]}\n",
            "5:17: edit.targets: the value 'paired' is given more than once",
        ),
        (BASE + "edit: {neurons: [2.5]}\n", "2.5 is wrong; expected a share up to 1, or a whole number of neurons"),
        (BASE + "edit: {neurons: [0]}\n", "edit.neurons.0: 0 is wrong"),
        (
            BASE.replace("[style/mori]", PUBLISHED.format("keys: [a, b, c], anchors: [d, e]")),
            "attributes.0.published.loco_edit.anchors: 2 anchors for 3 keys; expected one for all, or one a key",
        ),
        (
            BASE.replace("[style/mori]", PUBLISHED.format("keys: [a, b], anchors: [b]")),
            "attributes.0.published.loco_edit.keys: 'b' equals its anchor; nothing to edit",
        ),
        ("models: [toy]\nattributes: [style/m]\nscorer: c\n", "sweep.yaml:1:1: name is missing"),
        (BASE.replace("style/mori", "mori"), "3:14: attributes.0: 'mori' is wrong; expected a name such as style/NAME"),
        (BASE.replace("[toy]", "[toy, toy]"), "2:9: models: model 'toy' is given more than once"),
        (BASE.replace("[style/mori]", "[{kind: style}]"), "3:14: attributes.0.records is missing"),
        (BASE.replace("name: s", 'name: "a\\nb"'), "1:7: name: "),
        ("", "sweep.yaml:1:1: the file is empty"),
        ("# only a comment\n", "sweep.yaml:1:1: the file is empty"),
        ("- a\n- b\n", "sweep.yaml:1:1: expected keys"),
        ("name: [a\nmodels: }\n", "sweep.yaml:2:7: "),
        ("name: s\nmodels:\n\t- toy\n", "expected spaces for indentation, not tabs"),
        ("name: \x07\n", "expected valid YAML"),
        ("name: !!python/object/apply:os.system [ls]\n", "sweep.yaml:1:7: "),
        ("a: &a [*a]\n", "nested or repeated without end"),
        ("{1: 2}\n", "unknown key '1'"),
        ("? [a]\n: b\n", "sweep.yaml:1:"),
    ],
)
def test_bad_files_say_where_what_and_what_was_expected(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problem(tmp_path, text)


@pytest.mark.parametrize("spec", [SweepSpec, ClusterSpec])
def test_no_error_shows_a_regular_expression(spec: type[BaseModel]) -> None:
    def patterns(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from [value["pattern"]] if isinstance(value.get("pattern"), str) else ()
            yield from value.get("patternProperties", ())
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from patterns(each)

    # A size has an error of its own.
    found = set(patterns(spec.model_json_schema())) - set(patterns(TypeAdapter(ByteSize).json_schema()))
    assert found
    assert all(map(in_words, found))


def test_every_problem_has_its_own_line_in_the_order_of_the_file(tmp_path: Path) -> None:
    lines = problem(tmp_path, BASE + "seeds: x\nprompts: y\nimages: z\n").splitlines()
    assert [line.split(":")[1] for line in lines] == ["5", "6", "7"]


def test_a_file_that_expands_without_end_is_refused_at_once(tmp_path: Path) -> None:
    rows = [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 8)]
    assert "without end" in problem(tmp_path, "\n".join(["x0: &x0 [1]", *rows]))


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    write(tmp_path, "")
    with pytest.raises(SpecError, match=r'sweeep.yaml: no such file.*did you mean "sweep.yaml"'):
        load_sweep(tmp_path / "sweeep.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        load_sweep(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\x89PNG\xff\x00")
    with pytest.raises(SpecError, match="not a text file"):
        load_sweep(tmp_path / "b.yaml")


def test_an_inline_attribute_needs_as_many_records_as_prompts(tmp_path: Path) -> None:
    text = yaml.safe_dump(FULL | {"prompts": 2}, sort_keys=False)
    assert "attributes.1.records: 1 records for prompts: 2; expected at least 2 records" in problem(tmp_path, text)


def test_places_are_found_for_problems_that_show_later(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + "windows:\n  sizes: [1, 99]\n")
    assert place(path, ("windows", "sizes", 1)) == f"{path}:6:14"
    assert place(path, ("attributes", 0)) == f"{path}:3:14"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_cleanly(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes((BASE + text).encode("utf-8", "surrogatepass"))
    with suppress(SpecError):
        load_sweep(path)


GROWN = {
    "seeds": 8,
    "prompts": 9,
    "models": ["toy", "other"],
    "attributes": ["object/star", "style/mori"],
    "windows": {"sizes": [1, 2, 3, 4, 5]},
    "controls": {"complement": True, "random": 5},
    "interventions": [{}, {"part": "k"}],
    "generation": {"batch_size": 2},
    "engine": [{"id": "toy", "engine": {"offload": "model"}}],
    "device_map": [{"id": "toy", "worker": {"gpus": 2}}],
    "images": "all",
    "localize": {"threshold": 0.5},
    "results": "elsewhere",
}


@pytest.mark.parametrize("key", list(GROWN))
def test_axes_grow_and_what_does_not_touch_cells_is_free(key: str) -> None:
    sized = {"windows": {"sizes": [1, 2, 3, 4]}}
    name = "models" if key in ("engine", "device_map") else key
    check_compatible(spec(**sized), spec(**(sized | {name: GROWN[key]})))


def test_a_lora_may_move_but_not_change_its_scale() -> None:
    def with_lora(path: str, scale: float) -> SweepSpec:
        return spec(models=[{"id": "toy", "loras": [{"path": path, "scale": scale}]}])

    check_compatible(with_lora("/a.safetensors", 0.5), with_lora("/far/b.safetensors", 0.5))
    with pytest.raises(SpecError, match=r"models.toy.loras /a.safetensors x 0.5 -> /a.safetensors x 1\."):
        check_compatible(with_lora("/a.safetensors", 0.5), with_lora("/a.safetensors", 1))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"name": "t"}, "name s -> t"),
        ({"scorer": "other"}, "scorer clip -> other"),
        ({"generation": {"steps": 20}}, "generation.steps 50 -> 20"),
        ({"generation": {"height": 64}}, "generation.height default -> 64"),
        ({"models": [{"id": "toy", "dtype": "float16"}]}, "models.toy.dtype float32 -> float16"),
        ({"models": [{"id": "toy", "revision": "b"}]}, "models.toy.revision default -> b"),
        (
            {"models": [{"id": "toy", "engine": {"attention": "math"}}]},
            "models.toy.engine.attention default -> math",
        ),
        ({"models": [{"id": "toy", "engine": {"compile": True}}]}, "models.toy.engine.compile false -> true"),
        ({"models": [{"id": "toy", "guidance_scale": 3.5}]}, "models.toy.guidance_scale default -> 3.5"),
        ({"models": [{"id": "toy", "super_resolution": "a/b"}]}, "models.toy.super_resolution default -> a/b."),
        (
            {"models": [{"id": "toy", "super_resolution": {"path": "a/b", "revision": "c"}}]},
            "models.toy.super_resolution default -> a/b @ c.",
        ),
        ({"models": [{"id": "toy", "loras": ["/a.safetensors"]}]}, "models.toy.loras () -> /a.safetensors x 1."),
        (
            {"models": [{"id": "toy", "textual_inversions": [{"path": "/b.safetensors", "token": "<b>"}]}]},
            "models.toy.textual_inversions () -> <b> of /b.safetensors.",
        ),
        ({"models": [{"id": "toy", "variant": "fp16"}]}, "models.toy.variant default -> fp16."),
        ({"models": ["other"]}, "models lacks toy"),
        ({"attributes": ["style/other"]}, "attributes lacks style/mori"),
        ({"seeds": 3}, "seeds lacks 3, which the results have"),
        ({"prompts": 4}, "prompts 8 -> 4"),
        ({"windows": {"sizes": [1, 2]}}, "windows.sizes lacks 3, 4"),
        ({"windows": {}}, "windows.sizes (1, 2, 3, 4) -> default"),
        ({"windows": {"sizes": [1, 2, 3, 4], "stride": 2}}, "windows.stride 1 -> 2"),
        ({"controls": {"identity": False}}, "controls.identity true -> false"),
        ({"controls": {"random": 1}}, "controls.random 2 -> 1"),
        ({"interventions": [{"part": "k"}]}, "interventions lacks"),
    ],
)
def test_changes_that_would_mix_results_are_refused_with_the_way_out(change: dict[str, Any], difference: str) -> None:
    sized = {"windows": {"sizes": [1, 2, 3, 4]}}
    with pytest.raises(SpecError) as caught:
        check_compatible(spec(**sized), spec(**(sized | change)))
    assert difference in str(caught.value)
    assert "--results" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_default_sizes_keep_the_share_that_they_come_from() -> None:
    wider = {"localize": {"max_share": 0.5}}
    with pytest.raises(SpecError, match=r"localize\.max_share 0\.25 -> 0\.5"):
        check_compatible(spec(), spec(**wider))
    sized = {"windows": {"sizes": [1, 2, 3, 4]}}
    check_compatible(spec(**sized), spec(**sized, **wider))


def test_records_may_be_added_at_the_end_only() -> None:
    inline = {"kind": "style", "name": "m", "mode": "remove"}
    old = spec(prompts=1, attributes=[inline | {"records": [RECORD]}])
    other = RECORD | {"prompt": "a cat, mori"}
    check_compatible(old, spec(prompts=2, attributes=[inline | {"records": [RECORD, other]}]))
    with pytest.raises(SpecError, match=r"style/m\.records differ among the first 1"):
        check_compatible(old, spec(prompts=2, attributes=[inline | {"records": [other, RECORD]}]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"donor": "A  circle."}, "says what prompt says"),
        ({"donor_text": "Thick fog!"}, "says what score_text says"),
    ],
)
def test_records_that_measure_nothing_are_refused(changes: dict[str, str], message: str) -> None:
    record = {
        "prompt": "a circle", "donor": "a shape", "score_text": "thick fog", "donor_text": "a photo",
        "content_text": "x",
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        RecordSpec(**{**record, **changes})


def test_a_prompt_that_is_given_twice_is_refused_as_evidence_twice() -> None:
    text = {"score_text": "fog", "donor_text": "a photo", "content_text": "x"}
    records = tuple(RecordSpec(prompt=prompt, donor="a shape", **text) for prompt in ("a circle", "a circle ."))
    with pytest.raises(ValueError, match="given more than once"):
        AttributeSpec(kind="style", name="fog", mode="remove", records=records)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("models: toy", "models: [{id: toy}]"),
        ("models: {id: toy, dtype: fp16}", "models: [{id: toy, dtype: float16}]"),
        ("models: [{id: toy, dtype: bf16}]", "models: [{id: toy, dtype: bfloat16}]"),
        ("models: flux", "models: [{id: flux, dtype: bfloat16}]"),
        (
            "models: [{id: mine, path: black-forest-labs/FLUX.1-dev}]",
            "models: [{id: mine, path: black-forest-labs/FLUX.1-dev, dtype: bfloat16}]",
        ),
        (
            "models: [sd3, sd15, toy]",
            "models: [{id: sd3, dtype: float16}, {id: sd15, dtype: float32}, {id: toy, dtype: float32}]",
        ),
        ("models: [{id: toy, worker: {min_gpu_memory: 12Gi}}]", "models: [{id: toy, worker: {min_gpu_memory: 12GiB}}]"),
        ("models: [{id: toy, worker: {min_gpu_memory: 2k}}]", "models: [{id: toy, worker: {min_gpu_memory: 2000}}]"),
        (
            "models: [{id: toy, worker: {accelerators: [h100, A100-80GB, RTX 4090, Tesla T4]}}]",
            "models: [{id: toy, worker: {accelerators: [H100, A100-80G, GeForce-RTX-4090, T4]}}]",
        ),
        ("attributes: style/mori", "attributes: [style/mori]"),
        ("windows: [1, 2]", "windows: {sizes: [1, 2]}"),
        ("windows: 2", "windows: {sizes: [2]}"),
    ],
)
def test_what_stands_alone_is_a_list_of_one(short: str, full: str, tmp_path: Path) -> None:
    found = []
    for text in (short, full):
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump(MINIMAL | yaml.safe_load(text)))
        found.append(load_sweep(path))
    assert found[0] == found[1]
    assert SweepSpec.model_validate_json(found[0].model_dump_json()) == found[0]


def test_an_attribute_that_stands_alone_is_written_out_in_full(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    own = {"kind": "fact", "name": "x", "mode": "remove", "records": [RECORD]}
    path.write_text(yaml.safe_dump({**MINIMAL, "attributes": own, "prompts": 1}))
    (attribute,) = load_sweep(path).attributes
    assert isinstance(attribute, AttributeSpec)
    assert attribute.records[0].prompt == RECORD["prompt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "models: [{id: toy, worker: {gpus: 0.5}}]",
            r"gpus: 0.5 is wrong; a worker has its GPUs to itself: expected a wh",
        ),
        ("models: [{id: toy, worker: {min_gpu_memory: much}}]", "much is wrong; expected a size such as 24GiB or 24GB"),
        (
            "models: [{id: toy, worker: {accelerators: [H1000]}}]",
            "accelerators.0: 'H1000' is no GPU that is known here; expected such as H100, or the label of its nodes",
        ),
        (
            "models: [{id: toy, worker: {accelerators: [T4], label_selector: {ray.io/accelerator-type: T4}}}]",
            "accelerators says it too; expected one of them",
        ),
        ("attributes: [style/*]", r"'style/\*' is wrong; expected names one by one, from `loco-sweep attributes`"),
        (
            "results: hdfs://b/x",
            "hdfs:// is no storage that results can be kept in; expected a folder, or one of s3://b",
        ),
        ("windows: wide", 'windows: "wide" is wrong; expected keys'),
    ],
)
def test_first_guesses_that_mean_nothing_get_a_line_that_says_what_does(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | yaml.safe_load(text)))
    with pytest.raises(SpecError, match=message):
        load_sweep(path)
