"""How far the lists are, on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from trainer.batch_lists.lists_folder import ListsFolder

LINE_INTERVAL = 60
"""Seconds between lines of progress where there is no terminal."""


@contextmanager
def progress(folder: ListsFolder, users: int, size: int, active: bool) -> Iterator[Callable[[], None]]:
    """Give a function that shows how far all ranks are: as a bar on a terminal, else by a line a minute."""
    begun = last = time.monotonic()
    on_terminal = active and sys.stderr.isatty()

    def done() -> int:
        return min(sum(folder.part(number).exists() for number in range(folder.parts)) * size, users)

    before = done() if active else 0
    with tqdm(
        total=users, initial=before, desc="lists", unit="user", delay=2, disable=not on_terminal, leave=False
    ) as bar:

        def shown() -> None:
            nonlocal last
            now = time.monotonic()
            if on_terminal:
                bar.update(done() - bar.n)
            elif active and now - last >= LINE_INTERVAL:
                last, there = now, done()
                left = (now - begun) / max(there - before, 1) * (users - there)
                print(f"{there:,} of {users:,} lists, {left:,.0f} s left", file=sys.stderr, flush=True)

        yield shown
