"""The images of a sweep in a real browser, served by the real command."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from orchestrator.cli.main import main
from orchestrator.spec import SweepSpec
from orchestrator.store import Publisher, Store, make_table, open_store

HOSTILE = '<script>document.title = "taken"</script> & "a dog" in lumio'
PROMPTS = ("a cat in lumio", HOSTILE)
SITES = 6
# Committed out of order, as workers do.
WINDOWS = [(start, size) for size in (2, 1) for start in reversed(range(SITES - size + 1))]


def png(*colour: int, size: int = 32) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, format="PNG")
    return stream.getvalue()


def row(control: str, start: int | None, size: int | None, block: dict[str, Any]) -> dict[str, Any]:
    name = hashlib.sha256(f"{control} {start} {size} {block}".encode()).hexdigest()
    return {**block, "cell_id": name, "image_id": name, "control": control, "window_start": start, "window_size": size}


def commit(store: Store, model: str, attribute: str, prompt: str, seed: int) -> None:
    """Commits one unit as a worker does, with every image of its block."""
    unit_id = hashlib.sha256(f"{model} {attribute} {prompt} {seed}".encode()).hexdigest()
    block = {"unit_id": unit_id, "model": model, "attribute": attribute, "prompt": prompt, "seed": seed}
    controls = ("clean", "donor", "identity", "all_sites")
    rows = [row(control, None, None, block) for control in controls]
    rows += [row("window", *window, block) for window in WINDOWS]
    images = [{**r, "image": {"bytes": png(10 * (r["window_start"] or 0), 80, 200), "path": "x.png"}} for r in rows]
    # All but sites 1-5 is site 0: two cells, one image.
    first = next(r for r in rows if (r["window_start"], r["window_size"]) == (0, 1))
    rows.append({**first, "control": "complement", "window_start": 1, "window_size": 5})
    options = {"part": "kv", "step_start": 0, "step_end": 8, "tokens": "all", "guidance_half": "conditional"}
    scores = [{**r, **options, "clip_score": 0.25, "donor": "a cat", "status": "ok"} for r in rows]
    tables = {"scores": make_table("scores", scores), "images": make_table("images", images)}
    store.commit_unit(unit_id, tables, "a")


def make_store(folder: Path, images: str = "all") -> Store:
    store = open_store(str(folder))
    spec = {"name": "small", "models": ["toy"], "attributes": ["style/lumio"], "scorer": "toy-clip", "images": images}
    store.record_sweep("s", SweepSpec.model_validate(spec, strict=False), "a")
    return store


@contextmanager
def serving(folder: Path, *more: str, **variables: str) -> Iterator[str]:
    """Runs the command on a free port, yields its address with the token; afterwards Ctrl-C must end it in peace."""
    words = [sys.executable, "-m", "orchestrator.cli.main", "view", str(folder), "--port", "0", *more]
    environment = {**os.environ, **variables}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.fullmatch(
            r"(http://127\.0\.0\.1:\d+/\?token=[\w-]{40,}) \(Ctrl-C stops\)\n", process.stdout.readline()
        )
        assert found, process.communicate()[1]
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_store(tmp_path_factory.mktemp("results"))
    for block in product(("toy", "toy-planted-a"), ("style/lumio", "fact/zandia"), PROMPTS, (0, 1)):
        commit(store, *block)
    common = {"unit_id": "e", "model": "toy", "attribute": "style/lumio", "prompt": "a cup in lumio", "seed": 500}
    pictures = [("before", None, "0"), ("edited", "abc", "1")]
    rows = [
        {**common, "cell_id": n, "image_id": n, "control": control, "edit_id": edit, "prompt_role": "target",
         "image": {"bytes": png(0, 200, 0, size=512), "path": "x.png"}}
        for control, edit, n in pictures
    ]  # fmt: skip
    store.commit_unit("e", {"images": make_table("images", rows)}, "a")
    edit = {"edit_id": "abc", "editor": "loco_edit", "scope": "all_sites"}
    store.write_derived("edits", make_table("edits", [edit]))
    Publisher(store).publish(flush=True)
    return store


@pytest.fixture(scope="module")
def address(store: Store) -> Iterator[str]:
    with serving(Path(store.root)) as address:
        yield address


Open = Callable[..., Page]


def without_token(address: str) -> str:
    return address.partition("/?")[0]


def token(address: str) -> str:
    return address.partition("?token=")[2]


@pytest.fixture
def open_page(browser: Browser, address: str) -> Iterator[Open]:
    """Opens pages; in the end none may have had an error or have asked another origin."""
    errors: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(path: str, at: str = address, width: int = 1280) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        # The token once, as a person does; from then on plain addresses.
        page.goto(at)
        if path != "/":
            page.goto(without_token(at) + path)
        asked.append(at)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    assert {re.match(r"https?://127\.0\.0\.1:\d+", url) is not None for url in asked} <= {True}


def titles(page: Page) -> list[str]:
    # What `content-visibility: auto` holds has no text before Chromium drew a frame with it in sight.
    page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    return page.locator(".grid .title").all_inner_texts()


def assert_soon(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def tab_to(page: Page, name: str) -> None:
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            return
    raise AssertionError(f"no Tab leads to {name}")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("path", ["/", "/compare"])
def test_a_page_fits_and_every_picture_is_there(open_page: Open, width: int, path: str) -> None:
    page = open_page(path, width=width)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    image = page.locator(".grid img").first
    expect(image).to_have_class("small")
    assert image.evaluate("(i) => [i.naturalWidth, getComputedStyle(i).imageRendering]") == [32, "pixelated"]
    box = image.bounding_box()
    assert box is not None
    assert box["width"] >= 155
    assert all(alt for alt in page.locator(".grid img").evaluate_all("all => all.map((i) => i.alt)"))
    image.click()
    expect(page.locator("dialog")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_filters_by_keyboard_alone_and_back(open_page: Open) -> None:
    page = open_page("/")
    expect(page.get_by_role("status")).to_have_text("1-200 of 258 pictures")
    tab_to(page, "f-control")
    page.keyboard.type("win")
    page.wait_for_url("**/?control=window")
    expect(page.locator("#f-control")).to_be_focused()
    expect(page.get_by_role("status")).to_have_text("176 pictures")
    tab_to(page, "f-size")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.wait_for_url("**/?control=window&size=2")
    tab_to(page, "f-start")
    page.keyboard.type("3")
    page.wait_for_url("**/?control=window&size=2&start=3")
    assert set(titles(page)) == {"sites 3-4"}
    assert page.locator("#f-size option").all_inner_texts() == ["All", "1", "2"]
    page.go_back()
    page.go_back()
    page.wait_for_url("**/?control=window")
    expect(page.get_by_role("status")).to_have_text("176 pictures")
    assert page.locator("#f-size").input_value() == ""
    page.get_by_role("link", name="Clear").click()
    expect(page.get_by_role("status")).to_have_text("1-200 of 258 pictures")


def test_pages_of_pictures(open_page: Open) -> None:
    page = open_page("/")
    assert len(titles(page)) == 200
    page.get_by_role("link", name="Next").first.click()
    expect(page.get_by_role("status")).to_have_text("201-258 of 258 pictures")
    assert len(titles(page)) == 58
    page.get_by_role("link", name="Previous").first.click()
    expect(page.get_by_role("status")).to_have_text("1-200 of 258 pictures")


def test_one_picture_large(open_page: Open) -> None:
    page = open_page("/?model=toy&attribute=style/lumio&control=window&size=1&seed=1")
    card = page.locator(".grid a").nth(1)
    card.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="site 1")
    expect(dialog).to_be_visible()
    expect(dialog.locator("dl")).to_contain_text("window_start")
    columns = dict(zip(dialog.locator("dt").all_inner_texts(), dialog.locator("dd").all_inner_texts(), strict=True))
    assert columns["model"] == "toy"
    assert columns["window_start"] == "1"
    assert columns["clip_score"] == "0.2500"
    assert {"unit_id", "cell_id", "image_id", "donor"} <= columns.keys()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name="site 2")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("dialog", name="site 0")).to_be_visible()
    expect(page.get_by_role("button", name="Previous picture")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator(".grid a").first).to_be_focused()


def test_side_by_side_in_the_order_of_windows(open_page: Open) -> None:
    page = open_page("/?model=toy&attribute=style/lumio&control=window&size=1&seed=1")
    page.locator(".grid a").first.click()
    page.get_by_role("link", name="Same prompt and seed").click()
    page.wait_for_url("**/compare?*")
    assert page.locator("#f-prompt").input_value() in PROMPTS
    assert page.locator("#f-seed").input_value() == "1"
    ones = [f"site {i}" for i in range(6)]
    twos = [f"sites {i}-{i + 1}" for i in range(5)]
    ends = ["all sites", "donor"]
    assert titles(page) == ["clean", *ones, *ends, "clean", *twos, *ends, "identity", "all but sites 1-5"]
    page.get_by_label("Window size").select_option("2")
    page.wait_for_url("**size=2")
    assert titles(page) == ["clean", *twos, *ends, "identity"]
    page.get_by_label("Prompt").select_option(PROMPTS[0])
    expect(page.locator(".heading .prompt")).to_have_text(PROMPTS[0])


def test_an_image_that_stands_for_two_cells_is_found_under_both(open_page: Open) -> None:
    page = open_page("/?control=complement&model=toy&attribute=style/lumio&seed=0")
    assert titles(page) == ["all but sites 1-5"] * 2
    src = page.locator(".grid img").first.get_attribute("src")
    page = open_page("/?control=window&size=1&start=0&model=toy&attribute=style/lumio&seed=0")
    assert page.locator(".grid img").first.get_attribute("src") == src


def test_pictures_of_edits(open_page: Open) -> None:
    page = open_page("/")
    page.get_by_label("Prompt role").select_option("target")
    page.wait_for_url("**/?role=target")
    assert titles(page) == ["before the edit", "loco_edit, all sites · target"]
    expect(page.locator(".grid img").first).not_to_have_class("small")
    page.get_by_label("Edit", exact=True).select_option("abc")
    page.wait_for_url("**edit=abc*")
    assert page.locator("#f-edit option").all_inner_texts() == ["All", "loco_edit, all sites (abc)"]
    assert len(titles(page)) == 1


def test_a_hostile_prompt_is_text(open_page: Open) -> None:
    page = open_page("/?seed=0&control=clean")
    assert page.title() == "small: images"
    assert page.locator(".about.prompt").nth(1).get_attribute("title") in PROMPTS
    expect(page.locator(".about.prompt", has_text="<script>").first).to_have_text(HOSTILE)
    page.locator(".grid a", has_text="<script>").first.click()
    expect(page.locator("dialog dd", has_text="<script>")).to_have_text(HOSTILE)
    page.get_by_role("link", name="Same prompt and seed").click()
    expect(page.locator(".heading .prompt")).to_have_text(HOSTILE)
    assert page.title() == "small: side by side"
    expect(open_page(f"/?model={'%3Cscript%3E'}").get_by_text("No picture matches")).to_be_visible()


def test_new_parts_appear_when_the_page_is_reloaded(open_page: Open, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with serving(tmp_path) as address:
        page = open_page("/", at=address)
        expect(page.get_by_text("No images yet")).to_be_visible()
        for seed in (0, 1):
            commit(store, "toy", "style/lumio", PROMPTS[0], seed)
            Publisher(store).publish(flush=True)
            page.reload()
            expect(page.get_by_role("status")).to_have_text(f"{16 * (seed + 1)} pictures")
        assert page.get_by_role("link", name="Report").count() == 0
        (tmp_path / "report.html").write_text("<!doctype html><title>r</title><script>document.title = 'ran'</script>")
        page.reload()
        page.get_by_role("link", name="Report").click()
        expect(page).to_have_title("ran")
        # A file that no manifest names is nobody's part.
        (tmp_path / "images" / "part-00009.parquet").write_bytes(b"PAR1 and no more")
        page.goto(without_token(address))
        expect(page.get_by_role("status")).to_have_text("32 pictures")
        assert page.get_by_role("alert").count() == 0
        commit(store, "toy", "style/lumio", PROMPTS[0], 2)
        Publisher(store).publish(flush=True)
        (tmp_path / "images" / "part-00003.parquet").write_bytes(b"PAR1 and no more")
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("part-00003.parquet")
        expect(page.get_by_role("status")).to_have_text("32 pictures")


def test_without_images_the_page_says_how_to_keep_them(open_page: Open, tmp_path: Path) -> None:
    make_store(tmp_path, images="none")
    with serving(tmp_path) as address:
        for path in ("/", "/compare"):
            page = open_page(path, at=address)
            expect(page.get_by_role("heading", name="No images were kept")).to_be_visible()
            expect(page.get_by_text("images: report")).to_be_visible()


def status(address: str, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Asks for a path with the token of an address in it."""
    path = f"{path}{'&' if '?' in path else '?'}token={token(address)}" if token(address) else path
    try:
        request = urllib.request.Request(without_token(address) + path, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
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
    image = open_page("/").locator(".grid img").first.get_attribute("src")
    assert image is not None
    code, headers = status(address, image)
    assert (code, headers["Content-Type"]) == (200, "image/png")
    assert "immutable" in headers["Cache-Control"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_nothing_is_shown_without_the_token(address: str, open_page: Open) -> None:
    image = open_page("/").locator(".grid img").first.get_attribute("src")
    assert image is not None
    paths = ("/", "/compare", image, image.replace("image", "details").replace("png", "json"), "/report.html",
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
        urllib.request.urlopen(plain, timeout=20)
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
        f"/image/{seal}/0.png": 400, f"/details/{seal}/0.json": 400, "/?size=two": 400, "/?page=x": 400,
        "/?start=99999999999999999999": 400, "/report.html": 404, "/static/..%2fserver.py": 404,
        "/static/../server.py": 404, "/_meta/sweep.json": 404, "/..%2f..%2fetc/passwd": 404,
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
