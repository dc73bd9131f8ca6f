"""Names are names: no markup, mathematics, page, formula or command of a terminal, wherever they are shown."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import torch
import yaml
from playwright.sync_api import Browser, Page, expect

from loco_core.errors import printable
from orchestrator.store import make_table, open_store, write_derived
from tests.support.axe import violations
from tests.support.sweeps import Command, tiny_sweep
from tests.support.views import serving

NAMES = (
    "[/x]", "the [v] dog", "[bold red]b[/bold red]", ":smile: :x:", "$_$", r"$\frac{1$", "a$b$c^d_e",
    "<b>x</b><br>&amp;", "<script>document.title = 'taken'</script>", '" onload="x', "=1+1", "+1;=2", "-1",
    "@SUM(A1)", "'", "%{y} %s %(a)s {x} {{ y }} {% if %}", "é 日本 \U0001f642 \U0001f468‍\U0001f469‍\U0001f467",
    "שלום عربي", "\u202eevil", "x" * 299, "\u009b31mred\u0085", "a\u2028b", "../../etc/passwd", "__proto__",
    r"\n \x1b[31m \textbf{x}", "NULL", "#a?b=c&d",
)  # fmt: skip
MODEL = "=1+1 [/m] $_$ <b>m</b> :x:"
INLINE = ("--backend", "inline", "--threads", 1)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a table's cells would be broken over lines."""
    monkeypatch.setenv("COLUMNS", "4000")


@pytest.fixture(scope="module")
def sweep(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def own(name: str) -> dict[str, Any]:
        records = [
            {"prompt": f"a {word} star", "donor": f"a {word} moon", "score_text": "star", "donor_text": "moon",
             "content_text": word}
            for word in ("red", "blue", "green")
        ]  # fmt: skip
        return {"kind": "k", "name": name, "mode": "replace", "records": records}

    spec = tiny_sweep(
        tiny_pipeline, name="[/s] $_$ <i>s</i>", models=[{"id": MODEL, "path": str(tiny_pipeline)}],
        attributes=[own(name) for name in NAMES], prompts=1, seeds=1, windows={"sizes": [1], "stride": 15},
        controls={"random": 0, "identity": False}, images="report",
        generation={"steps": 1, "guidance_scale": 3.0, "batch_size": 8},
    )  # fmt: skip
    file = tmp_path_factory.mktemp("hostile") / "sweep.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True), allow_unicode=True))
    return file


@pytest.fixture(scope="module")
def results(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with a row of edits too, which says all that such a row can."""
    from typer.testing import CliRunner

    from orchestrator.cli.main import app

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("results") / "[r] $_$"
    outcome = CliRunner(env={"COLUMNS": "4000"}).invoke(
        app, ["run", str(sweep), "--results", str(root), *map(str, INLINE)]
    )
    assert outcome.exit_code == 0, outcome.output
    assert_all_shown(outcome.output)
    return root


def assert_all_shown(text: str) -> None:
    assert MODEL in text
    for name in NAMES:
        assert f"k/{printable(name)}" in text, name
    assert not set(text) & {"\x1b", "\u009b", "\u202e", "\u0085"}


class Texts(HTMLParser):
    """What a page shows: its texts and what stands in attributes for a person; and whatever runs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shown, self.scripts, self.handlers = list[str](), list[str](), list[str]()
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.shown += [value or "" for name, value in attrs if name in ("title", "alt", "aria-label", "value")]

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside in ("script", "style") else self.shown).append(data)


def test_plan_shows_a_sweep_of_such_names(sweep: Path, command: Command) -> None:
    code, out, err = command("plan", sweep)
    assert (code, err) == (0, "")
    assert "units:" in out


def test_status_and_localize_show_every_name_as_it_stands(results: Path, command: Command) -> None:
    for words in (("status", results), ("localize", results)):
        code, out, err = command(*words)
        assert (code, err) == (0, "")
        assert_all_shown(out)
    for words in (("status", results, "--json"), ("localize", results, "--json")):
        code, out, err = command(*words)
        assert (code, err) == (0, "")
        assert all(json.dumps(f"k/{name}") in out for name in NAMES)


def test_a_name_that_is_not_there_is_told_as_it_stands(results: Path, command: Command) -> None:
    for name in (*NAMES, "\x1b[31m"):
        code, _, err = command("edit", results, "--attribute", f"{name}!", *INLINE)
        assert code == 2
        assert f'no attribute "{printable(name)}!"' in err
        assert "\x1b" not in err


def test_the_report_shows_every_name_as_text(results: Path, command: Command) -> None:
    code, _, err = command("report", results)
    assert (code, err) == (0, "")
    report = Texts((results / "report.html").read_text())
    for name in NAMES:
        assert any(f"k/{name}" in shown for shown in report.shown), name
    assert not report.handlers
    assert not [script for script in report.scripts if "taken" in script and script.strip().startswith("document")]


def test_the_viewer_shows_every_name_as_text(results: Path, browser: Browser, tmp_path: Path, command: Command) -> None:
    bundle = tmp_path / "bundle"
    code, _, err = command("view", results, "--bundle", bundle)
    assert (code, err) == (0, "")
    with serving(results) as address:
        for at in (address, bundle.as_uri() + "/index.html"):
            assert_viewer_shows_all(browser.new_page(), at)


ALTS = "images => images.map((image) => image.alt)"


def assert_viewer_shows_all(page: Page, at: str) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.goto(at)
    page.wait_for_selector(".grid img")
    plain = page.url.partition("#")[0]
    for name in NAMES:
        query = urlencode({"model": MODEL, "attribute": f"k/{name}"})
        page.goto(f"{plain}#{query}")
        expect(page.locator("#f-attribute")).to_have_value(f"k/{name}")
        assert f"k/{name}:" in (page.locator(".grid img").first.get_attribute("alt") or ""), name
        page.goto(f"{plain}#view=pictures&{query}")
        expect(page.locator("#f-control")).to_be_visible()
        expect(page.locator("#f-attribute")).to_have_value(f"k/{name}")
        assert {f"k/{name}:" in alt for alt in page.locator(".grid img").evaluate_all(ALTS)} == {True}, name
    assert problems == []
    # axe-core asks for the styles once more, which no page of a file may.
    assert violations(page) == []
    assert "taken" not in page.title()
    page.close()


@pytest.fixture
def page(results: Path, browser: Browser, command: Command) -> Iterator[Page]:
    store = open_store(str(results))
    if not store.read("edits").num_rows:
        # A random model has none to speak of.
        effect = {"model": MODEL, "window_size": 1, "effect": 0.5, "ci_low": 0.4, "ci_high": 0.6}
        effects = [{**effect, "attribute": f"k/{name}", "window_start": at} for name in NAMES for at in (0, 15)]
        write_derived(store, {"effects": make_table("effects", effects)})
        block = {"edit_id": "e", "model": MODEL, "attribute": f"k/{NAMES[0]}", "editor": "=1+1", "scope": "by_hand"}
        row = {**block, "attribute_kind": "k", "chosen": True, "site_indices": [1], "lambda": 0.1, "tokens": "all",
               "localization": "@[/x]: $_$ <b>"}  # fmt: skip
        seen = {**block, "unit_id": "0" * 64, "split": "report", "prompt": "p", "clip_text": "", "seed": 1,
                "judge_kind": "k"}  # fmt: skip
        write_derived(store, {"edits": make_table("edits", [row])})
        kept = {**seen, "prompt_role": "neighbour", "judge_before": "a", "judge_said": "a", "judge_after": "a"}
        tables = {"evaluations": make_table("evaluations", [{**seen, "prompt_role": "target", "flipped": True}, kept])}
        store.commit_unit("0" * 64, tables, "a")
        from orchestrator.store import Publisher

        Publisher(store).publish(flush=True)
    assert command("report", results)[0] == 0
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.goto(f"file://{os.fspath(results).replace('%', '%25').replace('#', '%23')}/report.html")
    yield page
    assert problems == []
    assert page.title() != "taken"
    page.close()


def test_figures_show_every_name_as_it_stands(page: Page) -> None:
    page.click("#tab-heatmap")
    figures = page.locator("#heatmap figure.triangles")
    shown = figures.evaluate_all("all => all.map(each => [each.dataset.model, each.querySelector('h2').textContent])")
    for name in NAMES:
        assert [MODEL, f"k/{name} {MODEL}"] in shown, name
    assert figures.locator("h2 b, h2 script").count() == 0
    page.click("#tab-edits")
    assert page.locator("#edits-table td").nth(1).inner_text().startswith("=1+1")


def test_no_cell_of_a_download_is_a_formula_and_names_stay_whole(page: Page) -> None:
    page.click("#tab-methods")
    seen = set[str]()
    for name in ("localizations", "effects", "edits"):
        with page.expect_download() as found:
            page.click(f"[data-table={name}][data-format=csv]")
        text = Path(found.value.path()).read_bytes().decode()
        rows = list(csv.reader(text.split("\n")))
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(("=", "@", "\t", "\r")), cell
            assert not cell.startswith(("+", "-")) or float(cell) is not None
            seen.add(cell.removeprefix("'") if cell[1:2] in tuple("=+-@") else cell)
    assert {f"k/{name}" for name in NAMES} <= seen
    assert MODEL in seen
    with page.expect_download() as found:
        page.click("[data-table=effects][data-format=tex]")
    lines = Path(found.value.path()).read_text().splitlines()
    assert not [line for line in lines if line.startswith("[")]
