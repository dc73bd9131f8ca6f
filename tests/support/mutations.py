"""Sweep and cluster files with something wrong in them: every mutant of a number is the same on every machine.

Run as a program it goes through a range of numbers and prints what it found::

    python -m tests.support.mutations 0 200000
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from loco_core.diffusion import weights
from loco_core.errors import LocoError, ModelError, printable
from orchestrator.resolve import lookup, super_resolution, traceable
from orchestrator.resolve.lookup import outline
from orchestrator.runs.outlook import outlook
from orchestrator.spec import load_sweep
from orchestrator.submit import load_cluster

ROOT = Path(__file__).parents[2]
SECONDS = 10.0
"""Of the processor's time, that no file may take."""

BASE = """\
{name: t, models: [toy], attributes: [style/lumio], windows: {sizes: [1], stride: 8}, prompts: 1, seeds: 1,
 generation: {steps: 4, guidance_scale: 3.0, batch_size: 4}, scorer: toy-clip,
 controls: {identity: false, all_sites: false, random: 0}, images: none}
"""
EVERYTHING = """\
name: everything
models:
  - toy
  - {id: mine, path: ./nowhere, dtype: float16, guidance_scale: 3, super_resolution: {path: a/b, revision: c},
     engine: {attention: math, vae_tiling: true}, worker: {gpus: 1, min_gpu_memory: 24GiB, label_selector: {zone: a}}}
attributes:
  - style/lumio
  - kind: fact
    name: flag of X
    mode: replace
    records:
      - {prompt: "a dog, mori", donor: a dog, score_text: mori, donor_text: plain, content_text: a dog}
      - {prompt: "a cat, mori", donor: a cat, score_text: mori, donor_text: plain, content_text: a cat}
    published: {loco_edit: {keys: [X, a photo of X], anchors: [Y]}}
windows: {sizes: [1, 2], stride: 1}
prompts: 2
seeds: [0, 1, 5]
generation: {steps: 20, guidance_scale: 5, height: 64, width: 64, scheduler: DDIMScheduler, batch_size: auto}
scorer: toy-clip
localize: {localizer: sequential, compare: [argmin], threshold: 0.7, max_share: 0.3, confidence: 0.9, seed: 3}
controls: {identity: true, all_sites: true, complement: true, random: 3}
interventions: [{part: k, steps: [0, 10], tokens: words, guidance_half: both, pooled: prompt}]
edit: {editors: [loco_edit, uce], targets: published, lambdas: [0.1], method_lambdas: {uce: [0.1, 0.5]},
  neurons: [0.5, 30], tokens: [all], neuron_tokens: [last_position], fill: zero, preserve: 2, max_neighbour_loss: 0.2}
evaluate: {prompts: 2, seeds: 2, neighbours: 1, judge: toy-judge, windows: false}
images: none
results: ~/out
reproduces: locogen-sd14
"""
CLUSTER = """\
name: first one
sweep: {name: t, models: [toy], attributes: [style/lumio], scorer: toy-clip}
results: s3://bucket/first
workers: {gpus: 1, cpus: 4, min: 1, max: 8, label_selector: {zone: a}}
cluster: {rayjob: {image: "x:1", namespace: y, secret: s, node_selector: {a: b}}}
runtime_env: {env_vars: {A: b}, pip: [x]}
retries: {driver: 2}
cost: {per_gpu_hour: 0.5}
"""
# What a value is replaced by, as it stands in a file.
NASTY = (
    "", "~", "null", "true", "false", "0", "-1", "1", "2", "1.0", "1.5", "1000000", "99999999999999999999",
    "9" * 5000, "1e999", "-1e400", "-.inf", ".inf", ".nan", "0x1F", "0o17", "1_000", "12:30", "2020-01-01", "''",
    "' '", "auto", '"\\0"', '"\\ud800"', '"\\udc00x"', '"\\U00110000"', '"\\UFFFFFFFF"', '"\\x07"', '"a\\nb"',
    '"\\u2028"', "'é\u202e'", "!!bool x", "!!int ''", "!!int 0x1F", "!!int x", "!!float x", "!!float ''",
    "!!null x", "!!str 5", "!!str [a]", "!!timestamp x", "!!timestamp 2020-99-99", "!!binary '='", "!!binary é",
    "!!set {a, b}", "!!omap [a: b]", "!!map []", "!!seq {}", "!!merge x", "!!pairs [a]",
    "!!python/name:os.system x", "!!python/object/apply:os.system [ls]", "!x y", "!<tag:yaml.org,2002:int> x", "[]",
    "{}", "[[[]]]", "[1, 1]", "[0]", "[-5, 5]", "{a: b, a: c}", "{<<: 1}", "{<<: [1]}", "{<<: {name: x}}",
    "{<<: {<<: {a: b}}}", "<<", "=", "&a [*a]", "&a {b: *a}", "*nope", "&a", "[" * 60, "[" * 500 + "]" * 500,
    "{a: " * 500 + "}" * 500, "x" * 300, "y" * 3000, "a/" + "x" * 300, "./" + "é" * 200, "z/" * 900, "~nobody/x",
    "~/x", ".", "..", "../../../../../../../..", "/", "/dev/null", "/dev/zero", "s3://", "s3://b/k", "ftp://x",
    "file:///x", "a/b", "a/b/c", "./x.py", "x.py", ".py", "/.py", "style/", "/x", "style/lumio", "toy", "toy-clip",
    "clip", "24GiB", "9e999GiB", "-5GiB", "1e5GiB", "{'': 1}", "{1: 2, null: 3, true: 4}", "{[a]: b}",
    "{{a: b}: c}", "? x", "- x", "%YAML 9.9", "---", "...", "| x", ">", "@x", "`x", "!", "&", "*", "#x", ": x", "'",
    '"', "\t", "\u00a0", "\ufeff", "\x85", "{steps: [0, 2]}", "[{steps: [0, 2]}]", "[window]", "sequential",
    "[all, subject]", "{id: toy}", "[{id: toy}, {id: toy}]", "[toy, toy-planted-a, sd15]",
)  # fmt: skip


@dataclass(frozen=True)
class Raw:
    """A piece of YAML that is written as it is."""

    text: str


@cache
def originals() -> tuple[tuple[str, str], ...]:
    """Returns the files that are mutated, each with its kind."""
    files = [*(ROOT / "orchestrator").rglob("*.yaml"), *(ROOT / "cluster").rglob("*.yaml")]
    found = [("cluster", CLUSTER), ("sweep", BASE), ("sweep", EVERYTHING)]
    for file in sorted(files):
        text = file.read_text(encoding="utf-8")
        # The others are no files of a sweep: read as one, they are only wrong.
        found.append(("cluster" if file.name == "cluster.yaml" else "sweep", text))
    return tuple(found)


def mutant(number: int) -> tuple[str, bytes]:
    """Returns the kind of a file, and its content with something wrong in it."""
    rng = random.Random(number)
    # The shortest are the quickest, and all keys are in the first three.
    kind, text = originals()[rng.randrange(3)] if rng.random() < 0.7 else rng.choice(originals())
    if rng.random() < 0.6:
        content = yaml.load(text, Loader=yaml.CSafeLoader)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            content = _restructured(rng, content)
        return kind, emit(content).encode("utf-8", "surrogatepass")
    data = text.encode()
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        data = _scratched(rng, data)
    return kind, data


def emit(value: Any) -> str:
    """Writes plain data and raw pieces as YAML."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{key}: {emit(each)}" for key, each in value.items) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{emit(key)}: {emit(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(emit, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Pairs:
    """A map whose keys may repeat."""

    items: tuple[tuple[str, Any], ...]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _paths(each, (*path, key))


def _restructured(rng: random.Random, content: Any) -> Any:
    """Changes one value or key."""
    path = rng.choice(list(_paths(content)))
    nasty = Raw(rng.choice(NASTY))
    how = rng.random()

    def change(value: Any) -> Any:
        if isinstance(value, dict) and value and how < 0.5:
            key = rng.choice(list(value))
            rest = {name: each for name, each in value.items() if name != key}
            pairs = tuple((emit(name), each) for name, each in value.items())
            return rng.choice(
                (
                    rest, {**rest, nasty: value[key]}, Pairs((*pairs, (emit(key), nasty))), Pairs((*pairs, ("x", 1))),
                    {**value, Raw("<<"): nasty}, {**rest, str(key) + "s": value[key]}, {**rest, key: nasty},
                )
            )  # fmt: skip
        if isinstance(value, list) and value and how < 0.4:
            return rng.choice((value[1:], [*value, value[0]], [*value, nasty], value[:1] * 50))
        if how > 0.9:
            return Raw(
                f"{rng.choice(('!!str', '!!int', '!!bool', '!!seq', '!!map', '!!float', '!z', '&b'))} {emit(value)}"
            )
        return nasty

    return _at(content, path, change)


def _at(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    if not path:
        return change(value)
    if isinstance(value, dict):
        return {key: _at(each, path[1:], change) if key == path[0] else each for key, each in value.items()}
    return [_at(each, path[1:], change) if number == path[0] else each for number, each in enumerate(value)]


def _scratched(rng: random.Random, data: bytes) -> bytes:
    """Changes bytes or words, wherever they stand."""
    if not data:
        return b"x"
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    to = min(to, at + 40)
    how = rng.randrange(8)
    if how == 0:
        flipped = bytearray(data)
        flipped[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if how == 1:
        return data[:at] + data[to:]
    if how == 2:
        return data[:at] + data[at:to] * rng.choice((2, 3)) + data[to:]
    if how == 3:
        return data[:at] + rng.choice(NASTY).encode("utf-8", "surrogatepass") + data[rng.choice((at, to)) :]
    if how == 4:
        return data[:at] + bytes([rng.randrange(256)]) + data[at:]
    if how == 5:
        lines = data.split(b"\n")
        first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[first], lines[second] = lines[second], lines[first]
        return b"\n".join(lines)
    if how == 6:
        words = data.split(b" ")
        first, second = rng.randrange(len(words)), rng.randrange(len(words))
        words[first] = words[second]
        return b" ".join(words)
    return data[:at] if rng.random() < 0.3 else data[:at] + b"  " * rng.randrange(4) + data[at:]


@dataclass
class Tally:
    """What became of mutants.

    Attributes:
        seen: how many, by what became of them.
        bad: numbers of those that were not refused in clean lines or took too long, with what happened.
        slowest: seconds of the processor's time, and the number.
        cpu: of all.
    """

    seen: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    cpu: float = 0.0


def offline() -> None:
    """Lets no name be looked up on the hub, and hashes bundled weights once."""

    def refuse(repository: str, revision: str | None, name: str) -> Path:
        raise ModelError(f"cannot get {name} of {repository}: the test has no network")

    weights.hub_file = refuse
    hashed = lru_cache(maxsize=None)(weights.weights_hash)
    for module in (weights, lookup, super_resolution):
        module.weights_hash = hashed  # type: ignore[attr-defined]
    assert traceable.read_json is weights.read_json


def check(kind: str, file: Path) -> str:
    """Reads a file and looks at what it would do; returns what became of it.

    Raises:
        AssertionError: the refusal is not one clean line a problem.
    """
    try:
        if kind == "cluster":
            load_cluster(file)
            return "cluster, valid"
        spec = load_sweep(file)
    except LocoError as error:
        lines = printable(str(error)).split("\n")
        assert all(line.startswith(f"{file.parent}") and line == line.strip() for line in lines), lines
        assert all(len(line) < 6000 and line.isprintable() for line in lines), lines
        return f"{kind}, refused"
    try:
        outlook(spec, outline(spec), None)
        return "sweep, valid, planned"
    except LocoError as error:
        problem = str(error)
    assert "\n" not in problem, problem
    return "sweep, valid, refused by plan"


def judge(numbers: range, folder: Path) -> Tally:
    """Checks mutants.

    Args:
        numbers: of the mutants.
        folder: to write them to.
    """
    tally = Tally()
    for number in numbers:
        kind, data = mutant(number)
        file = folder / "mutant.yaml"
        file.write_bytes(data)
        begun = time.process_time()
        try:
            tally.seen[check(kind, file)] += 1
        except Exception as error:  # whatever it is: that is what is looked for
            last = traceback.extract_tb(error.__traceback__)[-1]
            message = str(error).replace("\n", " ")[:300]
            tally.bad.append((number, f"{type(error).__name__} {last.filename}:{last.lineno} {message}"))
        seconds = time.process_time() - begun
        tally.cpu += seconds
        tally.slowest = max(tally.slowest, (seconds, number))
        if seconds > SECONDS:
            tally.bad.append((number, f"took {seconds:.1f} s"))
    return tally


def main() -> None:
    """Goes through a range in steps, a line each, so that it can go on where it was ended."""
    first, last = int(sys.argv[1]), int(sys.argv[2])
    os.environ["HOME"] = "/nonexistent"
    offline()
    with TemporaryDirectory() as folder:
        for start in range(first, last, 1000):
            numbers = range(start, min(start + 1000, last))
            tally = judge(numbers, Path(folder))
            line = {
                "from": start, "to": numbers.stop, "seen": dict(tally.seen), "bad": tally.bad,
                "slowest": tally.slowest, "cpu": round(tally.cpu, 1),
            }  # fmt: skip
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
