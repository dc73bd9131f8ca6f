"""A server of one results root, on loopback, for as long as somebody looks who was given its token."""

from __future__ import annotations

import asyncio
import errno
import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loco_core.errors import LocoError, ViewError
from orchestrator.store import Store
from orchestrator.store.layout import REPORT
from orchestrator.viewing.catalogue import Catalogue, Snapshot
from orchestrator.viewing.pages import Page, browse, compare

_HERE = Path(__file__).parent
_HOST = "127.0.0.1"
_HOSTS = {"127.0.0.1", "localhost"}
_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_OWN = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
# A report carries its styles, scripts and pictures in itself, and has no more reason to ask another machine, or
# this one: it comes with the results, which may be anybody's.
_OF_REPORT = (
    "default-src 'self' 'unsafe-inline' data: blob:; base-uri 'none'; frame-ancestors 'none'; connect-src 'none'; "
    "form-action 'none'"
)
_TOKEN = "token"
_FOR_GOOD = "private, max-age=31536000, immutable"
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(store: Store, port: int, ready: Callable[[str], None]) -> None:
    """Serves the kept images until the process is told to stop.

    Args:
        store: the results.
        port: of 127.0.0.1; 0 takes a free one.
        ready: is called with the address, and the token in it, as soon as it answers.

    Raises:
        ViewError: the port cannot be had.
        StoreError: the results cannot be read.
    """
    token = secrets.token_urlsafe(32)
    app = Viewer(store).app(token)
    try:
        listening = socket.create_server((_HOST, port))
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
        raise ViewError(f"port {port} {reason}; choose another with --port") from error
    ready(f"http://{_HOST}:{listening.getsockname()[1]}/?{_TOKEN}={token}")
    web.run_app(app, sock=listening, print=None, access_log=None, shutdown_timeout=1)


class Viewer:
    """The pages of one results root."""

    def __init__(self, store: Store) -> None:
        """Reads the sweep's name, nothing else.

        Args:
            store: the results.

        Raises:
            StoreError: they cannot be read.
        """
        self._store, self._catalogue = store, Catalogue(store)
        self._static = {name: (_HERE / "static" / name).read_bytes() for name in _STATIC}
        sweep = store.sweep()
        self._name, self._images = (sweep.name, sweep.images) if sweep else (store.root, "none")
        environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._template = environment.get_template("page.html")

    def app(self, token: str) -> web.Application:
        """Returns the application.

        Args:
            token: without it nothing is shown: every user of a machine reaches its loopback.
        """
        app = web.Application(middlewares=[_sealed, _admitting(token)])
        app.router.add_get("/", lambda request: self._page(request, browse))
        app.router.add_get("/compare", lambda request: self._page(request, compare))
        app.router.add_get(r"/image/{file:[0-9a-f]{64}}/{row:\d{1,9}}.png", self._image)
        app.router.add_get(r"/details/{file:[0-9a-f]{64}}/{row:\d{1,9}}.json", self._details)
        app.router.add_get("/static/{name}", self._asset)
        # A report names no icon, so browsers ask for this one.
        app.router.add_get("/favicon.ico", self._icon)
        app.router.add_get(f"/{REPORT}", self._report)
        return app

    async def _page(
        self, request: web.Request, make: Callable[[Snapshot, Mapping[str, str]], Page]
    ) -> web.StreamResponse:
        text = await asyncio.to_thread(self._rendered, make, request.query)
        return _answer(text.encode(), "text/html", "no-cache")

    def _rendered(self, make: Callable[[Snapshot, Mapping[str, str]], Page], query: Mapping[str, str]) -> str:
        snapshot = self._catalogue.snapshot()
        return self._template.render(
            page=make(snapshot, query), name=self._name, root=self._store.root, images=self._images,
            problems=snapshot.problems, report=self._store.blobs.exists(REPORT),
        )  # fmt: skip

    async def _image(self, request: web.Request) -> web.StreamResponse:
        data = await asyncio.to_thread(self._catalogue.image, *_place(request))
        return _answer(data, "image/png", _FOR_GOOD)

    async def _details(self, request: web.Request) -> web.StreamResponse:
        found = await asyncio.to_thread(self._catalogue.details, *_place(request))
        return web.json_response({name: _shown(value) for name, value in found.items()})

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._static:
            raise web.HTTPNotFound
        return _answer(self._static[name], _STATIC[name], "no-cache")

    async def _icon(self, request: web.Request) -> web.StreamResponse:
        return _answer(self._static["icon.svg"], _STATIC["icon.svg"], "no-cache")

    async def _report(self, request: web.Request) -> web.StreamResponse:
        if not await asyncio.to_thread(self._store.blobs.exists, REPORT):
            raise web.HTTPNotFound
        answer = _answer(await asyncio.to_thread(self._store.blobs.read, REPORT), "text/html", "no-cache")
        answer.headers["Content-Security-Policy"] = _OF_REPORT
        return answer


@web.middleware
async def _sealed(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answers only who asked for this machine by name, so that no other site reaches in through a name of its own."""
    if request.host.partition(":")[0] not in _HOSTS:
        return web.Response(status=403, text=f"expected the address http://{_HOST}\n")
    try:
        answer = await handler(request)
    except ViewError as error:
        answer = web.Response(status=400, text=f"{error}\n")
    except LocoError as error:
        answer = web.Response(status=503, text=f"{error}\n")
    answer.headers.setdefault("Content-Security-Policy", _OWN)
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    return answer


def _admitting(token: str) -> Middleware:
    """Returns what answers only who has the token: in the address, or from then on in a cookie, so that links work."""

    @web.middleware
    async def admit(request: web.Request, handler: _Handler) -> web.StreamResponse:
        # Browsers send one port's cookies to all others, where another viewer may have set its own.
        name = f"loco-sweep-{request.url.port}"
        given = request.query.get(_TOKEN)
        if not _equal(token, request.cookies.get(name, "") if given is None else given):
            return web.Response(
                status=403, text="expected the address that `loco-sweep view` printed, with its token\n"
            )
        answer = await handler(request)
        if given is not None:
            answer.set_cookie(name, token, httponly=True, samesite="Strict", path="/")
        return answer

    return admit


def _equal(token: str, given: str) -> bool:
    # In a time that does not tell how much of it was right.
    return hmac.compare_digest(token.encode(), given.encode(errors="replace"))


def _place(request: web.Request) -> tuple[str, int]:
    return request.match_info["file"], int(request.match_info["row"])


def _answer(data: bytes, kind: str, cache: str) -> web.Response:
    charset = None if kind.startswith("image/") else "utf-8"
    return web.Response(body=data, content_type=kind, charset=charset, headers={"Cache-Control": cache})


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
