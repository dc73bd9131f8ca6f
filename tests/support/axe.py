"""What axe-core finds on a page: a rule that is broken, and where."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from playwright.sync_api import Page

_WAIT = """() => Promise.all(document.getAnimations().map((each) => each.finished.catch(() => null)))"""


@cache
def _axe() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Page) -> list[str]:
    """Returns every violation on a page as it stands, best practices included; a line per element."""
    page.evaluate(_WAIT)
    page.evaluate(f"() => {{ {_axe()} }}")
    found = page.evaluate("() => axe.run(document)")
    return [
        f"{rule['id']}: {node['html'][:200]} ({node['failureSummary']})"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
