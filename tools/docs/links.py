"""Checks a built site: every link leads to a file and an anchor of it, and nothing is loaded from elsewhere.

The builder checks links between pages. Links to other files, such as pictures, notebooks and schemas, it does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class _Page(HTMLParser):
    """Addresses and anchors of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, bool]] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects what one element names."""
        said = {key: value for key, value in attrs if value is not None}
        self.anchors |= {said[key] for key in ("id", "name") if key in said}
        if tag == "a" and "href" in said:
            self.links.append((said["href"], False))
        elif tag in LOADED and LOADED[tag] in said:
            self.links.append((said[LOADED[tag]], True))


@cache
def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def problems(site: Path) -> Iterator[str]:
    """Yields a line for every link that leads nowhere, and for everything that is loaded from elsewhere.

    Args:
        site: folder of the built site.
    """
    for path in sorted(site.rglob("*.html")):
        # The page of a web server for addresses that lead nowhere; its own begin at the root.
        if path.name == "404.html":
            continue
        for link, loaded in _read(path).links:
            if problem := _problem(path, link, loaded):
                yield f"{path.relative_to(site)}: {link}: {problem}"


def _problem(path: Path, link: str, loaded: bool) -> str | None:
    parts = urlsplit(link)
    if parts.scheme in ("http", "https") or parts.netloc:
        return "is loaded from the network" if loaded else None
    if parts.scheme:
        return None
    target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return "leads to no file"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _read(target).anchors:
        return "leads to no anchor"
    return None


def main() -> None:
    """Prints the problems of the site that the command line names; fails where there are any."""
    found = list(problems(Path(sys.argv[1]).resolve()))
    for line in found:
        print(line, file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
