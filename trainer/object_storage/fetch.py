"""Objects fetched into a local folder: in parallel, whole files by a rename, with their hashes checked."""

import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.atomic_write import naming
from trainer.errors import StorageError
from trainer.formatting import format_bytes, format_count
from trainer.object_storage.store import ObjectStore, in_parallel
from trainer.object_storage.urls import home_of

TOLD_BYTES, TOLD_SECONDS = 64 * 10**6, 10.0
"""From which size on a fetch is announced, and how often it says how far it is."""
KEPT_VERSIONS = 2
"""How many versions of a local copy stay: the last one, and the one that somebody may still be reading."""
NEVER_CHANGED = "checkpoints/"
"""Files that a training replaces and never writes to, so that copies may be links to them."""


class ObjectGoneError(Exception):
    """An object is not there (any more); its address is the message."""


@dataclass(frozen=True)
class Wanted:
    """A file to be fetched.

    Attributes:
        name: Its path in the local folder.
        key: Its object.
        size: Bytes.
        sha256: In hexadecimal; None where the store does not say, and the size alone is checked.
    """

    name: str
    key: str
    size: int
    sha256: str | None = None


def fetch(
    store: ObjectStore,
    wanted: Sequence[Wanted],
    folder: Path,
    near: Sequence[Path] = (),
    is_there: Callable[[Wanted], bool] | None = None,
) -> None:
    """Fetch what is missing in a folder.

    Args:
        store: Where the objects are.
        wanted: All files.
        folder: Where they go. A file in it is whole, as it has got its name last.
        near: Folders that may hold the same files, which are then taken from there.
        is_there: Whether a file need not be fetched; by default, whether it has the right size.

    Raises:
        ObjectGoneError: An object is not there.
        StorageError: One is damaged, or the store fails.
    """
    is_there = is_there or (lambda each: _size(folder / each.name) == each.size)
    missing = [each for each in wanted if not is_there(each)]
    for parent in {(folder / each.name).parent for each in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    missing = [each for each in missing if not any(_taken(each, folder, other) for other in near)]
    progress = _Progress(store.url, missing)

    def one(each: Wanted) -> None:
        _download(store, each, folder)
        progress.add(each.size)

    with naming(folder):
        in_parallel(one, missing)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _download(store: ObjectStore, wanted: Wanted, folder: Path) -> None:
    """Fetch one file; a damaged one is fetched once more, as the way may be at fault."""
    path = folder / wanted.name
    beside = path.with_name(f".{path.name}.part")
    for last in (False, True):
        try:
            store.download(wanted.key, beside)
        except FileNotFoundError as error:
            raise ObjectGoneError(store.place(wanted.key)) from error
        fault = _fault(beside, wanted)
        if fault is None:
            os.replace(beside, path)
            return
        beside.unlink(missing_ok=True)
        if last:
            raise StorageError(
                f"{store.place(wanted.key)}: is damaged ({fault}). Bring the object back, or name another "
                "address"
            )


def _fault(path: Path, wanted: Wanted) -> str | None:
    size = path.stat().st_size
    if size != wanted.size:
        return f"{size:,} bytes, expected {wanted.size:,}"
    if wanted.sha256 is not None and (found := sha256_of(path)) != wanted.sha256:
        return f"SHA-256 {found[:12]}, expected {wanted.sha256[:12]}"
    return None


def _taken(wanted: Wanted, folder: Path, other: Path) -> bool:
    """Take a file from another folder, if it is the same there; return whether it is."""
    near, path = other / wanted.name, folder / wanted.name
    if wanted.sha256 is None or _size(near) != wanted.size:
        return False
    with suppress(OSError):
        if sha256_of(near) != wanted.sha256:
            return False
        beside = path.with_name(f".{path.name}.part")
        beside.unlink(missing_ok=True)
        if wanted.name.startswith(NEVER_CHANGED):
            os.link(near, beside)
        else:
            shutil.copyfile(near, beside)
        if _fault(beside, wanted) is None:
            os.replace(beside, path)
            return True
    return False


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def version_folder(
    store: ObjectStore,
    version: str,
    name: str,
    wanted: Sequence[Wanted],
    near: Sequence[Path] = (),
    kind: str = "copies",
) -> Path:
    """Return a local folder that holds one version of an address, fetched unless it is there.

    It is published by a rename. What an interrupted process has fetched is not fetched again.

    Args:
        store: Where the objects are.
        version: Tells this version of the address from others.
        name: Name of the folder.
        wanted: All files.
        near: Folders that may hold the same files.
        kind: Copies of one kind make room for each other.

    Raises:
        ObjectGoneError, StorageError: See `fetch`.
    """
    home = home_of(store.url) / kind
    whole, partial = home / version, home / f"{version}.partial"
    if not (whole / name).is_dir():
        from filelock import FileLock  # here, as the light installation lacks it

        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f"{version}.lock"):
            if not (whole / name).is_dir():
                (partial / name).mkdir(parents=True, exist_ok=True)
                fetch(store, wanted, partial / name, [*near, *(old / name for old in _versions(home))])
                os.replace(partial, whole)
        (home / f"{version}.lock").unlink(missing_ok=True)
    with suppress(OSError):
        os.utime(whole)
    for old in _versions(home)[KEPT_VERSIONS:]:
        shutil.rmtree(old, ignore_errors=True)
    return whole / name


def _versions(home: Path) -> list[Path]:
    """Return the whole versions of a local copy, the one that was used last first."""
    found = [path for path in home.iterdir() if path.is_dir() and not path.name.endswith(".partial")]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


class _Progress:
    """Lines on how far a big fetch is."""

    def __init__(self, url: str, wanted: Sequence[Wanted]) -> None:
        self._url, self._all, self._done = url, sum(each.size for each in wanted), 0
        self._lock, self._told = threading.Lock(), time.monotonic()
        self._is_big = self._all >= TOLD_BYTES
        if self._is_big:
            self._say(f"fetching {format_count(len(wanted), 'file')} ({format_bytes(self._all)})")

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            now = time.monotonic()
            if self._is_big and (now - self._told > TOLD_SECONDS or self._done == self._all):
                self._told = now
                self._say(f"{format_bytes(self._done)} of {format_bytes(self._all)} fetched")

    def _say(self, text: str) -> None:
        print(f"{self._url}: {text}", file=sys.stderr, flush=True)
