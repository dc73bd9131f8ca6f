"""The report as people meet it: in a browser, without a network, by keyboard, on a laptop and on a phone."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from orchestrator import __version__, driver
from orchestrator.backends.inline import InlineBackend
from orchestrator.cli.main import app
from orchestrator.reporting import write_report
from orchestrator.reporting.findings import read_findings
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.store import Store, encode_document, make_table, open_store
from orchestrator.store.layout import RESOLVED
from tests.integration.test_edits import LOCALIZER
from tests.sweeps import tiny_sweep

TABS = ["findings", "heatmap", "pictures", "edits", "before-after", "methods"]


@pytest.fixture(scope="module")
def results(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small chain with everything in it: pictures, edits, evaluations."""
    root = tmp_path_factory.mktemp("report")
    localizer = root / "six.py"
    localizer.write_text(LOCALIZER.replace("window_start=8", "window_start=6"))
    spec = tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=1, images="report", controls={"random": 0},
        windows={"sizes": [1, 2], "stride": 3}, localize={"localizer": str(localizer), "resamples": 100},
        edit={"lambdas": [0.01, 0.1], "neurons": [0.1], "tokens": ["last_subject"]},
        # Without a judge: that one never sees an attribute in what a random model draws.
        evaluate={"prompts": 1, "seeds": 6, "neighbours": 1, "windows": False}, reproduces="locogen-sd14",
    )  # fmt: skip
    driver.run(
        spec, str(root / "results"), lambda settings: InlineBackend(settings, threads=1), on_progress=lambda _: None,
        on_localized=lambda _: None, stop=StopSwitch(),
    )  # fmt: skip
    outcome = CliRunner().invoke(app, ["report", str(root / "results")])
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.strip() == str(root / "results" / "report.html")
    return root / "results"


class Visit:
    """A page, and all that it complained of or asked the network for."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.complaints, self.requests = page, list[str](), list[str]()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["laptop", "phone"])
def visit(request: pytest.FixtureRequest, browser: Browser, results: Path) -> Iterator[Visit]:
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    yield Visit(page, f"file://{results}/report.html")
    page.close()


def test_every_tab_opens_by_keyboard_without_error_network_or_sideways_scrolling(visit: Visit) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    for key in TABS:
        assert page.evaluate("document.activeElement.id") == f"tab-{key}"
        assert page.locator(f"#{key}").is_visible()
        assert page.locator("[role=tabpanel]:visible").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), key
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-findings"
    assert not visit.complaints
    assert all(address.startswith(("file:", "data:")) for address in visit.requests)


def test_what_was_found_is_said_and_drawn(visit: Visit) -> None:
    text = visit.page.locator("#findings").inner_text()
    assert "style/velor in tiny: in the pictures drawn the pick is sites 6–7" in text, "its localizer has no bounds"
    assert re.search(r"loco_edit, paired, at sites 6–7, λ .* show the donor's class instead", text)
    assert "Against the same edit at all sites" in text
    assert visit.page.locator("rect.picked title").all_text_contents() == [
        "6: mid_block.attentions.0", "7: up_blocks.0.attentions.0"
    ]  # fmt: skip


def test_what_was_published_stands_beside_it(results: Path) -> None:
    page = (results / "report.html").read_text()
    part = page[page.index("Published beside measured") : page.index('id="heatmap"')]
    windows, edits = (re.findall(r"<td>(.*?)</td>", table) for table in part.split("</table>")[:2])
    assert windows[:4] == ["style/velor in tiny", "sites 8–9", "text of the paper", "not swept"]
    assert windows[4:] == ["sites 6–7: no effect to measure", "other sites"]
    assert edits[0].startswith("style/velor in tiny: loco_edit, as published, at sites 6–7, absolute λ 0.01")
    assert edits[1:3] == ["30.04 → 29.99 on 320 COCO prompts", "text of the paper"]
    assert re.fullmatch(r"-?[\d.]+ → -?[\d.]+ on 6 pictures of 1 prompt without the attribute \(.*\)", edits[3])
    assert len(edits) == 4, "paired edits are not the paper's"
    assert "Published for Stable Diffusion 1.5" in part


def test_a_report_is_written_where_the_project_is_not_installed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster, where its packages travel with the job."""

    def of(name: str) -> Distribution:
        if name == "loco-sweep":
            raise PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr("importlib.metadata.distribution", of)
    assert read_findings(open_store(str(results))).provenance["loco-sweep"] == __version__


def test_pictures_stand_in_order_and_open_large_by_keyboard(visit: Visit) -> None:
    page = visit.page
    page.click("#tab-pictures")
    assert page.locator("#pictures .picture span").all_text_contents() == [
        "clean", "0–1", "3–4", "6–7", "9–10", "12–13", "all sites", "donor"
    ]  # fmt: skip
    assert page.locator("#pictures .picture.picked span").all_text_contents() == ["6–7"]
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.querySelector('span')?.textContent ?? ''"))
    assert set(reached) >= {"clean", "0–1", "3–4", "6–7", "9–10", "12–13", "all sites", "donor"}
    page.locator("#pictures .picture").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog img").is_visible()
    assert page.evaluate("document.querySelector('dialog img').naturalWidth") > 0
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_edits_are_plotted_and_shown_before_and_after(visit: Visit) -> None:
    page = visit.page
    page.click("#tab-edits")
    assert page.locator("#plane-plot .scatterlayer .trace").count() > 0
    assert "the paper's λ" in page.locator("#curve-plot").text_content()  # type: ignore[operator]
    chosen = page.locator("#edits-table tr.chosen").count()
    assert chosen == page.locator("#edits-table tr").count() - 1 == 3
    page.select_option("#edits-shown", "tiny · style/velor")
    assert page.locator("#edits-table tr").count() > 5
    page.click("#tab-before-after")
    headings = page.locator("#before-after figcaption").all_text_contents()
    assert {heading.split(":")[0] for heading in headings} == {"target", "paraphrase", "neighbour", "unrelated"}
    first = page.locator("#before-after figure").first.locator("span").all_text_contents()
    assert first[0] == "before"
    assert any("all sites" in caption for caption in first)


@pytest.mark.parametrize(("name", "form", "start"), [
    ("effects", "csv", "model,attribute,window_start,window_size,effect,ci_low,ci_high\ntiny,style/velor,0,1,"),
    ("localizations", "tex", "% needs \\usepackage{booktabs}\n\\begin{tabular}"),
    ("edits", "csv", "edit_id,model,attribute,editor,targets,scope,"),
])  # fmt: skip
def test_tables_are_downloaded(browser: Browser, results: Path, name: str, form: str, start: str) -> None:
    page = browser.new_page()
    page.goto(f"file://{results}/report.html#methods")
    with page.expect_download() as found:
        page.click(f"[data-table={name}][data-format={form}]")
    assert Path(found.value.path()).read_text().startswith(start)
    with page.expect_download() as found:
        page.click("a[download='heatmap-tiny-1.pdf']")
    assert Path(found.value.path()).read_bytes().startswith(b"%PDF")
    page.close()


def test_hostile_names_are_text(browser: Browser, tmp_path: Path) -> None:
    store = big(tmp_path, attributes=2, n_sites=3, sizes=(1,), name="x</script><script>alert(1)</script>")
    write_report(store)
    page = browser.new_page()
    seen = Visit(page, f"file://{tmp_path}/report.html")
    assert page.locator("h1").inner_text() == "x</script><script>alert(1)</script>"
    page.click("#tab-heatmap")
    assert not seen.complaints
    page.close()


def test_two_hundred_attributes_and_340_windows_open_in_time(browser: Browser, tmp_path: Path) -> None:
    write_report(big(tmp_path, attributes=200, n_sites=70, sizes=(1, 2, 3, 4, 5)))
    assert (tmp_path / "report.html").stat().st_size < 15 * 2**20
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    seen = Visit(page, f"file://{tmp_path}/report.html")
    assert page.locator("article").count() == 200
    page.click("#tab-heatmap")
    page.wait_for_selector("#heatmap-plot .heatmaplayer image")
    assert not seen.complaints
    page.close()


def test_a_folder_without_a_sweep_is_one_line(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert outcome.exit_code == 1
    assert not list(tmp_path.iterdir())


def big(root: Path, *, attributes: int, n_sites: int, sizes: tuple[int, ...], name: str = "big") -> Store:
    """A results root as large as those of a large sweep, with made-up numbers."""
    rng, store = random.Random(0), open_store(str(root))
    spec = SweepSpec.model_validate(
        {
            "name": "big", "models": ["sdxl"], "attributes": ["style/velor"], "windows": {"sizes": list(sizes)},
            "scorer": "toy-clip",
        },
        strict=False,
    ).model_copy(update={"name": name})  # fmt: skip
    store.record_sweep("0" * 64, spec, "test")
    names = [f"down_blocks.1.attentions.{i}" for i in range(n_sites)]
    store.blobs.replace(
        RESOLVED, encode_document({"models": {"sdxl": "0" * 64}, "sites": {"sdxl": names}, "scorer": "1" * 64})
    )
    keys = [f"style/painter-{i}" for i in range(attributes)]
    windows = [(start, size) for size in sizes for start in range(n_sites - size + 1)]
    store.write_derived("effects", make_table("effects", [
        {"model": "sdxl", "attribute": key, "window_start": start, "window_size": size, "effect": rng.random(),
         "ci_low": rng.random(), "ci_high": rng.random()}
        for key, (start, size) in itertools.product(keys, windows)
    ]))  # fmt: skip
    store.write_derived("localizations", make_table("localizations", [
        {"model": "sdxl", "attribute": key, "outcome": "localized", "window_start": 1, "window_size": sizes[0],
         "best_start": 1, "best_size": sizes[0], "site_names": names[1:2], "effect": 0.9, "ci_low": 0.8, "ci_high": 1.0,
         "exploratory": False, "reason": ""}
        for key in keys
    ]))  # fmt: skip
    return store
