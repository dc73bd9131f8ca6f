"""The images of sweeps in a real browser, served by the real command, or written by it for any file server."""

from __future__ import annotations

import re
import socket
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from orchestrator.cli.main import main
from orchestrator.store import Publisher, Store, make_table, write_derived
from tests.support.axe import violations
from tests.support.loopback import listening
from tests.support.sweeps import Command
from tests.support.views import commit, localize, make_store, png, serving, token, without_token

HOSTILE = '<script>document.title = "taken"</script> & "a dog" in lumio'
PROMPTS = ("a cat in lumio", HOSTILE)
REPORT = "<!doctype html><title>r</title><script>document.title = `ran ${location.search}${location.hash}`</script>"
ALL = "#view=pictures"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_store(tmp_path_factory.mktemp("results"))
    for block in product(("toy", "toy-planted-a"), ("style/lumio", "fact/zandia"), PROMPTS, (0, 1)):
        commit(store, *block)
    localize(store, "toy", "style/lumio")
    common = {"unit_id": "e", "model": "toy", "attribute": "style/lumio", "prompt": "a cup in lumio", "seed": 500,
              "prompt_role": "target"}  # fmt: skip
    pictures = [("before", None, "0"), ("edited", "abc", "1")]
    rows = [
        {**common, "cell_id": n, "image_id": n, "control": control, "edit_id": edit,
         "image": {"bytes": png(0, 200, 0, size=512), "path": "x.png"}}
        for control, edit, n in pictures
    ]  # fmt: skip
    seen = {**common, "edit_id": "abc", "clip_before": 0.31, "clip_after": 0.12, "margin_before": 0.2,
            "margin_after": 0.0, "judge_kind": "style", "judge_before": "lumio", "judge_after": "none",
            "status": "ok"}  # fmt: skip
    other = {**seen, "judge_kind": "object", "judge_before": "cup", "judge_after": "cup"}
    tables = {"images": make_table("images", rows), "evaluations": make_table("evaluations", [other, seen])}
    store.commit_unit("e", tables, "a")
    edit = {
        "edit_id": "abc",
        "editor": "loco_edit",
        "scope": "all_sites",
        "lambda": 0.1,
        "tokens": "all",
        "chosen": True,
    }
    write_derived(store, {"edits": make_table("edits", [edit])})
    Publisher(store).publish(flush=True)
    store.blobs.replace("report.html", REPORT.encode())
    return store


@pytest.fixture(scope="module")
def address(store: Store) -> Iterator[str]:
    with serving(store.root) as address:
        yield address


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Open]:
    """Opens pages; in the end none may have had an error or have asked another origin."""
    errors: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(path: str = "", at: str = address, width: int = 1280, **options: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(at + path)
        expect(page.locator("#heading")).not_to_contain_text("Loading")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert {url.startswith("file:///") or re.match(r"https?://127\.0\.0\.1:\d+", url) is not None for url in asked} <= {
        True
    }


def state(**values: object) -> str:
    """Returns the address of what the viewer shows."""
    return "#" + urlencode(values)


def settled(page: Page) -> None:
    # What `content-visibility: auto` holds has no text before Chromium drew a frame with it in sight.
    page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


def titles(page: Page | Locator) -> list[str]:
    settled(page if isinstance(page, Page) else page.page)
    return page.locator(".grid .title" if isinstance(page, Page) else ".title").all_text_contents()


def effects(page: Page) -> list[str]:
    return [re.sub(r"effect (\S+?) ?score.*", r"\1", text) for text in page.locator(".numbers").all_text_contents()]


def section(page: Page, title: str) -> Locator:
    """Returns the pictures under a heading."""
    return page.locator(f"h2:has-text('{title}') + .grid")


def spoil(results: Path) -> None:
    """Changes a byte of an image."""
    part = results / "images" / "part-00001.parquet"
    data = bytearray(part.read_bytes())
    data[data.find(b"IDAT")] ^= 1
    part.write_bytes(data)


def assert_soon(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def tab_to(page: Page, name: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            return
    raise AssertionError(f"no Tab leads to {name}")


STATES = (
    "", "#view=pictures&page=2", "#compare=models", "#compare=edits", "#view=pictures&model=none",
    "#view=pictures&sort=largest&from=0.5&picked=yes&page=1",
)  # fmt: skip


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_state_of_the_page_breaks_a_rule_of_axe_and_none_is_too_wide(
    open_page: Open, width: int, scheme: str, tmp_path: Path
) -> None:
    page = open_page(width=width, color_scheme=scheme)
    for path in STATES:
        page.goto(without_token(page.url) + path)
        page.wait_for_load_state("networkidle")
        assert (path, violations(page)) == (path, [])
        assert page.evaluate("document.documentElement.scrollWidth") == width, path
    page.goto(without_token(page.url).partition("#")[0] + "#")
    page.locator(".grid a").first.click()
    expect(page.locator("dialog dl")).to_contain_text("cell_id")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    make_store(tmp_path, images="none")
    with serving(tmp_path) as address:
        page = open_page(at=address, width=width, color_scheme=scheme)
        expect(page.get_by_role("heading", name="No images were kept")).to_be_visible()
        assert violations(page) == []
        page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_every_picture_is_there(open_page: Open, width: int) -> None:
    page = open_page(ALL, width=width)
    page.wait_for_load_state("networkidle")
    image = page.locator(".grid img").first
    expect(image).to_have_class("small")
    assert image.evaluate("(i) => [i.naturalWidth, getComputedStyle(i).imageRendering]") == [32, "pixelated"]
    box = image.bounding_box()
    assert box is not None
    assert box["width"] >= 155
    assert all(alt for alt in page.locator(".grid img").evaluate_all("all => all.map((i) => i.alt)"))


def test_first_come_clean_window_and_donor_of_what_was_localized(open_page: Open) -> None:
    page = open_page()
    first = page.locator(".grid").first
    assert titles(first) == ["clean", "site 3", "donor"]
    assert first.locator(".tag").all_text_contents() == ["picked"]
    expect(page.locator("h2").first).to_contain_text("localized: site 3, effect 0.90 [0.85, 0.95]")
    assert page.locator("#f-attribute").input_value() == "style/lumio"
    # The margin falls by 0.36 of the 0.4 that it falls by with the donor prompt.
    assert effects(page)[:3] == ["0.00", "0.90", "1.00"]
    assert first.locator(".numbers").all_text_contents()[1] == "effect 0.90score 0.120"
    shares = "bars => bars.map((bar) => bar.offsetWidth / bar.parentElement.offsetWidth)"
    assert first.locator(".fill").evaluate_all(shares) == pytest.approx([0, 0.9, 1], abs=0.01)
    expect(page.locator("#legend")).to_contain_text("threshold, 0.8")
    # Nothing was localized there.
    page.get_by_label("Attribute").select_option("fact/zandia")
    expect(page.locator("h2").first).to_contain_text("not localized yet")
    assert page.locator(".tag").all_text_contents() == ["largest effect"]


def test_pictures_are_sorted_and_filtered_by_effect(open_page: Open) -> None:
    page = open_page(f"{ALL}&model=toy&attribute=style/lumio&seed=0&control=window")
    page.get_by_label("Order").select_option("largest")
    page.wait_for_url("**sort=largest")
    found = [float(effect) for effect in effects(page)]
    assert found == sorted(found, reverse=True)
    assert len(found) == 22
    page.get_by_label("Effect from").fill("0.5")
    page.get_by_label("Effect from").press("Enter")
    page.wait_for_url("**from=0.5*")
    assert set(titles(page)) == {"site 3", "sites 2-3", "sites 3-4"}
    page.get_by_label("Effect to").fill("0.8")
    page.get_by_label("Effect to").press("Enter")
    expect(page.get_by_text("No picture matches")).to_be_visible()
    page.get_by_role("link", name="Clear").click()
    page.get_by_label("Picked window").select_option("yes")
    assert titles(page) == ["site 3"] * 4
    assert page.locator(".tag").count() == 4


def test_filters_by_keyboard_alone_and_back(open_page: Open) -> None:
    page = open_page(ALL)
    expect(page.get_by_role("status")).to_have_text("1-200 of 258 pictures")
    tab_to(page, "f-control")
    page.keyboard.type("win")
    page.wait_for_url("**control=window")
    expect(page.locator("#f-control")).to_be_focused()
    expect(page.get_by_role("status")).to_have_text("176 pictures")
    tab_to(page, "f-size")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.wait_for_url("**control=window&size=2")
    tab_to(page, "f-start")
    page.keyboard.type("3")
    page.wait_for_url("**control=window&size=2&start=3")
    assert set(titles(page)) == {"sites 3-4"}
    assert page.locator("#f-size option").all_text_contents() == ["All", "1", "2"]
    # Options that the arrow keys passed over are no places of their own.
    page.go_back()
    page.wait_for_url("**control=window&size=2")
    page.go_back()
    expect(page.get_by_role("status")).to_have_text("176 pictures")
    page.go_forward()
    expect(page.locator("#f-size")).to_have_value("2")


def test_pages_of_pictures(open_page: Open) -> None:
    page = open_page(ALL)
    assert len(titles(page)) == 200
    page.get_by_role("link", name="Next").first.click()
    expect(page.get_by_role("status")).to_have_text("201-258 of 258 pictures")
    assert len(titles(page)) == 58
    page.get_by_role("link", name="Previous").first.click()
    expect(page.get_by_role("status")).to_have_text("1-200 of 258 pictures")


def test_one_picture_large_has_an_address(open_page: Open, address: str) -> None:
    page = open_page(f"{ALL}&model=toy&attribute=style/lumio&control=window&size=1&seed=1")
    page.locator(".grid a").nth(1).focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="site 1")
    expect(dialog).to_be_visible()
    expect(dialog.locator("dl")).to_contain_text("window_start")
    columns = dict(zip(dialog.locator("dt").all_inner_texts(), dialog.locator("dd").all_inner_texts(), strict=True))
    assert (columns["model"], columns["window_start"], columns["clip_score"]) == ("toy", "1", "0.2950")
    assert {"unit_id", "cell_id", "image_id", "donor"} <= columns.keys()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name="site 2")).to_be_visible()
    assert page.url.endswith("picture=" + page.locator("dialog dd.id").nth(2).inner_text()[:16])
    # Whoever gets the address sees the same; also without the filters that it was found by.
    for mark in (page.url.partition("#")[2], page.url.rpartition("&")[2]):
        expect(open_page(f"#{mark}").get_by_role("dialog", name="site 2")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("dialog", name="site 0")).to_be_visible()
    expect(page.get_by_role("button", name="Previous picture")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator(".grid a").first).to_be_focused()
    page.go_back()
    expect(page.get_by_role("dialog", name="site 0")).to_be_visible()
    page.go_back()
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator("#f-size")).to_have_value("1")


def test_side_by_side_in_the_order_of_windows(open_page: Open) -> None:
    page = open_page(f"{ALL}&model=toy&attribute=style/lumio&control=window&size=1&seed=1")
    page.locator(".grid a").first.click()
    page.get_by_role("link", name="Same prompt and seed").click()
    expect(page.locator("dialog")).to_be_hidden()
    assert page.locator("#f-prompt").input_value() in PROMPTS
    assert page.locator("#f-seed").input_value() == "1"
    ones = [f"site {i}" for i in range(6)]
    twos = [f"sites {i}-{i + 1}" for i in range(5)]
    assert titles(section(page, "Windows of 1 site")) == ones
    assert titles(section(page, "Windows of 2 sites")) == twos
    assert titles(section(page, "Controls")) == ["all sites", "identity", "all but sites 1-5"]
    assert page.locator(".many .tag").all_text_contents() == ["picked"]
    page.get_by_label("Window size").select_option("2")
    assert titles(page) == ["clean", "site 3", "donor", *twos, "all sites", "identity"]


def test_the_next_prompt_is_a_key_away(open_page: Open) -> None:
    page = open_page()
    prompts = page.locator("#f-prompt option").all_text_contents()
    expect(page.locator("#heading")).to_have_text(prompts[0])
    expect(page.get_by_role("button", name="Previous prompt")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#heading")).to_have_text(prompts[1])
    expect(page.get_by_role("button", name="Next prompt")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#heading")).to_have_text(prompts[0])
    page.get_by_role("button", name="Next prompt").click()
    expect(page.locator("#heading")).to_have_text(prompts[1])
    # In a field the keys are the field's own.
    page.get_by_label("Seed").select_option("1")
    page.get_by_label("Seed").press("ArrowLeft")
    expect(page.locator("#heading")).to_have_text(prompts[1])


def test_an_image_that_stands_for_two_cells_is_found_under_both(open_page: Open) -> None:
    page = open_page(f"{ALL}&control=complement&model=toy&attribute=style/lumio&seed=0")
    assert titles(page) == ["all but sites 1-5"] * 2
    src = page.locator(".grid img").first.get_attribute("src")
    page = open_page(f"{ALL}&control=window&size=1&start=0&model=toy&attribute=style/lumio&seed=0")
    assert page.locator(".grid img").first.get_attribute("src") == src


def test_edits_are_compared(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Compare").select_option("edits")
    expect(page.get_by_label("Prompt role")).to_have_value("target")
    assert page.locator(".tag").all_text_contents() == ["chosen"]
    assert titles(page) == ["before the edit", "loco_edit, all sites, λ 0.1, all"]
    expect(page.locator(".grid img").first).not_to_have_class("small")
    # The margin falls by half of what it falls by with the donor prompt.
    assert page.locator(".numbers").all_text_contents() == [
        "effect 0.00score 0.310judge lumio",
        "effect 0.50score 0.120judge none",
    ]
    page.locator(".grid a").nth(1).click()
    expect(page.locator("dialog dl")).to_contain_text("margin_after")
    page = open_page(f"{ALL}&role=target")
    page.get_by_label("Edit", exact=True).select_option("abc")
    assert page.locator("#f-edit option").all_text_contents() == ["All", "loco_edit, all sites, λ 0.1, all (abc)"]
    assert len(titles(page)) == 1


def test_of_several_options_the_first_are_what_was_localized(open_page: Open, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for steps in (20, 50):
        commit(store, "toy", "style/lumio", PROMPTS[0], 0, steps)
    localize(store, "toy", "style/lumio")
    Publisher(store).publish(flush=True)
    with serving(tmp_path) as address:
        page = open_page(at=address)
        assert titles(page.locator(".grid").first) == ["clean", "site 3", "donor"]
        marks = {
            steps: section(page, f"Windows of 1 site: kv, steps 0-{steps}, all tokens").locator(".tag").count()
            for steps in (20, 50)
        }
        assert marks == {20: 0, 50: 1}
        page.goto(page.url.partition("#")[0] + ALL)
        page.get_by_label("Intervention").select_option("kv, steps 0-20, all tokens, conditional")
        page.get_by_label("Control").select_option("window")
        assert len(titles(page)) == 11
        page.close()


def test_models_are_compared(open_page: Open) -> None:
    page = open_page()
    page.get_by_label("Compare").select_option("models")
    assert titles(section(page, "toy: localized")) == ["clean", "site 3", "donor"]
    assert titles(section(page, "toy-planted-a: not localized yet")) == ["clean", "site 3", "donor"]
    assert page.locator("#f-model").count() == 0


def test_results_are_compared(open_page: Open, store: Store, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other")
    commit(other, "toy", "style/lumio", PROMPTS[0], 0)
    Publisher(other).publish(flush=True)
    empty = make_store(tmp_path / "empty", images="none", name="none kept")
    names = [f"small ({Path(root).name})" for root in (store.root, other.root)]
    with serving(store.root, other.root, empty.root) as address:
        page = open_page(state(compare="results", attribute="style/lumio", prompt=PROMPTS[0]), at=address)
        for name, verdict in zip(names, ("localized", "not localized yet"), strict=True):
            assert titles(section(page, f"{name}: {verdict}")) == ["clean", "site 3", "donor"]
        expect(page.get_by_role("alert")).to_have_text("none kept: no images were kept (images: none)")
        # The same cell is in both.
        page.locator(".grid").nth(1).locator("a").nth(1).click()
        page.get_by_role("link", name="Same prompt and seed").click()
        expect(page.locator("#f-result")).to_have_value(names[1])
        assert violations(page) == []
        page.get_by_role("link", name="All pictures").click()
        page.get_by_label("Results").select_option(names[1])
        expect(page.get_by_role("status")).to_have_text("16 pictures")
        page.close()


def test_a_hostile_prompt_is_text(open_page: Open) -> None:
    page = open_page(f"{ALL}&seed=0&control=clean")
    assert page.title() == "small: all pictures"
    expect(page.locator(".about.prompt", has_text="<script>").first).to_have_text(HOSTILE)
    page.locator(".grid a", has_text="<script>").first.click()
    expect(page.locator("dialog dd", has_text="<script>")).to_have_text(HOSTILE)
    page.get_by_role("link", name="Same prompt and seed").click()
    expect(page.locator("#heading")).to_have_text(HOSTILE)
    assert page.title() == "small: side by side"
    page = open_page(f"{ALL}&model=%3Cscript%3E&__proto__=1&constructor=2")
    expect(page.get_by_text("No picture matches")).to_be_visible()
    expect(open_page("#model=%3Cscript%3E&picture=none&seed=x&size=-1&page=1e9").locator(".grid").first).to_be_visible()


def test_findings_lead_to_the_report_and_their_addresses_back(open_page: Open) -> None:
    page = open_page()
    page.locator("h2").first.get_by_role("link", name="Finding in the report").click()
    expect(page).to_have_title("ran ?viewer=small#model=toy&attribute=style%2Flumio")
    # As the docstring of the package says to those who make reports.
    page.evaluate("location.href = '../index.html#model=toy-planted-a&attribute=style%2Flumio'")
    expect(page.locator("#f-model")).to_have_value("toy-planted-a")


def test_new_pictures_come_in_and_what_is_shown_keeps_its_place(open_page: Open, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with serving(tmp_path) as address:
        page = open_page(ALL, at=address)
        expect(page.get_by_text("No images yet")).to_be_visible()
        for seed in (0, 1):
            commit(store, "toy", "style/lumio", PROMPTS[0], seed)
        Publisher(store).publish(flush=True)
        expect(page.get_by_role("status")).to_have_text("32 pictures")
        card = page.locator(".grid li", has_text="site 5").last
        card.scroll_into_view_if_needed()
        card.locator("img").evaluate("(image) => (image.mine = true)")
        before = card.bounding_box()
        assert page.get_by_role("link", name="Report").count() == 0
        (tmp_path / "report.html").write_text(REPORT)
        # Sorted before and after those that are shown.
        commit(store, "another", "style/lumio", PROMPTS[0], 0)
        commit(store, "toy", "style/lumio", PROMPTS[0], 2)
        Publisher(store).publish(flush=True)
        expect(page.get_by_role("status")).to_have_text("64 pictures")
        assert page.locator("img").evaluate_all("all => all.filter((image) => image.mine).length") == 1
        mine = "() => [...document.images].find((image) => image.mine).closest('li').getBoundingClientRect().y"
        after = page.evaluate(mine)
        assert before is not None
        assert after == pytest.approx(before["y"], abs=2)
        page.get_by_role("link", name="Report").click()
        expect(page).to_have_title("ran ?viewer=small")
        page.close()


def test_files_that_are_nobody_s_or_damaged(open_page: Open, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    commit(store, "toy", "style/lumio", PROMPTS[0], 0)
    Publisher(store).publish(flush=True)
    # A file that no manifest names is nobody's part.
    (tmp_path / "images" / "part-00009.parquet").write_bytes(b"PAR1 and no more")
    with serving(tmp_path) as address:
        page = open_page(ALL, at=address)
        expect(page.get_by_role("status")).to_have_text("16 pictures")
        assert page.get_by_role("alert").count() == 0
        commit(store, "toy", "style/lumio", PROMPTS[0], 2)
        Publisher(store).publish(flush=True)
        (tmp_path / "images" / "part-00002.parquet").write_bytes(b"PAR1 and no more")
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("part-00002.parquet")
        expect(page.get_by_role("status")).to_have_text("16 pictures")
        page.close()


def test_without_images_the_page_says_how_to_keep_them(open_page: Open, tmp_path: Path) -> None:
    make_store(tmp_path, images="none")
    with serving(tmp_path) as address:
        for path in ("", ALL):
            page = open_page(path, at=address)
            expect(page.get_by_role("heading", name="No images were kept")).to_be_visible()
            expect(page.get_by_text("images: report")).to_be_visible()
            page.close()


def test_pictures_that_cannot_be_read_are_one_line(browser: Browser, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    commit(store, "toy", "style/lumio", PROMPTS[0], 0)
    Publisher(store).publish(flush=True)
    spoil(tmp_path)
    with serving(tmp_path) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.get_by_role("alert")).to_contain_text("images/part-00001.parquet: not readable as Parquet")
        expect(page.get_by_role("alert")).to_have_count(1)
        # All else is there.
        assert effects(page)[:3] == ["0.00", "0.90", "1.00"]
        assert violations(page) == []
        page.close()


def test_a_page_says_when_its_server_has_ended(browser: Browser, store: Store) -> None:
    page = browser.new_page()
    with serving(store.root) as address:
        page.goto(address)
        expect(page.locator(".grid").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_text("The server does not answer; is loco-sweep view still running?")
    # What is shown stays.
    expect(page.locator(".grid").first).to_be_visible()
    assert violations(page) == []
    page.close()


def status(address: str, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Asks for a path with the token of an address in it."""
    path = f"{path}{'&' if '?' in path else '?'}token={token(address)}" if token(address) else path
    try:
        request = urllib.request.Request(without_token(address) + path, headers=headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


def test_only_this_machine_by_its_own_name_is_answered(address: str, open_page: Open) -> None:
    port = without_token(address).rpartition(":")[2]
    for host, expected in {"localhost:1": 200, "127.0.0.1": 200, "evil.example": 403, f"evil.example:{port}": 403,
                           f"localhost.evil.example:{port}": 403, "": 403}.items():  # fmt: skip
        assert status(address, "/", Host=host)[0] == expected, host
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", int(port)), timeout=5)
    image = f"/{open_page().locator('.grid img').first.get_attribute('src')}"
    code, headers = status(address, image)
    assert (code, headers["Content-Type"]) == (200, "image/png")
    assert "immutable" in headers["Cache-Control"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_clients_that_go_away_are_nothing_to_speak_of(store: Store) -> None:
    # What the command says, `serving` looks at: nothing.
    with serving(store.root) as address:
        place = ("127.0.0.1", int(without_token(address).rpartition(":")[2]))
        ask = f"GET /index.json?have=&token={token(address)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        for said in (b"", ask[:20], ask, 9 * ask):
            for read in (0, 1):
                with socket.create_connection(place, timeout=60) as client:
                    client.sendall(said)
                    client.recv(read if said.startswith(ask) else 0)
                    # Reset when it is closed, as of a page that is closed.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert status(address, "/index.json")[0] == 200


def test_what_is_no_request_is_answered_and_nothing_to_speak_of(store: Store) -> None:
    secure = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03\n\n"
    with serving(store.root) as address:
        place = ("127.0.0.1", int(without_token(address).rpartition(":")[2]))
        for said in (secure, b"GET /\xff HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + 9000 * b"x" + b"\r\n\r\n"):
            with socket.create_connection(place, timeout=60) as client:
                client.sendall(said)
                assert client.recv(12) == b"HTTP/1.0 400"


def test_nothing_is_shown_without_the_token(address: str, open_page: Open) -> None:
    image = f"/{open_page().locator('.grid img').first.get_attribute('src')}"
    paths = ("/", "/index.json", image, image.replace("picture", "details").replace("png", "json"), "/report/0.html",
             "/static/page.css", "/favicon.ico", "/no/such/path")  # fmt: skip
    plain = without_token(address)
    port, other = plain.rpartition(":")[2], token(address)[::-1]
    for path in paths:
        assert status(plain, path)[0] == 403, path
        assert status(f"{plain}/?token={other}", path)[0] == 403, path
        assert status(f"{plain}/?token=%C3%A9%FF", path)[0] == 403, path
        for cookie in (f"loco-sweep-{port}={other}", f"loco-sweep-{port}=", f"loco-sweep={token(address)}"):
            assert status(plain, path, Cookie=cookie)[0] == 403, (path, cookie)
        # A wrong token is not made good by a cookie.
        right = f"loco-sweep-{port}={token(address)}"
        assert status(f"{plain}/?token={other}", path, Cookie=right)[0] == 403, path
    assert status(plain, "/", Cookie=right)[0] == 200
    code, headers = status(address, "/")
    assert (code, headers["Set-Cookie"].partition(";")[0]) == (200, right)
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(headers["Set-Cookie"].split("; "))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(plain, timeout=120)
    assert refused.value.read().decode() == "expected the address that `loco-sweep view` printed, with its token\n"


def test_a_browser_is_opened_without_the_token_among_its_words(tmp_path: Path) -> None:
    make_store(tmp_path / "results")
    seen = tmp_path / "seen"
    opener = tmp_path / "opener"
    page = '"${1#file://}"'
    opener.write_text(f"#!/bin/sh\n(stat -c %a $(dirname {page}); echo $1; cat {page}) >{seen}\n")
    opener.chmod(0o755)
    with serving(tmp_path / "results", "--open", BROWSER=f"{opener} %s") as address:
        assert_soon(lambda: seen.exists() and token(address) in seen.read_text())
    mode, words, page = seen.read_text().splitlines()
    assert (mode, token(address) in words, address in page) == ("700", False, True)


def test_addresses_that_lead_nowhere(address: str) -> None:
    seal = "0" * 64
    paths = {
        f"/picture/{seal}/0.png": 400, f"/details/{seal}/0.json": 400, f"/picture/{seal}/x.png": 404,
        "/report/1.html": 404, "/static/..%2fserver.py": 404, "/static/../server.py": 404, "/_meta/sweep.json": 404,
        "/..%2f..%2fetc/passwd": 404, "/index.json?have=..%2f.&version=": 200,
    }  # fmt: skip
    assert {path: status(address, path)[0] for path in paths} == paths


def view(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: Sequence[object]) -> str:
    monkeypatch.setattr(sys, "argv", ["loco-sweep", "view", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_mistakes_are_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = view(monkeypatch, capsys, (store.root, "--port", port))
    assert error == f"error: port {port} is in use; choose another with --port\n"
    for folder, expected in ((tmp_path / "none", "is not there"), (tmp_path, "holds no sweep")):
        error = view(monkeypatch, capsys, (folder,))
        assert expected in error
        assert error.count("\n") == 1
    error = view(monkeypatch, capsys, (store.root, store.root))
    assert error == f"error: {store.root}: is given 2 times; expected each results folder once\n"


class Silent(SimpleHTTPRequestHandler):
    """Keeps no log."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serves files as they lie, under a path of their own, as pages of a project on the web are."""
    # Reports name no icon, so that browsers ask for this one.
    (folder / "favicon.ico").write_bytes(b"")
    with listening(partial(Silent, directory=str(folder))) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def test_a_bundle_opens_from_any_file_server(
    open_page: Open, store: Store, tmp_path: Path, command: Command, address: str
) -> None:
    folder = tmp_path / "web" / "a site"
    code, out, err = command("view", store.root, "--bundle", folder)
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(folder))}/index.html: 258 of 258 pictures \(all\), \d\.\d MB\n", out)
    assert store.root not in (folder / "index.html").read_text()
    served = open_page()
    with file_server(tmp_path / "web") as at:
        page = open_page("", at=f"{at}/a%20site/")
        assert (titles(page), effects(page)) == (titles(served), effects(served))
        page.wait_for_load_state("networkidle")
        assert page.locator(".grid img").first.evaluate("(image) => image.naturalWidth") == 32
        assert violations(page) == []
        page.locator(".grid a").nth(1).click()
        expect(page.locator("dialog dl")).to_contain_text("window_start")
        mark = page.url.partition("#")[2]
        expect(open_page(f"#{mark}").get_by_role("dialog", name="site 3")).to_be_visible()
        page.locator("dialog").get_by_role("link", name="Finding in the report").click()
        expect(page).to_have_title("ran ?viewer=small#model=toy&attribute=style%2Flumio")
    page = open_page(f"#view=pictures&{mark.rpartition('&')[2]}", at=f"{folder.as_uri()}/index.html")
    expect(page.get_by_role("dialog", name="site 3")).to_be_visible()
    expect(page.locator("#heading")).to_have_text("1-200 of 258 pictures")


def test_a_bundle_takes_the_first_prompts_and_seeds(
    open_page: Open, store: Store, tmp_path: Path, command: Command
) -> None:
    code, out, err = command("view", store.root, "--bundle", tmp_path / "few", "--max-pictures", 70)
    assert (code, err) == (0, "")
    assert "few/index.html: 66 of 258 pictures (the first prompts and seeds; --max-pictures takes more)" in out
    with file_server(tmp_path / "few") as at:
        page = open_page(ALL, at=at)
        # Of every model and attribute.
        assert page.locator("#f-attribute option").all_text_contents() == ["All", "fact/zandia", "style/lumio"]
        assert page.locator("#f-model option").all_text_contents() == ["All", "toy", "toy-planted-a"]
        assert page.locator("#f-role option").all_text_contents() == ["All", "target"]
        page.close()  # else pictures still on their way are errors of a server that is gone
    code, _, err = command("view", store.root, "--bundle", tmp_path / "none", "--max-pictures", 3)
    assert code == 1
    assert err.startswith("error: --max-pictures 3: one prompt and seed have 16 pictures")
    assert not (tmp_path / "none").exists()


def test_a_bundle_replaces_a_bundle_and_nothing_else(store: Store, tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    assert command("view", store.root, "--bundle", folder)[0] == 0
    before = sorted(path for path in folder.rglob("*"))
    assert command("view", store.root, "--bundle", folder, "--max-pictures", 20)[0] == 0
    after = sorted(path for path in folder.rglob("*"))
    assert set(after) < set(before)
    # In the folder that one stands in, too.
    with chdir(folder):
        assert command("view", store.root, "--bundle", ".", "--max-pictures", 20)[0] == 0
        assert Path("index.html").exists()
    (folder / "CNAME").write_text("mine")
    file, linked = tmp_path / "file", tmp_path / "foreign"
    file.write_text("mine")
    linked.mkdir()
    (linked / "mine").symlink_to(file)
    for where, said in (
        (folder, f"{folder}: holds CNAME, which no bundle"), (file, f"{file}: is a file"),
        (linked, f"{linked}: holds mine, which no bundle"), (Path(store.root) / "site", "lies in them"),
        (Path(store.root), "holds the results"), (Path(store.root).parent, "holds the results"),
    ):  # fmt: skip
        code, out, err = command("view", store.root, "--bundle", where)
        assert (code, out) == (1, "")
        assert said in err
        assert err.count("\n") == 1
    assert sorted(path for path in folder.rglob("*") if path.name != "CNAME") == after
    assert (file.read_text(), (folder / "CNAME").read_text()) == ("mine", "mine")


def test_a_bundle_of_damaged_or_no_images_is_one_line(tmp_path: Path, command: Command) -> None:
    store = make_store(tmp_path / "results")
    code, _, err = command("view", store.root, "--bundle", tmp_path / "site")
    assert (code, err) == (1, f"error: {store.root}: no images to show yet, or none were kept\n")
    commit(store, "toy", "style/lumio", PROMPTS[0], 0)
    Publisher(store).publish(flush=True)
    spoil(tmp_path / "results")
    code, _, err = command("view", store.root, "--bundle", tmp_path / "site")
    assert code == 1
    assert "part-00001.parquet" in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
