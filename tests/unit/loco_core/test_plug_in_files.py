"""Plug-in files: executed once, under names of their own, in one version a run, and only where a person named them."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from loco_core import plugins
from loco_core.errors import SpecError
from loco_core.localization.base import rule
from loco_core.tracing.base import reads

COUNTS = """\
from pathlib import Path
with Path(__file__).with_suffix(".count").open("a") as file:
    file.write("x")
VERSION = {version}
def localize(scores, settings, site_names=()):
    return VERSION
"""


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    file = tmp_path / "counting.py"
    file.write_text(COUNTS.format(version=1))
    return file


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    with plugins.only_named(lines.append):
        yield lines


def executions(file: Path) -> int:
    count = file.with_suffix(".count")
    return len(count.read_text()) if count.exists() else 0


def test_a_file_is_executed_once_however_often_it_is_asked_for(counting: Path) -> None:
    for _ in range(3):
        assert rule(str(counting)).localize(None, None) == 1
        assert reads(str(counting)) is None
        plugins.look_again([str(counting), "window"])
        plugins.hold(plugins.digests([str(counting), "window"]).items())
    assert executions(counting) == 1


def test_a_changed_file_counts_from_the_next_look_on_and_not_before(counting: Path) -> None:
    first = plugins.digests([str(counting)])
    counting.write_text(COUNTS.format(version=2))
    assert rule(str(counting)).localize(None, None) == 1
    assert plugins.digests([str(counting)]) == first
    plugins.look_again([str(counting)])
    assert rule(str(counting)).localize(None, None) == 2
    assert plugins.digests([str(counting)]) != first
    assert executions(counting) == 2


def test_a_worker_that_finds_another_content_says_so_in_one_line(counting: Path) -> None:
    taken = {str(counting): "0" * 64}
    with pytest.raises(SpecError, match=f"{counting} is not the file that this run began with") as refused:
        plugins.hold(taken.items())
    assert "\n" not in str(refused.value)
    assert executions(counting) == 0


def test_a_process_goes_on_with_the_version_that_its_run_began_with(counting: Path) -> None:
    taken = plugins.digests([str(counting)])
    counting.write_text(COUNTS.format(version=2))
    plugins.look_again([str(counting)])
    assert rule(str(counting)).localize(None, None) == 2
    plugins.hold(taken.items())
    assert rule(str(counting)).localize(None, None) == 1
    assert executions(counting) == 2


@pytest.mark.parametrize("name", ["json", "types", "numpy", "loco_core", "__main__", "a b", "torch"])
def test_a_file_is_never_taken_for_another_module_nor_another_for_it(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.py"
    file.write_text(
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\nclass Found:\n    value: dataclasses.InitVar[int]\n    more: int = 0\n"
    )
    before = dict(sys.modules)
    module = plugins.load("localizers", str(file))
    assert sys.modules[module.__name__] is module
    assert module.__name__ not in before
    assert sys.modules.items() >= before.items()
    assert json.loads("1") == 1
    assert types.ModuleType is type(json)
    found = module.Found(1)
    assert pickle.loads(pickle.dumps(found)) == found
    other = tmp_path / "other" / file.name
    other.parent.mkdir()
    other.write_text(file.read_text())
    assert plugins.load("localizers", str(other)).Found is not module.Found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(:", r"bad\.py:1:\d+: .*; expected Python"),
        ("raise ValueError('one\\ntwo')", r"bad\.py cannot be imported: ValueError: one two$"),
        ("import sys; sys.exit(0)", r"bad\.py cannot be imported: SystemExit"),
        ("import nothing_of_this_name", r"bad\.py cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_file_that_cannot_be_executed_is_one_line_and_leaves_nothing(
    text: str, expected: str, tmp_path: Path
) -> None:
    file, before = tmp_path / "bad.py", set(sys.modules)
    file.write_text(text)
    for _ in range(2):
        with pytest.raises(SpecError, match=expected) as refused:
            plugins.load("scorers", str(file))
        assert "\n" not in str(refused.value)
    assert set(sys.modules) == before


def test_a_folder_named_as_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.py").mkdir()
    with pytest.raises(SpecError, match=r"x\.py cannot be read"):
        plugins.load("scorers", str(tmp_path / "x.py"))


def test_nobody_is_asked_to_trust_a_file_that_is_not_there(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(SpecError, match=r"no file .*/gone\.py, which these results name$"):
        plugins.load("localizers", str(tmp_path / "gone.py"))
    assert said == []


def test_a_file_that_nobody_named_is_not_executed(counting: Path, said: list[str]) -> None:
    key = str(counting)
    asked = (
        lambda: plugins.load("editors", key), lambda: rule(key), lambda: plugins.digests([key]),
        lambda: plugins.source("editors", key), lambda: plugins.hold([(key, "0" * 64)]),
    )  # fmt: skip
    for ask in asked:
        with pytest.raises(SpecError, match=f"name the Python file {counting}, which would be run here.*--trust"):
            ask()
    assert (executions(counting), said) == (0, [])


def test_a_file_is_executed_where_it_is_named_whatever_way_leads_there(
    counting: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = counting.with_name("link.py")
    link.symlink_to(counting)
    monkeypatch.chdir(counting.parent)
    plugins.name(["./link.py", "window"])
    assert rule(str(counting)).localize(None, None) == 1
    assert said == []


def test_a_link_to_a_named_file_that_is_put_elsewhere_later_is_refused(counting: Path, said: list[str]) -> None:
    link, evil = counting.with_name("link.py"), counting.with_name("evil.py")
    link.symlink_to(counting)
    evil.write_text(COUNTS.format(version=2))
    plugins.name([str(link)])
    link.unlink()
    link.symlink_to(evil)
    with pytest.raises(SpecError, match="--trust"):
        plugins.load("localizers", str(link))
    assert executions(evil) == 0


def test_trust_tells_each_file_once(counting: Path, said: list[str]) -> None:
    plugins.trust()
    for _ in range(2):
        rule(str(counting))
    assert said == [f"running {counting}, which these results name"]


def test_what_was_executed_before_is_refused_too_where_nobody_named_it(counting: Path) -> None:
    rule(str(counting))
    with plugins.only_named(lambda _: None), pytest.raises(SpecError, match="--trust"):
        rule(str(counting))
    rule(str(counting))


def test_versions_of_an_installed_package_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, info = tmp_path / "their_editor", tmp_path / "their_editor-1.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("from their_editor.rest import edit\n")
    (package / "rest.py").write_text("def edit(model, target, settings): ...\n")
    (info / "METADATA").write_text("Name: their_editor\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[loco_sweep.editors]\ntheirs = their_editor\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = plugins.source("editors", "theirs")
    (package / "rest.py").write_text("def edit(model, target, settings): return ()\n")
    assert plugins.source("editors", "theirs") not in (before, b"")
    assert plugins.source("editors", "uce") == b""
    for name in ("their_editor", "their_editor.rest"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_file_that_was_loaded_stays_where_its_folder_and_the_working_directory_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "mine.py").write_text("def localize(scores, settings, site_names=()): ...\n")
    monkeypatch.chdir(folder)
    before = plugins.load("localizers", str(folder / "mine.py"))
    (folder / "mine.py").unlink()
    folder.rmdir()
    assert plugins.load("localizers", str(folder / "mine.py")) is before
