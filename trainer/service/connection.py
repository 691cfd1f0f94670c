"""Connections of uvicorn that a slow or rude client cannot hold, and a server that stops with code 0."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Generator

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from trainer.service.export import CurrentExport

BUSY = "the service has too many connections; try again in a moment"


class Connection(H11Protocol):
    """A connection on which headers must arrive, and answers must be taken, in time.

    uvicorn bounds the time between two requests alone. Here a timer runs from the opening, or from the first
    byte of a further request, until the headers are there; while an answer waits for a client that does not
    read; and while a body that was refused still arrives.
    """

    seconds = 10.0
    most_connections = 1000
    _headers_timer: asyncio.TimerHandle | None = None
    _drop_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            self._refuse(503, BUSY)
            return
        self._headers_timer = self.loop.call_later(self.seconds, self._headers_late)

    def data_received(self, data: bytes) -> None:
        """Take in data, and see whether they complete the headers that are waited for."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._cancel_timers()
        elif self.conn.their_state is h11.IDLE and self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.seconds, self._headers_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers, which would keep the connection in memory."""
        self._cancel_timers()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Bound the time in which the rest of a refused body may arrive."""
        answered = self.cycle
        super().on_response_complete()
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self._drop_later()

    def pause_writing(self) -> None:
        """Bound the time in which the client must read."""
        super().pause_writing()
        self._drop_later()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._cancel_timers()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, with what its client has not read."""
        super().timeout_keep_alive_handler()
        self._drop_later()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or has too long headers, by a sentence."""
        self._cancel_timers()
        self._refuse(400, "this is no HTTP request, or its headers are too long")

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _headers_late(self) -> None:
        self._headers_timer = None
        if self._is_idle():
            self._refuse(408, f"the headers did not arrive within {self.seconds:g} seconds")

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer without the application, and close."""
        if self.transport.is_closing():
            return
        body = json.dumps({"error": sentence}).encode()
        phrase = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}[status]
        retry = "Retry-After: 1\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
        self._drop_later()

    def _drop_later(self) -> None:
        if self._drop_timer is None:
            self._drop_timer = self.loop.call_later(self.seconds, self.transport.abort)

    def _cancel_timers(self) -> None:
        for timer in (self._headers_timer, self._drop_timer):
            if timer is not None:
                timer.cancel()
        self._headers_timer = self._drop_timer = None


def connection_class(seconds: float, most_connections: int) -> type[Connection]:
    """Return the class of connections with these bounds; uvicorn makes one for each client."""
    return type(
        "BoundedConnection", (Connection,), {"seconds": seconds, "most_connections": most_connections}
    )


class Server(uvicorn.Server):
    """A server that looks after the export's folder, and ends without a signal's exit code.

    Attributes:
        interrupted: Whether SIGINT stopped it.
    """

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        """Make a server that prints `ready` once it answers, and a signal would find it prepared."""
        super().__init__(config)
        self.interrupted = False
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        print(self._ready, flush=True)

    async def serve_and_watch(self, listening: socket.socket, current: CurrentExport, seconds: float) -> None:
        """Serve until a signal; swap in a new export on SIGHUP or, every so many seconds, if there is one.

        Args:
            listening: A bound socket.
            current: The export.
            seconds: Between two looks at the folder; 0 waits for SIGHUP alone.
        """
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
        watching = asyncio.create_task(watch(current, asked, seconds))
        try:
            await self.serve([listening])
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Take SIGTERM and SIGINT as requests to stop; uvicorn's own would raise them again in the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        yield

    def _stop(self, number: int) -> None:
        self.interrupted |= number == signal.SIGINT
        self.handle_exit(number, None)


async def watch(current: CurrentExport, asked: asyncio.Event, seconds: float) -> None:
    """Reload the export when asked to, or when the folder holds another one."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), seconds or None)
        if asked.is_set():
            asked.clear()
            await asyncio.to_thread(current.reload)
        elif await asyncio.to_thread(current.settled_change):
            await asyncio.to_thread(current.reload)
