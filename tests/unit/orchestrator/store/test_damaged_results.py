"""Every command on results that were damaged, copied about or forged: one line, no harm, and back to what they were."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from orchestrator.resolve.lookup import resolve
from orchestrator.store import layout, open_store, publish
from orchestrator.viewing.catalogue import Catalogue
from tests.support.damage import INLINE, SWEEP, Damage, Ended, call, damages, flip, rows, tree

FLIPS = int(os.environ.get("LOCO_FLIPS", "60"))
UNNOTICED = ("scores/part-00000.parquet missing", "_meta/batches/tiny.json missing", "_meta/inflight.json missing",
             "report.html missing")  # fmt: skip
"""What is written anew by the next command, and is missed by nobody."""
FEW = (
    "scores/.DS_Store", "stray unit", "all of a part copied", "scores missing", "unit over another",
    "_meta/staging linked", "delta at ../outside/precious", "sweep pipe", "_meta gone",
)  # fmt: skip
"""One of each kind; the others take an hour."""


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Publishes parts of one unit, and looks up once what a sweep names: it does not change here."""
    known: dict[str, Any] = {}

    def looked_up(spec: Any) -> Any:
        key = spec.model_dump_json()
        if key not in known:
            known[key] = resolve(spec)
        return known[key]

    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "FIRST_UNITS", 1)
        patch.setattr("orchestrator.runs.sweep.resolve", looked_up)
        patch.setattr("orchestrator.runs.edits.resolve", looked_up)
        yield


@pytest.fixture(scope="module")
def sweep(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    path.write_text(SWEEP.format(model=tiny_pipeline))
    return path


@pytest.fixture(scope="module")
def sound(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with an edit, a report, and all that may lie beside."""
    root = tmp_path_factory.mktemp("sound") / "results"
    ended = call("run", sweep, "--results", root, *INLINE)
    assert (ended.code, ended.raised) == (0, ""), ended.text
    return root


@pytest.fixture(scope="module")
def expected(sound: Path) -> dict[str, list[str]]:
    found = rows(sound)
    assert all(found[name] for name in found if name != "failures")
    return found


@pytest.fixture(scope="module")
def done(sound: Path) -> Any:
    return _blocks(call("status", sound, "--json"))


def _blocks(ended: Ended) -> Any:
    found = json.loads(ended.text)
    return found["units"], found["units_done"], found["blocks"]


class Place:
    """A folder with a copy of results that were harmed, and one beside that nobody may touch."""

    def __init__(self, folder: Path, sound: Path, damage: Damage) -> None:
        self.root, self.outside = folder / "results", folder / "outside"
        self.outside.mkdir(parents=True)
        (self.outside / "precious").write_text("precious")
        shutil.copytree(sound, self.root)
        damage.harm(self.root)
        self.before, self._outside = tree(self.root), tree(self.outside)

    def call(self, *words: object) -> Ended:
        ended = call(*words)
        assert ended.raised == "", (words, ended)
        assert ended.code in range(5), (words, ended)
        assert tree(self.outside) == self._outside, words
        if ended.code in (1, 2) and words[0] != "verify":
            errors = [line for line in ended.text.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, (words, ended)
            assert ended.text.splitlines()[-1] == errors[0], (words, ended)
        return ended


Open = Callable[[str], Place]


@pytest.fixture
def place(tmp_path: Path, sound: Path) -> Callable[[Damage], Open]:
    return lambda damage: lambda name: Place(tmp_path / name, sound, damage)


def _look(root: Path) -> int:
    """What the viewer reads; how many images it shows."""
    from loco_core.errors import LocoError

    try:
        parts = Catalogue(open_store(str(root), create=False)).snapshot().parts
        return sum(part.index.num_rows for part in parts)
    except LocoError:
        return -1


def _try(damage: Damage, place: Open, sweep: Path, sound: Path, expected: dict[str, list[str]], done: Any) -> None:
    mine = place("read")
    for words in (("status",), ("localize",), ("localize", "--json"), ("verify",)):
        ended = mine.call(words[0], mine.root, *words[1:])
        assert tree(mine.root) == mine.before, words
        if damage.harmless and words[0] != "verify":
            assert ended.code == 0, (words, ended)
    noticed = mine.call("verify", mine.root)
    # What a localizer said can be told from the scores alone.
    unseen = damage.name in UNNOTICED or damage.name.startswith("localized ")
    assert unseen or damage.harmless or noticed.code == 1, noticed
    shown = _look(mine.root)
    if damage.harmless:
        assert _blocks(mine.call("status", mine.root, "--json")) == done
        assert shown == _look(sound)
    mine = place("written")
    run = ("run", sweep, "--results", mine.root, *INLINE)
    for words in (
        ("report", mine.root), ("export", mine.root, mine.root.parent / "exported", "--editor", "loco_edit"),
        ("localize", mine.root, "--write"), ("edit", mine.root, *INLINE), ("evaluate", mine.root, *INLINE),
        ("retry", mine.root, *INLINE), run,
    ):  # fmt: skip
        ended = mine.call(*words)
        assert not damage.harmless or ended.code == 0, (words, ended)
    if not damage.forged:
        _no_row_is_there_twice(mine.root, expected)
    mine = place("mended")
    ended = mine.call("verify", mine.root, "--repair")
    ended = mine.call("run", sweep, "--results", mine.root, *INLINE)
    if damage.mended or damage.harmless:
        assert ended.code == 0, ended
        assert rows(mine.root) == expected
        ended = mine.call("verify", mine.root)
        assert ended.code == 0, ended
        assert len(pd.read_parquet(mine.root / "effects")) == len(expected["effects"])
    else:
        _no_row_is_there_twice(mine.root, expected)


def _no_row_is_there_twice(root: Path, expected: dict[str, list[str]]) -> None:
    from loco_core.errors import LocoError

    try:
        found = rows(root)
    except LocoError:
        return
    for name in ("scores", "images", "evaluations"):
        assert len(found[name]) == len(set(found[name])) or len(expected[name]) != len(set(expected[name])), name
        assert len(found[name]) <= len(expected[name]), name


@cache
def _by_name() -> dict[str, Damage]:
    found = list(damages())
    assert len(found) >= 100
    assert len({damage.name for damage in found}) == len(found)
    return {damage.name: damage for damage in found}


@pytest.mark.parametrize("name", FEW)
def test_no_command_loses_doubles_or_touches_what_it_should_not(
    name: str, place: Callable[[Damage], Open], sweep: Path, sound: Path, expected: dict[str, list[str]], done: Any
) -> None:
    _try(_by_name()[name], place(_by_name()[name]), sweep, sound, expected, done)


@pytest.mark.chaos
@pytest.mark.parametrize("name", sorted(set(_by_name()) - set(FEW)))
def test_nor_does_any_on_any_other_damage(
    name: str, place: Callable[[Damage], Open], sweep: Path, sound: Path, expected: dict[str, list[str]], done: Any
) -> None:
    _try(_by_name()[name], place(_by_name()[name]), sweep, sound, expected, done)


def test_every_flipped_bit_is_noticed_or_its_file_is_said_not_to_be_covered(sound: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(sound, tmp_path / "results"))
    (root / "scores" / ".DS_Store").write_bytes(b"x" * 100)
    (root / layout.QUARANTINE).mkdir()
    (root / layout.QUARANTINE / "x").write_bytes(b"x" * 100)
    chance, uncovered = random.Random(7), set[str]()
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.stat().st_size]
    for i in range(FLIPS):
        path = files[i % len(files)]
        data, name = path.read_bytes(), path.relative_to(root).as_posix()
        # Ends are where formats keep what matters.
        at = chance.choice([0, len(data) - 1, chance.randrange(len(data)), chance.randrange(len(data))])
        flip(path, at, chance.randrange(8))
        ended = call("verify", root)
        assert ended.raised == "", (name, at, ended)
        noticed = ended.code == 1 and f"{root}/{name}: " in ended.text
        if not noticed:
            said = [line for line in ended.text.splitlines() if "not covered" in line]
            assert any(name in line or path.parent.relative_to(root).as_posix() in line for line in said), (name, ended)
            uncovered.add(name)
        path.write_bytes(data)
    assert call("verify", root).code == 0
    assert uncovered <= {"scores/.DS_Store", f"{layout.QUARANTINE}/x"}


def test_an_export_leaves_alone_what_lies_beside_it(sound: Path, tmp_path: Path) -> None:
    for name in (".x.partial", ".x.tmp", "x.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("precious")
    before = tree(tmp_path)
    (tmp_path / "x.link").symlink_to(tmp_path / "nothing")
    ended = call("export", sound, tmp_path / "x.link", "--editor", "loco_edit")
    assert (ended.code, ended.raised) == (1, ""), ended
    (tmp_path / "x.link").unlink()
    assert tree(tmp_path) == before
    ended = call("export", sound, tmp_path / "x", "--editor", "loco_edit")
    assert (ended.code, ended.raised) == (0, ""), ended
    found = tree(tmp_path)
    assert {path: found[path] for path in before} == before
    assert {path.partition("/")[0] for path in found} == {".x.partial", ".x.tmp", "x.partial", "x"}
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("words", [["report"], ["localize", "--write"], ["edit", *INLINE], ["verify", "--repair"]])
def test_results_that_cannot_be_written_are_answered_with_what_the_command_has(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    root = Path(shutil.copytree(sound, tmp_path / "results"))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "link", refuse)
    ended = call(words[0], root, *words[1:])
    assert (ended.code, ended.raised) == (1, "")
    (error,) = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    assert "Read-only file system; expected a folder that can be written" in error
    assert "copy the results to one that is" in error
    assert "with --results" not in error
