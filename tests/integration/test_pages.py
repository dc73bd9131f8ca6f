"""Pages of documentation name commands and options, files and headings that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from orchestrator import __version__
from orchestrator.cli.main import app
from tests.support.documents import GUIDES, PAGES, ROOT, Snippet, commands, load, snippets

TUTORIALS = tuple(sorted((ROOT / "docs" / "tutorials").glob("*.md")))
# Parts of files are on the guides only, and tried in test_readme.py.
WHOLE = [snippet for snippet in snippets((*GUIDES, *TUTORIALS), "yaml") if snippet.file or snippet.page in TUTORIALS]


def slug(heading: str) -> str:
    """Makes the anchor of a heading as GitHub and the site do."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return re.sub(r" +", "-", kept.strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            headings = {slug(heading) for heading in re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)}
            assert anchor in headings, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    cli = typer.main.get_command(app)
    assert isinstance(cli, TyperGroup)
    for line in commands(page):
        words = shlex.split(line.replace("[", "").replace("]", ""))[1:]
        found = cli.commands.get(words[0])
        assert found is not None, line
        options = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words[1:]:
            if word.startswith("--"):
                assert word.split("=")[0] in {*options, "--help"}, line


@pytest.mark.parametrize("snippet", WHOLE, ids=str)
def test_files_of_the_pages_are_valid(snippet: Snippet, tmp_path: Path) -> None:
    assert snippet.file is not None
    # A page that has no sweep file means that of the README.
    for each in snippets((ROOT / "README.md", snippet.page), "yaml"):
        if each.file is not None:
            (tmp_path / each.file).write_text(each.text)
    (tmp_path / snippet.file).write_text(snippet.text)
    load(tmp_path / snippet.file)


@pytest.mark.parametrize("snippet", list(snippets(TUTORIALS, "python")), ids=str)
def test_python_of_the_tutorials_compiles(snippet: Snippet) -> None:
    compile(snippet.text, snippet.page.name, "exec")


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["references"][0]["url"] in (ROOT / "README.md").read_text()
