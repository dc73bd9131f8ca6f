"""A server of results, on loopback, for as long as somebody looks who was given its token."""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger
from aiohttp.typedefs import Middleware

from loco_core.errors import LocoError, ViewError
from orchestrator.store import Store
from orchestrator.store.layout import REPORT
from orchestrator.viewing.catalogue import Catalogue
from orchestrator.viewing.index import encode_index, shown, version_of
from orchestrator.viewing.page import ASSETS, asset, in_words, render

_HOST = "127.0.0.1"
_HOSTS = {"127.0.0.1", "localhost"}
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
_PART = re.compile("[0-9a-f]{8,64}")
_FOR_GOOD = "private, max-age=31536000, immutable"
_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(stores: Sequence[Store], port: int, ready: Callable[[str], None]) -> None:
    """Serves the kept images until the process is asked to stop.

    Args:
        stores: the results.
        port: port of 127.0.0.1; 0 takes a free one.
        ready: function that is called with the address, and the token in it, as soon as it answers.

    Raises:
        ViewError: the port cannot be had, or results are given twice.
        StoreError: the results cannot be read.
    """
    token = secrets.token_urlsafe(32)
    app = Viewer(stores).app(token)
    try:
        listening = socket.create_server((_HOST, port))
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
        raise ViewError(f"port {port} {reason}; choose another with --port") from error
    server_logger.addFilter(_of_ours)
    ready(f"http://{_HOST}:{listening.getsockname()[1]}/?{_TOKEN}={token}")
    web.run_app(app, sock=listening, print=None, access_log=None, shutdown_timeout=1)


class Viewer:
    """The page of one or several results, and what it asks for."""

    def __init__(self, stores: Sequence[Store]) -> None:
        """Reads the sweeps' names, nothing else.

        Args:
            stores: the results.

        Raises:
            ViewError: results are given twice.
            StoreError: they cannot be read.
        """
        self._shown = shown(stores)
        self._page = render(self._shown)

    def app(self, token: str) -> web.Application:
        """Returns the application.

        Args:
            token: without it nothing is shown: every user of a machine reaches its loopback.
        """
        app = web.Application(middlewares=[_sealed, _admitting(token)])
        app.on_startup.append(self._begin)
        app.router.add_get("/", self._index_page)
        app.router.add_get("/index.html", self._index_page)
        app.router.add_get("/index.json", self._index)
        app.router.add_get(r"/picture/{file:[0-9a-f]{64}}/{row:\d{1,9}}.png", self._image)
        app.router.add_get(r"/details/{file:[0-9a-f]{64}}/{row:\d{1,9}}.json", self._details)
        app.router.add_get("/static/{name}", self._asset)
        # A report names no icon, so browsers ask for this one.
        app.router.add_get("/favicon.ico", self._icon)
        app.router.add_get(r"/report/{number:\d{1,4}}.html", self._report)
        return app

    def index(self, query: Mapping[str, str]) -> bytes | None:
        """Returns what there is, as JSON; None where nothing changed.

        Args:
            query: ``version`` of the index that the page has, and ``have``, the parts that it knows.

        Raises:
            StoreError: the results cannot be listed.
        """
        known = [part for part in query.get("have", "").split(".") if _PART.fullmatch(part)]
        found = [(of, of.catalogue.snapshot(anew="version" not in query)) for of in self._shown]
        index = encode_index(found, known)
        return None if version_of(index) == query.get("version") else index

    async def _begin(self, _: web.Application) -> None:
        """Begins to read while a person still opens the page."""

        def read() -> None:
            try:
                self.index({})
            except LocoError as error:
                _log.info("what cannot be read is said to who asks for it: %s", error)

        self._reading = asyncio.create_task(asyncio.to_thread(read))

    async def _index_page(self, _: web.Request) -> web.StreamResponse:
        return _answer(self._page.encode(), "text/html", "no-cache")

    async def _index(self, request: web.Request) -> web.StreamResponse:
        index = await asyncio.to_thread(self.index, request.query)
        return web.Response(status=204) if index is None else _answer(index, "application/json", "no-cache")

    async def _image(self, request: web.Request) -> web.StreamResponse:
        file, row = _place(request)
        data = await asyncio.to_thread(self._catalogue(file).image, file, row)
        return _answer(data, "image/png", _FOR_GOOD)

    async def _details(self, request: web.Request) -> web.StreamResponse:
        file, row = _place(request)
        (found,) = await asyncio.to_thread(self._catalogue(file).details, file, [row])
        return web.json_response(in_words(found))

    def _catalogue(self, file: str) -> Catalogue:
        found = (of.catalogue for of in self._shown if of.catalogue.holds(file))
        return next(found, self._shown[0].catalogue)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in ASSETS:
            raise web.HTTPNotFound
        return _answer(asset(name), ASSETS[name], "no-cache")

    async def _icon(self, _: web.Request) -> web.StreamResponse:
        return _answer(asset("icon.svg"), ASSETS["icon.svg"], "no-cache")

    async def _report(self, request: web.Request) -> web.StreamResponse:
        number = int(request.match_info["number"])
        if number >= len(self._shown) or not await asyncio.to_thread(self._shown[number].has_report):
            raise web.HTTPNotFound
        answer = _answer(await asyncio.to_thread(self._shown[number].store.blobs.read, REPORT), "text/html", "no-cache")
        answer.headers["Content-Security-Policy"] = _OF_REPORT
        return answer


def _of_ours(record: logging.LogRecord) -> bool:
    """Drops tracebacks of what is no request, such as https: who sent it is told, and every user may send it."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


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
