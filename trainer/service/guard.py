"""What stands before every request: the key, the size of the body, the time it may take, and the count."""

import asyncio
import hashlib
import hmac
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from trainer.service.export import CurrentExport
from trainer.service.faults import INTERNAL, RETRY_AFTER, RefusedError
from trainer.service.limits import Computing, Limits
from trainer.service.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = frozenset({"/", "/docs", "/openapi.json", "/health"})
"""Paths that need no key, beside the files of the page: they say nothing of users or items."""
ALWAYS = frozenset({"/health", "/metrics"})
"""Paths that are answered however busy the service is."""
PAGE = "/page/"
EXPORT_HEADER = b"x-export"


class Guard:
    """An ASGI application around another one, which lets through what may be worked on.

    Attributes:
        in_flight: Requests in work, without those that are always answered.
        computing: The threads in which they are worked on.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        keys: Collection[str],
        metrics: Metrics,
        computing: Computing,
        current: CurrentExport,
        paths: Collection[str] = (),
    ) -> None:
        self._app, self._limits, self._metrics, self._current = app, limits, metrics, current
        self.computing = computing
        self._paths = frozenset(paths)
        # Digests have one length, so that a comparison's time says nothing of a key's length either.
        self._keys = [_digest(key.encode()) for key in keys]
        self.in_flight = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        # A request keeps the export that it found, also where another one is swapped in meanwhile.
        state = scope.setdefault("state", {})
        state["export"] = self._current.export
        given_by = (EXPORT_HEADER, state["export"].hash.encode())

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), given_by]
            await send(message)

        method = scope["method"]
        if method == "HEAD":  # answered as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        self._metrics.in_flight.inc()
        try:
            await self._answer(scope, receive, counted_send)
        finally:
            # What remembers a request, such as an idle connection, must not keep an old export in memory.
            del state["export"]
            self._metrics.in_flight.dec()
            self._metrics.answered(method, self._route(scope), status, time.perf_counter() - began)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        started = False

        async def noted_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        bounded = scope["path"] not in ALWAYS
        self.in_flight += bounded
        try:
            self._check_key(scope)
            if bounded and self.in_flight + self.computing.overdue > self._limits.max_requests:
                raise RefusedError(503, "the service is busy; try again in a moment", RETRY_AFTER)
            receive = await self._whole_body(scope, receive)
            await self._app(scope, receive, noted_send)
        except RefusedError as refusal:
            await refusal.response()(scope, receive, noted_send)
        except ClientDisconnect:
            pass
        except Exception:
            traceback.print_exc(file=sys.stderr)
            if not started:
                await RefusedError(500, INTERNAL).response()(scope, receive, noted_send)
        finally:
            self.in_flight -= bounded

    def _route(self, scope: MutableMapping[str, Any]) -> str:
        """Return the route of a request, as it was declared, or `other`, which bounds the series."""
        # What is refused before it reaches a route is counted there too, if its path is without parameters.
        path = scope["path"] if scope["path"] in self._paths else "other"
        return getattr(scope.get("route"), "path", None) or path

    def _check_key(self, scope: MutableMapping[str, Any]) -> None:
        path = scope["path"]
        if not self._keys or path in OPEN or path.startswith(PAGE):
            return
        given = b""
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                given = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:].strip()
        digest = _digest(given)
        # All keys are compared, so that the time does not say which one was nearly right.
        if sum(hmac.compare_digest(digest, key) for key in self._keys) == 0:
            wrong = "this key is not one of the service's" if given else "this address needs an API key"
            raise RefusedError(
                401,
                f"{wrong}; send it as X-API-Key, or as Authorization: Bearer",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _whole_body(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        """Return a `receive` that gives the body at once; it is refused as soon as it is too long or slow."""
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if not length and b"transfer-encoding" not in headers:
            return receive
        most = self._limits.max_body
        if length and int(length) > most:
            raise _too_large(most)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if scope["method"] == "POST" and kind != b"application/json":
            # A page of another site may send text or forms without asking first, but not JSON.
            raise RefusedError(
                415, "a body of JSON is needed, with the header Content-Type: application/json"
            )
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self._limits.timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            slow = f"the body did not arrive within {self._limits.timeout:g} seconds"
            raise RefusedError(408, slow, {"Connection": "close"}) from None
        messages = [{"type": "http.request", "body": b"".join(chunks), "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"the body is larger than {most:,} bytes; ask for less at once")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
