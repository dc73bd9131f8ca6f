"""The snippets of README.md and of the pages of docs/ that are written by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator.spec import SweepSpec, load_sweep
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.submit import LoadedCluster, load_cluster

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = (ROOT / "README.md", *sorted((DOCS / "how-to").glob("*.md")), DOCS / "explanation" / "families.md")
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted(DOCS.rglob("*.md")))
OF_CLUSTERS = ClusterSpec.model_fields.keys() - SweepSpec.model_fields.keys()
"""Keys that cluster files have, and sweep files have not."""
_FILE = re.compile(r"# ([\w.-]+\.(?:py|yaml))$")


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page.

    Attributes:
        page: the page.
        language: word behind the fence.
        text: its lines.
    """

    page: Path
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line."""
        return self.text.splitlines()[0]

    @property
    def file(self) -> str | None:
        """Name of the file that it is, if its first line says one."""
        found = _FILE.match(self.first)
        return found and found.group(1)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of a snippet of YAML."""
        return frozenset(yaml.safe_load(self.text))

    def __str__(self) -> str:
        """Says where it is, for the names of tests."""
        return f"{self.page.stem}: {self.first[:60]}"


def snippets(pages: tuple[Path, ...], language: str) -> Iterator[Snippet]:
    """Yields the snippets of one language."""
    for page in pages:
        for text in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            yield Snippet(page, language, text)


def load(file: Path) -> SweepSpec | LoadedCluster:
    """Reads a file as what its keys say that it is: a sweep file, or a cluster file."""
    return load_cluster(file) if OF_CLUSTERS & yaml.safe_load(file.read_text()).keys() else load_sweep(file)


def commands(page: Path) -> Iterator[str]:
    """Yields all commands of loco-sweep that a page names in blocks for a shell, without their comments."""
    for language in ("console", "sh"):
        for snippet in snippets((page,), language):
            for line in snippet.text.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|;", line.split("  #")[0].removeprefix("$ ")):
                    words = part.strip().removeprefix("0) ").removeprefix("3) ")
                    if words.startswith("loco-sweep "):
                        yield words
