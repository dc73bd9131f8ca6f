"""A proxy before an S3 server that fails as networks and servers do, from a seed."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import aiohttp
from aiohttp import web
from yarl import URL

Fault = Literal["503", "500", "reset before", "lost answer", "reset in body", "slow", "expired"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
Choice = Callable[[str, int], Fault | None]
SLOW_SECONDS = 1.0
ERROR = "<Error><Code>{code}</Code><Message>injected</Message></Error>"
CODES = {"503": (503, "SlowDown"), "500": (500, "InternalError"), "expired": (403, "ExpiredToken")}


def at_random(seed: int, share: float, faults: tuple[Fault, ...]) -> Choice:
    """Returns a choice that makes a share of the requests fail, each in one of some ways."""
    rng = random.Random(seed)
    return lambda method, number: rng.choice(faults) if rng.random() < share else None


class Proxy:
    """Forwards requests; the choice says which fail, and how."""

    def __init__(self, target: str) -> None:
        self.choose: Choice = lambda method, number: None
        self.requests: Counter[str] = Counter()
        self.faults: Counter[Fault] = Counter()
        self.lost_puts = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession | None = None

    def serve(self) -> int:
        """Starts in a thread of its own; returns the port."""
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="proxy")
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(120)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(120)
        self._loop.close()

    async def _start(self) -> int:
        # What the client signed must arrive as it was sent.
        self._session = aiohttp.ClientSession(
            auto_decompress=False, skip_auto_headers=("User-Agent", "Accept-Encoding")
        )
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _end(self) -> None:
        assert self._session is not None
        await self._session.close()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests[request.method] += 1
        fault = self.choose(request.method, self.requests.total())
        if fault is not None:
            self.faults[fault] += 1
        if fault in CODES:
            status, code = CODES[fault]
            await request.read()
            return web.Response(status=status, text=ERROR.format(code=code), content_type="application/xml")
        if fault == "reset before":
            return self._reset(request)
        if fault == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        body = await request.read()
        try:
            status, headers, answer = await self._forward(request, body)
        except aiohttp.ClientError:
            return self._reset(request)
        if fault == "lost answer":
            self.lost_puts += request.method == "PUT" and status == 200
            return self._reset(request)
        if fault == "reset in body" and request.method == "GET" and len(answer) > 1:
            response = await self._begun(request, status, {**headers, "Content-Length": str(len(answer))})
            await response.write(answer[: len(answer) // 2])
            return self._reset(request)
        if request.method == "HEAD":
            # Its length is that of the object, not of this answer.
            return await self._begun(request, status, headers)
        headers.pop("Content-Length", None)
        return web.Response(status=status, headers=headers, body=answer)

    async def _begun(self, request: web.Request, status: int, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        return response

    async def _forward(self, request: web.Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        assert self._session is not None
        url = URL(self._target + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=request.headers, data=body or None, allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name not in ("Transfer-Encoding", "Date")}
            return answer.status, kept, await answer.read()

    def _reset(self, request: web.Request) -> web.Response:
        # None where the client has gone first.
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


@contextmanager
def proxy(target: str) -> Iterator[tuple[Proxy, str]]:
    """Yields a proxy before a server, with its address."""
    between = Proxy(target)
    port = between.serve()
    try:
        yield between, f"http://127.0.0.1:{port}"
    finally:
        between.stop()
