"""The documentation site: pages that follow from the code are up to date, and a dead link does not pass."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.store import Publisher, Store, make_table
from orchestrator.store.local import LocalBlobs
from tools.docs import links
from tools.docs.pages import DOCS, ROOT, pages


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Builds the site of a folder with mkdocs.yml and docs/, strictly, as `make docs` does."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")
    return folder


def test_generated_files_are_up_to_date() -> None:
    stale = [
        name for name, content in pages().items()
        if not (ROOT / name).is_file() or (ROOT / name).read_bytes() != content
    ]  # fmt: skip
    assert stale == [], "run `make docs`"


def test_the_recipe_for_pandas_gives_whole_windows_of_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe,) = re.findall(r"```python\n(.*?)```", (DOCS / "reference" / "tables.md").read_text(), re.DOTALL)
    store = Store(LocalBlobs(tmp_path / "results" / "first"))
    store.write_schemas("a")
    common = {"unit_id": "u", "attribute": "style/lumio", "status": "ok"}
    rows = [
        {
            **common,
            "cell_id": "1",
            "model": "toy",
            "control": "window",
            "window_size": 2,
            "window_start": 12,
            "clip_score": 0.25,
        },
        {**common, "cell_id": "2", "model": "toy", "control": "clean", "clip_score": 0.75},
        {
            **common,
            "cell_id": "3",
            "model": "x",
            "control": "window",
            "window_size": 2,
            "window_start": 12,
            "clip_score": 0.5,
        },
    ]
    store.commit_unit("u", {"scores": make_table("scores", rows)}, "a")
    Publisher(store).publish(flush=True)
    monkeypatch.chdir(tmp_path)
    exec(recipe, {})
    printed = capsys.readouterr().out
    assert re.search(r"window_start +12\n", printed), printed
    assert "0.25" in printed


def test_every_page_has_its_place_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def named(item: object) -> list[str]:
        if isinstance(item, str):
            return [item]
        items = item.values() if isinstance(item, dict) else item
        return [name for part in items for name in named(part)]  # type: ignore[attr-defined]

    listed = named(nav)
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_site_is_built_strictly_and_loads_nothing_from_the_network(copy: Path) -> None:
    done = build(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    site = copy / "build" / "site"
    assert list(links.problems(site)) == []
    assert len(list(site.rglob("*.html"))) > len(list(DOCS.rglob("*.md")))


@pytest.mark.parametrize(
    ("link", "refused"),
    [
        ("[x](no-page.md)", "page does not exist"),
        ("[x](index.md#no-anchor)", "anchor does not exist"),
        ("[x](no-file.json)", "no-file.json: leads to no file"),
        ("![x](https://example.org/x.png)", "https://example.org/x.png: is loaded from the network"),
        ('<a href="index.html#no-anchor">x</a>', "index.html#no-anchor: leads to no anchor"),
    ],
)
def test_a_dead_link_does_not_pass(tmp_path: Path, link: str, refused: str) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Title\n\n{link}\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\nsite_dir: build/site\ntheme: {font: false}\n")
    done = build(tmp_path)
    said = done.stdout + done.stderr if done.returncode else "\n".join(links.problems(tmp_path / "build" / "site"))
    assert refused in said
