"""Atomic writes: a file is written under a temporary name and renamed, so that it is never half written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends.

    Raises:
        OSError: The file cannot be written. The temporary one is removed, and an earlier one stays as it was.
    """
    beside = path.parent / f".{path.stem}.{os.getpid()}.partial{path.suffix}"
    try:
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
