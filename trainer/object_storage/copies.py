"""Local copies that readers of an address open: of data, and of runs and exports that were published."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from trainer.errors import StorageError
from trainer.formatting import name_folder
from trainer.object_storage.fetch import ObjectGoneError, Wanted, version_folder
from trainer.object_storage.marker import EMPTY, MARKER, Marker, read_marker
from trainer.object_storage.store import ObjectStore, StoredObject
from trainer.object_storage.urls import home_of, is_url, local_path, name_of, tidy

TRAINING = "training"
"""Folder, in the home of an address, of the copy that a training writes to."""
TRIES = 5
HIDDEN = ("_", ".")
"""First characters of names that are no data, as Spark's `_SUCCESS`."""

_FACTS: dict[Path, list[tuple[str, int, str]]] = {}
"""Address, size and version of every object, by local copy."""


def open_place(place: str | os.PathLike[str]) -> Path:
    """Return the path of a run or an export: of an address, that of a local copy of what it holds now.

    Raises:
        StorageError: Nothing has been published there, an object is missing or damaged, or the store fails.
    """
    if not is_url(place):
        return local_path(place)
    url = tidy(os.fspath(place))
    return published_copy(url)


def published_copy(url: str, only: Callable[[str], bool] | None = None) -> Path:
    """Return the local copy of the version of a published folder that is in force.

    Args:
        url: Its address.
        only: Whether a file of the folder is wanted; by default all are.
    """
    store = ObjectStore(url)
    last = Marker({}, "")
    for _ in range(TRIES):
        marker = read_marker(store)
        if marker is None:
            raise StorageError(
                f"{url}: no run or export was published there (it has no {MARKER}). Name the address of one"
            )
        wanted = [
            Wanted(name, entry.key, entry.size, entry.sha256)
            for name, entry in marker.entries.items()
            if only is None or only(name)
        ]
        version, kind = marker.digest[:20], "copies" if only is None else "parts"
        try:
            folder = version_folder(store, version, name_of(url), wanted, _near(url), kind)
        except ObjectGoneError as gone:
            if marker.digest != last.digest:  # another version has come in force meanwhile
                last = marker
                continue
            raise StorageError(
                f"{gone}: is missing, though {MARKER} names it. Bring the object back, or name another "
                "address"
            ) from None
        name_folder(folder, url)
        return folder
    raise StorageError(f"{url}: changes faster than it can be fetched. Try again later")


def _near(url: str) -> list[Path]:
    return [home_of(url) / TRAINING / name_of(url)]


def published_below(url: str) -> list[str]:
    """Return the addresses of what was published at an address, or directly below it."""
    url = tidy(url)
    places = [each.name.rpartition("/") for each in ObjectStore(url).list()]
    parents = sorted(parent for parent, _, name in places if name == MARKER and parent.count("/") == 0)
    return [url] if "" in parents else [f"{url}/{parent}" for parent in parents]


def published_time(url: str) -> float:
    """Return when the version in force at an address was published, in Unix seconds; 0: nothing was."""
    return (read_marker(ObjectStore(url)) or EMPTY).time


def holds_anything(url: str) -> bool:
    """Return whether there is an object at an address or below it."""
    return bool(ObjectStore(url).list())


def data_copy(option: str, url: str, only: Callable[[str], bool] | None = None) -> Path:
    """Return the local copy of a file or folder of data, which is fetched unless it is there as it is now.

    Args:
        option: Option that names it, for messages.
        url: Its address.
        only: Whether an object is wanted, by its name below the address; by default all are that are not
            hidden.

    Raises:
        StorageError: Nothing is there, or the store fails.
    """
    url = tidy(url)
    store = ObjectStore(url)
    for _ in range(TRIES):
        objects = [each for each in store.list() if (only or _is_visible)(each.name)]
        if not objects:
            raise StorageError(f"{option} {url}: no such object, and none below it. Name an existing one")
        try:
            return _data_copy(store, objects)
        except ObjectGoneError:
            continue  # the folder is being written
    raise StorageError(f"{option} {url}: changes faster than it can be fetched. Try again later")


def _data_copy(store: ObjectStore, objects: list[StoredObject]) -> Path:
    is_file = objects[0].name == ""
    name, facts = name_of(store.url), [(each.name, each.size, each.version) for each in objects]
    wanted = [Wanted(each.name or name, each.name, each.size) for each in objects]
    version = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]
    folder = version_folder(store, version, "file" if is_file else name, wanted)
    copy = folder / name if is_file else folder
    _FACTS[copy] = [(store.place(name), size, version) for name, size, version in facts]
    name_folder(copy, store.url)
    return copy


def _is_visible(name: str) -> bool:
    return not any(part.startswith(HIDDEN) for part in name.split("/"))


def object_facts(copy: Path) -> list[tuple[str, int, str]] | None:
    """Return address, size and version of each object that a path is a local copy of; None: it is none.

    They are the same on every host, wherever its copies lie.
    """
    return _FACTS.get(copy)
