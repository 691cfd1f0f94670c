"""A folder here that follows what is published at an address, for processes that watch a folder."""

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from trainer.errors import UserError
from trainer.object_storage.copies import open_place
from trainer.object_storage.urls import home_of, is_url, local_path, name_of

LEAST_SECONDS = 5.0
"""A store is asked less often than a folder is looked at."""


@contextmanager
def followed(place: str, seconds: float) -> Iterator[Path]:
    """Give the path of a folder; of an address, a link that leads to a copy of what is in force there.

    Args:
        place: Path or address.
        seconds: Between two looks at an address; 0: there is one look only.

    Raises:
        StorageError: Nothing has been published there, or the store fails at the first look.
    """
    if not is_url(place):
        yield local_path(place)
        return
    copy = open_place(place)
    links = Path(mkdtemp(prefix="followed-", dir=home_of(place)))
    link, end = links / name_of(place), threading.Event()
    link.symlink_to(copy)
    pause = max(seconds, LEAST_SECONDS)

    def follow() -> None:
        before, fault = copy, None
        while not end.wait(pause):
            try:
                found, fault = open_place(place), None
            except UserError as error:
                if str(error) != fault:
                    fault = str(error)
                    print(f"{fault}. What was fetched before goes on", file=sys.stderr, flush=True)
                continue
            if found != before:
                _switch(link, found)
                before = found

    thread = threading.Thread(target=follow, name="follow", daemon=True)
    if seconds > 0:
        thread.start()
    try:
        yield link
    finally:
        end.set()
        shutil.rmtree(links, ignore_errors=True)


def _switch(link: Path, folder: Path) -> None:
    """Let a link lead elsewhere, in one step."""
    beside = link.with_name(f".{link.name}.next")
    beside.unlink(missing_ok=True)
    beside.symlink_to(folder)
    os.replace(beside, link)
