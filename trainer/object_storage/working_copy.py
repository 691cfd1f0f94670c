"""The local copy of a run that a training writes to, and what of it goes to the store."""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from trainer.atomic_write import write_text
from trainer.errors import ConfigError, StorageError
from trainer.formatting import name_folder
from trainer.object_storage.copies import TRAINING
from trainer.object_storage.fetch import ObjectGoneError, Wanted, fetch, sha256_of
from trainer.object_storage.lease import LEASE
from trainer.object_storage.marker import (
    DIGITS,
    EMPTY,
    MARKER,
    Entry,
    Marker,
    read_marker,
    run_key,
    write_marker,
)
from trainer.object_storage.store import ObjectStore, in_parallel
from trainer.object_storage.urls import home_of, is_url, local_path, name_of, tidy

OURS = re.compile(rf"\.[0-9a-f]{{{DIGITS}}}$")
"""How keys end that `run_key` makes."""
CONFIG, OUTCOME = "config.yaml", "metrics.json"
"""Files of every run, and of one that has ended."""
GROWING = ("metrics.jsonl", "tensorboard/", "wandb/")
"""Files of a run that are written to for as long as a training goes on."""

_OPEN: dict[Path, "WorkingCopy"] = {}


@dataclass
class WorkingCopy:
    """The local copy of a run at an address; one process of each host uses it.

    Attributes:
        url: The address.
        folder: The local copy.
        marker: The version in force that it was last made equal to, or that was published from it.
        stored: Objects that are known to be in the store.
    """

    url: str
    folder: Path
    store: ObjectStore
    marker: Marker = EMPTY
    stored: set[str] = field(default_factory=set)
    _hashes: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Folder of what belongs to the copy and not to the run."""
        return self.folder.parent

    def sync(self) -> None:
        """Make the copy equal to what is in force; without anything in force, empty.

        Raises:
            ConfigError: A training is at work in it, or it is no run.
            StorageError: An object is missing or damaged, or the store fails.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with FileLock(self.home / "sync.lock"):
            with self.locked():
                pass
            self._hashes = self._read_hashes()
            self.marker = read_marker(self.store) or EMPTY
            if self.marker.entries and CONFIG not in self.marker.entries:
                raise ConfigError(f"--run.dir {self.url}: holds what is no run. Name another address")
            self._keep_unpublished_outcome()
            self.stored = {entry.key for entry in self.marker.entries.values()}
            for name in self.names(everything=True):
                if name not in self.marker.entries:
                    (self.folder / name).unlink(missing_ok=True)
            _remove_empty(self.folder)
            self._fetch(self.marker.entries)
            if self.marker.entries:
                self.folder.mkdir(exist_ok=True)
            self._write_hashes()

    def _keep_unpublished_outcome(self) -> None:
        """Move the copy aside if a training has ended in it whose last upload failed, and say so."""
        if not (self.folder / OUTCOME).is_file() or OUTCOME in self.marker.entries:
            return
        aside = self.home / f"not-uploaded-{time.strftime('%Y%m%d-%H%M%S')}" / self.folder.name
        aside.parent.mkdir()
        os.replace(self.folder, aside)
        print(
            f"{self.url}: a training has ended on this machine whose outcome could not be uploaded; it is a "
            f"run folder of its own now, {aside}",
            file=sys.stderr,
            flush=True,
        )

    def publish(self) -> None:
        """Put everything in force that the copy holds, as one process that writes it alone.

        Raises:
            StorageError: The store fails.
        """
        before = self.marker
        self.marker = write_marker(self.store, self.upload(self.names()))
        self.remove_unnamed(before)

    def complete(self, below: str) -> None:
        """Fetch what the version in force has in a folder and this host has not written itself."""
        self.marker = read_marker(self.store) or EMPTY
        self._fetch(self.marker.below(below))

    def _fetch(self, entries: Mapping[str, Entry]) -> None:
        wanted = [Wanted(name, each.key, each.size, each.sha256) for name, each in entries.items()]

        def is_there(each: Wanted) -> bool:
            path = self.folder / each.name
            return path.is_file() and self.sha256(each.name) == each.sha256

        try:
            fetch(self.store, wanted, self.folder, is_there=is_there)
            for each in wanted:  # checked as they came
                facts = (self.folder / each.name).stat()
                self._hashes[each.name] = (facts.st_size, facts.st_mtime_ns, entries[each.name].sha256)
        except ObjectGoneError as gone:
            raise StorageError(
                f"{gone}: is missing, though {MARKER} names it. Bring the object back, or train elsewhere"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings of this host from the copy.

        Raises:
            ConfigError: One is at work in it.
        """
        lock = FileLock(self.home / "training.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"--run.dir {self.url}: another training is at work in it. Name another"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def names(self, everything: bool = False) -> list[str]:
        """Return the files that are published, by their path: without locks and what is half written.

        Args:
            everything: Also those.
        """
        found = [
            (Path(folder) / name).relative_to(self.folder)
            for folder, _, names in os.walk(self.folder)
            for name in names
        ]
        if not everything:
            found = [path for path in found if not _is_scratch(path)]
        return sorted(str(path) for path in found)

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file, which is not computed anew while size and time stay the same."""
        facts = (self.folder / name).stat()
        known = self._hashes.get(name)
        if known is None or known[:2] != (facts.st_size, facts.st_mtime_ns):
            known = (facts.st_size, facts.st_mtime_ns, sha256_of(self.folder / name))
            self._hashes[name] = known
        return known[2]

    def upload(self, names: list[str]) -> dict[str, Entry]:
        """Upload the files that the store does not have yet, and return all as a marker names them.

        Raises:
            StorageError: The store fails.
        """
        outgoing = self.home / "outgoing"
        shutil.rmtree(outgoing, ignore_errors=True)
        found = {name: self._entry(name, outgoing) for name in names}
        missing = {entry.key: path for entry, path in found.values() if entry.key not in self.stored}
        in_parallel(lambda each: self.store.upload(each[1], each[0]), [*missing.items()])
        shutil.rmtree(outgoing, ignore_errors=True)
        self.stored |= missing.keys()
        self._write_hashes()
        return {name: entry for name, (entry, _) in found.items()}

    def _entry(self, name: str, outgoing: Path) -> tuple[Entry, Path]:
        """Return what a marker says of a file, and the path that it is uploaded from.

        Files that grow, such as records, may be written to at any moment: they are uploaded from a copy.
        """
        path = self.folder / name
        if name.startswith(GROWING):
            path = outgoing / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, path)
        sha256 = self.sha256(name) if path == self.folder / name else sha256_of(path)
        return Entry(run_key(name, sha256), path.stat().st_size, sha256), path

    def remove_unnamed(self, before: Marker) -> None:
        """Remove objects that the version before the one in force named, and it does not."""
        self._remove({entry.key for entry in before.entries.values()})

    def remove_leftovers(self) -> None:
        """Remove what uploads have left that were cut off.

        Raises:
            ConfigError: There are runs or exports below the address.
        """
        keys = [each.name for each in self.store.list()]
        if below := [key for key in keys if "/" in key and key.rpartition("/")[2] in (MARKER, LEASE)]:
            raise ConfigError(
                f"--run.dir {self.url}: {below[0].rpartition('/')[0]} lies below it, a run or an export of "
                "its own. Name another address"
            )
        self._remove({key for key in keys if OURS.search(key)})

    def _remove(self, keys: set[str]) -> None:
        unnamed = keys - {entry.key for entry in self.marker.entries.values()}
        with suppress(StorageError):  # they are removed another time
            self.store.remove(sorted(unnamed))
        self.stored -= unnamed

    def _read_hashes(self) -> dict[str, tuple[int, int, str]]:
        with suppress(OSError, ValueError, TypeError):
            return {name: tuple(known) for name, known in json.loads(self._hash_file.read_text()).items()}
        return {}

    def _write_hashes(self) -> None:
        with suppress(OSError):
            write_text(self._hash_file, json.dumps(self._hashes))

    @property
    def _hash_file(self) -> Path:
        return self.home / "hashes.json"


def _is_scratch(path: Path) -> bool:
    """Return whether a file is none of the run: a lock, or half written."""
    return path.parts[0].startswith(".") or any(".partial" in part for part in path.parts)


def _remove_empty(folder: Path) -> None:
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(path)


def working_path(place: str) -> Path:
    """Return the path of a run folder to train in: of an address, a local copy equal to what is in force.

    Raises:
        ConfigError: A training is at work in it.
        StorageError: The store fails.
    """
    if not is_url(place):
        return local_path(place)
    url = tidy(place)
    folder = home_of(url) / TRAINING / name_of(url)
    copy = WorkingCopy(url, folder, ObjectStore(url))
    name_folder(folder, url)
    copy.sync()
    _OPEN[folder] = copy
    return folder


def working_copy_of(folder: Path | str | None) -> WorkingCopy | None:
    """Return the working copy that a path is, if `working_path` has returned it in this process."""
    return _OPEN.get(Path(folder)) if folder else None
