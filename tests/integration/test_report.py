"""The report as people meet it: in a browser, without a network, by keyboard, on a laptop and on a phone."""

from __future__ import annotations

import io
import itertools
import random
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from typer.testing import CliRunner

from orchestrator import __version__
from orchestrator.backends.inline import InlineBackend
from orchestrator.cli.main import app
from orchestrator.reporting import write_report
from orchestrator.reporting.findings import read_findings
from orchestrator.reporting.pictures import MAX_BYTES
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.store import Publisher, Store, encode_document, make_table, open_store, write_derived
from orchestrator.store.layout import RESOLVED
from tests.support.axe import violations
from tests.support.runs import localizer_of
from tests.support.sweeps import tiny_sweep

TABS = ["findings", "heatmap", "pictures", "edits", "before-after", "methods"]


@pytest.fixture(scope="module")
def results(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small chain with everything in it: pictures, edits, evaluations."""
    root = tmp_path_factory.mktemp("report")
    localizer = root / "six.py"
    localizer.write_text(localizer_of(start=6, size=2))
    spec = tiny_sweep(
        tiny_pipeline, attributes=["style/velor"], prompts=1, seeds=1, images="report", controls={"random": 0},
        windows={"sizes": [1, 2], "stride": 3}, localize={"localizer": str(localizer), "resamples": 100},
        edit={"lambdas": [0.01, 0.1], "neurons": [0.1], "tokens": ["last_subject"]},
        # Without a judge, against one text: in what a random model draws nothing else sees the attribute.
        evaluate={"prompts": 1, "seeds": 6, "neighbours": 1, "windows": False}, margin="donor",
        reproduces="locogen-sd14",
    )  # fmt: skip
    run_sweep(
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
    card = visit.page.locator("article.finding")
    shown = card.inner_text()
    assert "Sites 6–7: picked in the pictures drawn, which says nothing of others." in shown
    assert "localized" not in shown, "its localizer has no bounds: picked, in every place"
    assert "0 of 1 (model, attribute) pair localized, 1 picked" in visit.page.locator("header").first.inner_text()
    assert card.locator(".profile g rect.marked title").all_text_contents() == [
        "6: mid_block.attentions.0", "7: up_blocks.0.attentions.0"
    ]  # fmt: skip
    # The squares of sites are hollow also where the drawing of the model is used again: the first begins at its corner.
    drawn = Image.open(io.BytesIO(card.locator(".profile use").screenshot())).convert("RGB")
    assert drawn.getpixel((4, 4)) == (255, 255, 255)
    assert card.locator(".profile g text").all_text_contents() == ["0", "15", "mid"]
    assert "picked: sites 6–7" in (card.locator(".profile").get_attribute("aria-label") or "")
    assert card.locator(".trio span").all_text_contents() == ["clean", "6–7", "donor"]
    assert card.locator(".trio img").evaluate_all("all => all.map((image) => image.naturalWidth > 0)") == [True] * 3
    card.locator("summary").click()
    text = card.inner_text()
    assert "style/velor in tiny: in the pictures drawn the pick is sites 6–7" in text
    assert re.search(r"loco_edit, paired, at sites 6–7, λ .* show the donor's class instead", text)
    assert "Against the same edit at all sites" in text


def test_a_card_has_a_row_per_edit_and_baseline(visit: Visit, results: Path) -> None:
    (item,) = read_findings(open_store(str(results))).items
    expected = [line for edit in item.chosen for line in (edit.label, *(c.rival for c in edit.comparisons))]
    rows = visit.page.locator("article table.edits tbody tr")
    labels = rows.locator("th").all_text_contents()
    assert [label.partition(" (of ")[0] for label in labels] == expected
    edit = item.chosen[0].summary
    cells = rows.first.locator("td.share")
    assert cells.count() == 5
    share = edit.flipped
    assert cells.first.inner_text().split("\n")[0] == (
        f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"
    )
    assert cells.first.locator("path").first.get_attribute("d") == f"M{100 * share.low:.0f} 4H{100 * share.high:.0f}"


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
    marks = page.locator("#plane-plot > svg .mark")
    places = marks.evaluate_all("all => all.map((mark) => mark.getAttribute('transform').split(' scale')[0])")
    assert len(set(places)) == len(places) > 3, "no mark lies on another"
    keys = page.locator("#plane-plot .legend li").evaluate_all(
        "all => all.map((key) => [key.textContent, key.querySelector('path').getAttribute('d')])"
    )
    assert len({form for _, form in keys}) == len(keys) > 2, "scopes are told apart by shape"
    assert "the paper's λ" in page.locator("#curve-plot").text_content()  # type: ignore[operator]
    chosen = page.locator("#edits-table tr.chosen").count()
    assert chosen == page.locator("#edits-table tr").count() - 1 == 3
    ticks = page.locator("#curve-plot text").all_text_contents()
    assert {"0.01", "0.1"} <= set(ticks)
    page.select_option("#edits-shown", label="tiny · style/velor")
    assert page.locator("#edits-table tr").count() > 5
    page.click("#tab-before-after")
    headings = page.locator("#before-after figcaption").all_text_contents()
    assert {heading.split(":")[0] for heading in headings} == {"target", "paraphrase", "neighbour", "unrelated"}
    first = page.locator("#before-after figure").first.locator("span").all_text_contents()
    assert first[0] == "before"
    assert any("all sites" in caption for caption in first)


def test_every_tab_and_finding_has_an_address(visit: Visit) -> None:
    page = visit.page
    page.click("article .links a:has-text('windows')")
    assert page.url.endswith("#tab=heatmap&model=tiny&attribute=style%2Fvelor")
    assert page.locator("#heatmap").is_visible()
    page.click("#tab-edits")
    page.select_option("#edits-shown", label="tiny · style/velor")
    for key in ("edits", "heatmap", "findings"):
        page.go_back()
        assert page.locator("[role=tabpanel]:visible").get_attribute("id") == key
    page.go_forward()
    assert page.locator("#heatmap").is_visible()
    page.evaluate("location.hash = 'tab=edits&model=tiny&attribute=style%2Fvelor'")
    page.wait_for_selector("#edits:not([hidden])")
    assert page.locator("#edits-shown option:checked").inner_text() == "tiny · style/velor"
    page.goto(page.url.partition("#")[0] + "#model=tiny&attribute=style%2Fvelor")
    page.wait_for_selector("#findings:not([hidden])")
    assert page.evaluate("document.activeElement.dataset.attribute") == "style/velor"


def test_triangles_give_their_numbers(browser: Browser, tmp_path: Path) -> None:
    store = big(tmp_path, attributes=2, n_sites=6, sizes=(1, 2))
    write_report(store)
    row = next(row for row in store.read("effects").to_pylist() if row["attribute"] == "style/painter-1")
    page = browser.new_page()
    page.goto(f"file://{tmp_path}/report.html#tab=heatmap&model=sdxl&attribute=style%2Fpainter-1")
    figure = page.locator("figure.triangles").nth(1)
    figure.locator("summary").click()
    expect(figure.locator(".numbers tr")).to_have_count(1 + 6 + 5)
    shown = figure.locator(".numbers tr").nth(1).locator("td").all_text_contents()
    effect, low, high = (f"{100 * row[name]:.0f}" for name in ("effect", "ci_low", "ci_high"))
    assert shown == ["1", "0", f"{effect} %", f"[{low}, {high}]"]
    cell = figure.locator("svg.triangle").bounding_box()
    assert cell is not None
    page.mouse.move(cell["x"] + 44 + 5, cell["y"] + 4 + 5)
    expect(page.locator("#readout")).to_have_text(f"site 0: {shown[2]} {shown[3]}")
    page.close()


def test_colours_follow_the_scheme_and_paper_shows_everything(visit: Visit) -> None:
    page = visit.page
    colour = "getComputedStyle(document.querySelector('.profile text')).fill"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) != light
    page.pdf(print_background=False)
    assert page.locator("#plane-plot .mark").count() > 3, "drawn for paper, though its tab was never opened"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(colour) == light, "paper is white"
    for key in TABS:
        assert page.locator(f"#{key}").is_visible()


def test_a_report_leads_to_the_viewer_that_serves_it(browser: Browser, results: Path) -> None:
    page = browser.new_page()
    page.goto(f"file://{results}/report.html")
    assert page.locator("article a.to-viewer").is_hidden()
    page.goto(f"file://{results}/report.html?viewer=mine")
    link = page.locator("article a.to-viewer")
    assert link.get_attribute("href") == "../index.html#result=mine&model=tiny&attribute=style%2Fvelor"
    page.locator(".trio .picture").first.click()
    cell = open_store(str(results)).read("scores").to_pylist()[0]
    shown = page.locator("dialog a.to-viewer").get_attribute("href") or ""
    found = re.fullmatch(r"\.\./index\.html#result=mine&picture=([0-9a-f]{16})", shown)
    assert found, shown
    assert len(cell["cell_id"]) > 16
    cells = open_store(str(results)).read("images").to_pylist()
    (row,) = [row for row in cells if row["cell_id"].startswith(found[1])]
    assert row["control"] == "clean"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit: Visit, scheme: Literal["light", "dark"]) -> None:
    page = visit.page
    page.emulate_media(color_scheme=scheme)
    for key in TABS:
        page.click(f"#tab-{key}")
        assert violations(page) == []
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert violations(page) == []
    page.click("#tab-findings")
    page.locator(".picture").first.click()
    assert violations(page) == []


def test_what_is_not_localized_shows_its_best_candidate_and_what_would_tell(browser: Browser, tmp_path: Path) -> None:
    reason = "no window is shown to reach 80%, but 2 may: about 3 more seeds of 8 prompts (9 in place of 6) would tell"
    row: dict[str, Any] = {
        "outcome": "inconclusive", "window_start": None, "window_size": None, "site_names": [], "reason": reason,
        "about": "these_prompts", "n_prompts": 8,
    }  # fmt: skip
    write_report(big(tmp_path, attributes=2, n_sites=6, sizes=(1, 2), **row))
    page = browser.new_page()
    page.goto(f"file://{tmp_path}/report.html")
    card = page.locator("article").first
    assert card.locator(".lead").inner_text() == (
        "Not decided: no window is shown to hold it. Best candidate: site 1, which removes 90 % [80, 100]."
    )
    assert "about 3 more seeds of 8 prompts (9 in place of 6)" in card.locator(".reason").inner_text()
    assert card.locator(".profile .bar.marked title").text_content() == card.locator(".bar title").nth(1).text_content()
    assert "picked" not in page.locator("#findings").inner_text()
    page.click("#tab-heatmap")
    assert page.locator(".outline.best").count() == 2
    page.close()


@pytest.mark.parametrize(("name", "form", "start"), [
    ("effects", "csv", "model,attribute,window_start,window_size,effect,ci_low,ci_high\ntiny,style/velor,0,1,"),
    ("localizations", "tex", "% needs \\usepackage{booktabs}\n\\begin{tabular}"),
    ("edits", "csv", "edit_id,model,attribute,editor,targets,scope,"),
])  # fmt: skip
def test_tables_are_downloaded(browser: Browser, results: Path, name: str, form: str, start: str) -> None:
    page = browser.new_page()
    page.goto(f"file://{results}/report.html#tab=methods")
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
    store = big(tmp_path, attributes=200, n_sites=70, sizes=(1, 2, 3, 4, 5))
    edited(store)
    write_report(store)
    # The results have no pictures, for which this much room is left.
    assert (tmp_path / "report.html").stat().st_size + MAX_BYTES < 15 * 2**20
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    seen = Visit(page, f"file://{tmp_path}/report.html")
    assert page.locator("article").count() == 200
    assert page.locator("article table.edits tbody tr").count() == 200 * 3 * 4
    page.click("#tab-heatmap")
    assert page.locator("#heatmap svg.triangle").count() == 200
    page.click("#tab-edits")
    assert page.locator("#plane-plot > svg .mark").count() == 200 * 3 * 4
    assert not seen.complaints
    page.close()


def test_the_report_of_an_unfinished_sweep_counts_every_pair(tmp_path: Path) -> None:
    write_report(big(tmp_path, attributes=3, n_sites=3, sizes=(1,), decided=1))
    assert "1 of 3 (model, attribute) pairs localized" in (tmp_path / "report.html").read_text()


def test_a_folder_without_a_sweep_is_one_line(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert outcome.exit_code == 1
    assert not list(tmp_path.iterdir())


def big(
    root: Path, *, attributes: int, n_sites: int, sizes: tuple[int, ...], name: str = "big", decided: int | None = None,
    **row: Any,
) -> Store:  # fmt: skip
    """A results root as large as those of a large sweep, with made-up numbers, of which some attributes are decided."""
    rng, store = random.Random(0), open_store(str(root))
    names = [f"painter-{i}" for i in range(attributes)]
    keys = [f"style/{painter}" for painter in names][:decided]
    records = [
        {"prompt": f"a {word} cat", "donor": f"a {word} dog", "score_text": "cat", "donor_text": "dog",
         "content_text": word, "template_id": f"t{number % 2}"}
        for number, word in enumerate(("red", "blue", "green", "white", "black", "grey", "pink", "brown"))
    ]  # fmt: skip
    own = [{"kind": "style", "name": painter, "mode": "replace", "records": records} for painter in names]
    spec = SweepSpec.model_validate(
        {
            "name": "big", "models": ["sdxl"], "attributes": own, "windows": {"sizes": list(sizes)},
            "prompts": 1, "scorer": "toy-clip",
        },
        strict=False,
    ).model_copy(update={"name": name})  # fmt: skip
    store.record_sweep("0" * 64, spec, "test")
    names = [f"down_blocks.1.attentions.{i}" for i in range(n_sites)]
    store.blobs.replace(
        RESOLVED, encode_document({"models": {"sdxl": "0" * 64}, "sites": {"sdxl": names}, "scorer": "1" * 64})
    )
    windows = [(start, size) for size in sizes for start in range(n_sites - size + 1)]
    write_derived(store, {"effects": make_table("effects", [
        {"model": "sdxl", "attribute": key, "window_start": start, "window_size": size, "effect": rng.random(),
         "ci_low": rng.random(), "ci_high": rng.random()}
        for key, (start, size) in itertools.product(keys, windows)
    ])})  # fmt: skip
    write_derived(store, {"localizations": make_table("localizations", [
        {"model": "sdxl", "attribute": key, "outcome": "localized", "window_start": 1, "window_size": sizes[0],
         "best_start": 1, "best_size": sizes[0], "site_names": names[1:2], "effect": 0.9, "ci_low": 0.8, "ci_high": 1.0,
         "exploratory": False, "reason": "", **row}
        for key in keys
    ])})  # fmt: skip
    return store


def edited(store: Store) -> None:
    """Gives every finding what three editors and three baselines of each did, made up."""
    rng, edits, seen = random.Random(0), list[dict[str, Any]](), list[dict[str, Any]]()
    for row in store.read("localizations").to_pylist():
        for editor, scope in itertools.product(
            ("loco_edit", "neurons", "uce"), ("localized", "all_sites", "placebo", "random")
        ):
            name = f"{row['attribute']} {editor} {scope}"
            block = {
                "edit_id": name, "model": row["model"], "attribute": row["attribute"], "editor": editor, "scope": scope,
            }  # fmt: skip
            edits.append({
                **block, "attribute_kind": "style", "chosen": scope == "localized", "site_indices": [1], "lambda": 0.1,
                "window_start": 1, "window_size": 1, "tokens": "last_subject", "localization": "window", "norm": 1.0,
            })  # fmt: skip
            for role, seed in itertools.product(("target", "paraphrase", "neighbour", "unrelated"), range(4)):
                said = {"judge_before": "a", "judge_said": "a", "judge_after": rng.choice("ab")}
                seen.append({
                    **block, **said, "unit_id": "0" * 64, "split": "report", "prompt": "p", "clip_text": "",
                    "seed": seed,
                    "judge_kind": "style" if role != "unrelated" else "object", "judge": "toy", "prompt_role": role,
                    "flipped": rng.random() < 0.5 if role in ("target", "paraphrase") else None,
                })  # fmt: skip
    write_derived(store, {"edits": make_table("edits", edits)})
    store.commit_unit("0" * 64, {"evaluations": make_table("evaluations", seen)}, "a")
    Publisher(store).publish(flush=True)
