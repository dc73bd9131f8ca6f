"""YAML that no sweep file means: whatever stands in it, one line says where, and soon."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from loco_core.errors import SpecError
from orchestrator.spec import load_sweep
from orchestrator.spec.plain_yaml import MAX_BYTES, read

BASE = "name: s\nmodels: [toy]\nattributes: [style/mori]\nscorer: clip\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def problem(folder: Path, content: str | bytes) -> str:
    """Returns the message without the folder."""
    path = folder / "s.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with pytest.raises(SpecError) as caught:
        load_sweep(path)
    return str(caught.value).replace(f"{folder}/", "")


def test_of_merged_maps_the_first_counts_and_what_stands_there_itself_before_all(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "one: &one {steps: 1, size: 1}\nmore: &more {<<: *one, steps: 2}\nboth: {<<: [*more, *one]}\n"
        "turned: {<<: [*one, *more], own: 4}\nown: {<<: [*one, {own: 5}], steps: 3, own: 6}\n"
    )
    file = read(path, "a file", "one")
    data = file.data()
    assert data["both"] == {"steps": 2, "size": 1}
    assert data["turned"] == {"steps": 1, "size": 1, "own": 4}
    assert data["own"] == {"steps": 3, "size": 1, "own": 6}
    for name, values in data.items():
        for key, value in values.items():
            assert file.at((name, key)).value == str(value), (name, key)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (BASE + "seeds: " + "[" * 500 + "]" * 500, "s.yaml:5:"),
        (BASE + "seeds: " + "{a: " * 500 + "}" * 500, "nested or repeated without end"),
        (BASE + "seeds:\n" + "- " * 500 + "1\n", "nested or repeated without end"),
        (BASE + "results: " + "[" * 100_000, "nested or repeated without end"),
        (BOMB, "nested or repeated without end"),
        (MERGES, "nested or repeated without end"),
        ('name: "\\U00110000"\n', "s.yaml:1:10: an escape or a number that nothing can be; expected valid YAML"),
        ('name: "\\UFFFFFFFF"\n', "s.yaml:1:10: an escape or a number"),
        (f"%YAML {'9' * 5000}.1\n---\n{BASE}", "s.yaml:1:7: an escape or a number"),
        ('name: "a\\0"\n', "s.yaml:1:7: 'a\\x00' holds U+0000, which is no letter; expected text"),
        ('name: "\\ud800"\n', "s.yaml:1:7: '\\ud800' holds U+D800, which is no letter; expected text"),
        ('"\\udfff": x\n', "s.yaml:1:1: '\\udfff' holds U+DFFF"),
        (BASE + "prompts: !!bool x\n", "s.yaml:5:10: 'x' is no bool; expected plain text or a number"),
        (BASE + "prompts: !!int ''\n", "s.yaml:5:10: '' is no int"),
        (BASE + "prompts: !!float x\n", "s.yaml:5:10: 'x' is no float"),
        (BASE + "prompts: " + "9" * 5000 + "\n", "s.yaml:5:10: '99999"),
        (BASE + "prompts: !!timestamp x\n", "s.yaml:5:10: the tag 'tag:yaml.org,2002:timestamp' is not known"),
        (BASE + "prompts: !!binary x\n", "s.yaml:5:10: the tag 'tag:yaml.org,2002:binary' is not known"),
        (BASE + "prompts: !!set {a}\n", "s.yaml:5:10: the tag 'tag:yaml.org,2002:set' is not known"),
        (BASE + "prompts: !!python/name:os.system x\n", "5:10: the tag 'tag:yaml.org,2002:python/name:os.system' is"),
        (BASE + "prompts: !mine x\n", "s.yaml:5:10: the tag '!mine' is not known; expected none"),
        (BASE + "prompts: !!map [1]\n", "s.yaml:5:10: expected a mapping node"),
        (BASE + "seeds: 3\nwindows: {<<: 1}\n", "s.yaml:6:15: expected a mapping or list of mappings for merging"),
        (BASE + "windows: {stride: 2, stride: 3}\n", "s.yaml:5:22: key 'stride' is given twice; expected once"),
        (BASE + "seeds: *nope\n", "s.yaml:5:8: found undefined alias"),
        (BASE + "---\n" + BASE, "s.yaml:5:1: but found another document; expected valid YAML"),
        (BASE + "{[a]: b}: c\n", "s.yaml:5:"),
        (BASE.encode() + b"images: \x00\n", "s.yaml:5:9: U+0000 is no letter; expected valid YAML"),
        (BASE.encode() + b"images: n\xff\n", "s.yaml:5:10: not a text file; expected a sweep file in YAML, UTF-8"),
        (BASE.encode("utf-16"), "s.yaml:1:1: not a text file"),
        (BASE + f"results: a/{'é' * 128}\n", "s.yaml:5:10: results: 'a/"),
        (BASE + "results: ~nobody-here/x\n", "s.yaml:5:10: results: '~nobody-here/x': nobody here has this home"),
        (BASE + "images: 2020-01-01\n", 's.yaml:5:9: images: "2020-01-01" is wrong'),
        (BASE + "prompts: .inf\n", "s.yaml:5:10: prompts: "),
        (BASE + "prompts: 1e999\n", "s.yaml:5:10: prompts: "),
        (BASE + f"{'k' * 100_000}: 1\n", "s.yaml:"),
        (BASE + f"? {'k' * 100_000}\n: 1\n", "s.yaml:5:3: unknown key 'kkkkkkkkk"),
    ],
)  # fmt: skip
def test_one_line_says_where_and_what(tmp_path: Path, content: str | bytes, expected: str) -> None:
    said = problem(tmp_path, content)
    assert said.startswith(expected) or expected in said
    assert "\n" not in said
    assert len(said) < 600
    assert said.isprintable()


def test_a_mark_of_the_byte_order_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(BASE.encode("utf-8-sig"))
    assert load_sweep(path).name == "s"


def test_merged_keys_stand_where_they_are_written(tmp_path: Path) -> None:
    text = BASE.replace("[toy]", "[&m {id: a, dtype: nope}, {<<: *m, id: b, revision: 3}]")
    lines = problem(tmp_path, text).splitlines()
    assert all(line.startswith("s.yaml:2:") for line in lines)
    assert [line.split(": ")[1] for line in lines].count("models.1.revision") == 1


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            "{prompt: a dog, donor: A  dog., score_text: x, donor_text: y, content_text: z}",
            "records.0.donor: says",
        ),
        (
            "{prompt: a, donor: b, score_text: Fog!, donor_text: fog, content_text: z}",
            "records.0.donor_text: says",
        ),
    ],
)
def test_what_would_measure_nothing_is_refused_where_it_stands(tmp_path: Path, record: str, expected: str) -> None:
    text = (
        BASE.replace("[style/mori]", f"\n- {{kind: style, name: x, mode: remove, records: [{record}]}}\n")
        + "prompts: 1\n"
    )
    said = problem(tmp_path, text)
    assert said.startswith("s.yaml:4:")
    assert f"attributes.0.{expected}" in said


@pytest.mark.parametrize(
    "content",
    [
        BASE + "".join(f"key{i}: 1\n" for i in range(60_000)),
        BASE + "windows: {" + ", ".join(f"key{i}: 1" for i in range(60_000)) + "}\n",
        BASE + "seeds: [" + ", ".join(["x"] * 60_000) + "]\n",
        BASE.replace("[toy]", "[" + ", ".join(["{}"] * 30_000) + "]"),
        BASE.replace("[style/mori]", "[" + ", ".join(["{kind: a, records: []}"] * 20_000) + "]"),
    ],
    ids=["keys", "inner keys", "seeds", "models", "attributes"],
)
def test_tens_of_thousands_of_problems_take_seconds(tmp_path: Path, content: str) -> None:
    begun = time.process_time()
    lines = problem(tmp_path, content).splitlines()
    assert time.process_time() - begun < 30
    assert len(lines) == 21
    assert "more problems" in lines[-1]


def test_what_has_no_end_is_not_read_to_it() -> None:
    with pytest.raises(SpecError, match=f"more than {MAX_BYTES:,} bytes"):
        load_sweep("/dev/zero")
