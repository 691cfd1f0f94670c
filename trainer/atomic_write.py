"""Files that are whole or as they were before: written beside their place and moved there at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a path of this process's own that takes the place of `path` when the block ends.

    Raises:
        OSError: The file cannot be written; nothing is left beside it, and an earlier one stays as it was.
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
    """Write a text file whole.

    Raises:
        OSError: The file cannot be written; see `replaced`.
    """
    with replaced(path) as beside:
        beside.write_text(text)
