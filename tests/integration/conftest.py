"""A real browser for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

# A busy machine may take its time.
expect.set_options(timeout=30_000)


# Not of the whole session: an open playwright leaves its event loop running in this thread, where no other can start.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, the one of this machine."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on PATH; Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield browser
        browser.close()
