"""What one request may ask for and take: bounds, and threads whose computations have a deadline."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
MOST_LISTED = 100_000
"""Most items over all lists of one batch; about 10 MB of JSON."""


@dataclass(frozen=True)
class Limits:
    """Bounds of the service; whatever lies beyond them is answered by a 4xx or 503 and one sentence.

    Attributes:
        max_k: Longest list that can be asked for.
        max_body: Bytes of a request's body.
        max_batch: Queries of one batch.
        max_requests: Requests that are worked on at the same time; others get a 503.
        timeout: Seconds that a client has for headers, for the body, and for taking the answer, and that a
            computation has from its request on.
        threads: Computations at the same time; the others wait.
    """

    max_k: int = 1000
    max_body: int = 10**6
    max_batch: int = 1000
    max_requests: int = 64
    timeout: float = 10.0
    threads: int = 2


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Overdue(Exception):  # noqa: N818 (it is no fault of the code)
    """A computation took longer than a request may take.

    Attributes:
        began: Whether it had begun, rather than waited for a thread.
    """

    def __init__(self, began: bool) -> None:
        super().__init__()
        self.began = began


class Computing:
    """A few threads for computations. numpy releases the interpreter's lock where most of the time goes.

    A thread cannot be stopped. One that is overdue therefore counts as `overdue` until it ends, so that the
    service does not take on more than it has threads for.
    """

    def __init__(self, threads: int, timeout: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="computing")
        self._timeout = timeout
        self._lock = threading.Lock()
        self.overdue = 0

    async def run(self, function: Callable[P, R], *args: P.args, **settings: P.kwargs) -> R:
        """Call a function in a thread and return what it returns.

        Raises:
            Overdue: It did not end in time.
        """
        future = self._pool.submit(function, *args, **settings)
        waiting = asyncio.wrap_future(future)
        await asyncio.wait({waiting}, timeout=self._timeout)
        if waiting.done():
            return waiting.result()
        if future.cancel():
            raise Overdue(began=False)
        with self._lock:
            self.overdue += 1
        future.add_done_callback(self._ended)
        raise Overdue(began=True)

    def close(self) -> None:
        """Take on no more, and forget what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, _: Future) -> None:
        with self._lock:
            self.overdue -= 1
