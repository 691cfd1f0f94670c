"""Which errors of an object store pass, and waiting until they have passed."""

import errno
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from trainer.errors import StorageError

Result = TypeVar("Result")
RETRY_SECONDS = "SHARDTOWER_STORE_RETRY_SECONDS"
"""Environment variable: how long an operation is tried again, in seconds."""
DEFAULT_SECONDS = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
PERMANENT = (PermissionError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
REFUSED = "Forbidden"
"""How the message of an error begins by which gcsfs refuses access, without a class or number of its own."""
PERMANENT_NUMBERS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EPERM, errno.EINVAL, errno.ENOSYS),
    *(errno.ENAMETOOLONG, errno.EMSGSIZE, errno.EREMCHG),
)
"""Error numbers of a full disk here, and of requests that a store does not take."""
PASSING = {
    "aiohttp": ("ClientConnectionError", "ClientPayloadError", "ServerTimeoutError"),
    "botocore": ("HTTPClientError", "ConnectionError", "ResponseParserError"),
    "google": ("TransportError",),
    "requests": ("ConnectionError", "Timeout"),
    "urllib3": ("HTTPError",),
}
"""Errors that pass, by the package that defines them, so that none has to be imported."""
PASSING_CODES = (408, 425, 429, 500, 502, 503, 504)
"""Status codes of HTTP that pass."""


def passes(error: BaseException) -> bool:
    """Return whether an error may be gone at another try: time-outs, throttling, a store that is away."""
    if isinstance(error, PERMANENT) or str(error).startswith(REFUSED):
        return False
    code = getattr(error, "code", None) or getattr(error, "status", None)
    if isinstance(code, int | str) and str(code).isdecimal() and int(code) >= 100:
        return int(code) in PASSING_CODES
    if isinstance(error, OSError):  # with what stores answer as an error number, or none
        return error.errno not in PERMANENT_NUMBERS
    return any(
        kind.__name__ in PASSING.get(kind.__module__.partition(".")[0], ()) for kind in type(error).__mro__
    )


def reason(error: BaseException) -> str:
    """Return the first line of an error's message."""
    text = getattr(error, "strerror", None) or str(error)
    return (text.strip() or type(error).__name__).splitlines()[0][:200]


class Outage:
    """Whether operations are waiting for a store: threads tell it once when that begins, and when it ends."""

    def __init__(self, url: str) -> None:
        """Remember the address that lines name."""
        self._url, self._lock = url, threading.Lock()
        self._began: float | None = None

    def begins(self, error: BaseException, limit: float) -> None:
        """Say that a store does not answer, unless that has been said."""
        with self._lock:
            if self._began is None:
                self._began = time.monotonic()
                _say(f"{self._url}: does not answer ({reason(error)}); trying again for up to {limit:.0f} s")

    def ends(self) -> None:
        """Say that it answers again, if it did not."""
        if self._began is None:
            return
        with self._lock:
            if self._began is not None:
                _say(f"{self._url}: answers again after {time.monotonic() - self._began:.0f} s")
                self._began = None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def retried(work: Callable[[], Result], outage: Outage, place: str, patient: bool = True) -> Result:
    """Return the result of `work`, tried again with growing, random pauses while its errors may pass.

    Args:
        work: One operation on a store.
        outage: Tells that operations wait.
        place: What the operation is on, for messages.
        patient: Whether it is tried again at all.

    Raises:
        StorageError: It has not passed within `SHARDTOWER_STORE_RETRY_SECONDS`.
        Exception: What `work` raised and does not pass.
    """
    limit = _limit() if patient else 0.0
    end, pause = time.monotonic() + limit, FIRST_PAUSE
    while True:
        try:
            result = work()
        except Exception as error:
            if not passes(error):
                raise
            if time.monotonic() >= end:
                raise StorageError(
                    f"{place}: no answer within {limit:.0f} s ({reason(error)}). Start the same command "
                    f"again once the store answers; {RETRY_SECONDS} is how long one operation is tried"
                ) from error
            outage.begins(error, limit)
            time.sleep(min(pause * random.uniform(0.5, 1.0), max(end - time.monotonic(), 0)))
            pause = min(2 * pause, LONGEST_PAUSE)
            continue
        outage.ends()
        return result


def _limit() -> float:
    text = os.environ.get(RETRY_SECONDS) or str(DEFAULT_SECONDS)
    try:
        return max(float(text), 0.0)
    except ValueError:
        raise StorageError(f"{RETRY_SECONDS} {text}: expected seconds, such as 300. Mend it") from None
