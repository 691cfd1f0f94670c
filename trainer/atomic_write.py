"""Atomic writes: a file is written under a temporary name and renamed, so that it is never half written."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota or a file size that is used up."""
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""How numpy reports that not all of an array could be written; it gives no error number."""


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """Name the place in errors of a full disk that are raised in the block and name none.

    Raises:
        OSError: As it was raised, or with `place` as its file and with an error number.
    """
    try:
        yield
    except OSError as error:
        short = error.errno is None and SHORT_WRITE.search(str(error))
        if error.filename is not None or not (short or error.errno in FULL):
            raise
        number = error.errno or errno.ENOSPC
        raise OSError(number, os.strerror(number), str(place)) from error


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends.

    Raises:
        OSError: The file cannot be written. The temporary one is removed, and an earlier one stays as it was.
    """
    beside = path.parent / f".{path.stem}.{os.getpid()}.partial{path.suffix}"
    try:
        with naming(path):
            yield beside
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        OSError: The file cannot be written; see `replaced`.
    """
    with replaced(path) as beside:
        beside.write_text(text)
