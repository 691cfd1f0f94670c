"""The marker object: it names every object of a folder that was published to a store, with size and SHA-256.

A store has no rename. Objects are written first, under keys that no marker names yet, and the marker last, in
one request: whoever reads it sees the folder as it was published, whatever is being written meanwhile.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.errors import StorageError
from trainer.object_storage.store import ObjectStore

MARKER = "published.json"
FORMAT = 1
DIGITS = 12
"""Digits of a SHA-256 that stand in keys."""


@dataclass(frozen=True)
class Entry:
    """One file of a published folder.

    Attributes:
        key: Its object, below the address.
        size: Bytes.
        sha256: In hexadecimal.
    """

    key: str
    size: int
    sha256: str


Keys = Callable[[str, str], str]
"""Makes a key from a file's path in its folder and its SHA-256."""


@dataclass(frozen=True)
class Marker:
    """What a marker in force says.

    Attributes:
        entries: The files, by their path in the folder.
        digest: Tells this version of the folder from others.
        time: When it was published, in Unix seconds.
    """

    entries: Mapping[str, Entry]
    digest: str
    time: float = 0.0

    def below(self, folder: str) -> dict[str, Entry]:
        """Return the files in a folder of it."""
        return {name: entry for name, entry in self.entries.items() if name.startswith(f"{folder}/")}


EMPTY = Marker({}, "")
"""Where nothing has been published."""


def run_key(name: str, sha256: str) -> str:
    """Return the key of a run's file: with its hash, so that other content never has the same key."""
    return f"{name}.{sha256[:DIGITS]}"


def read_marker(store: ObjectStore) -> Marker | None:
    """Return the marker in force; None: nothing has been published at this address.

    Raises:
        StorageError: It is damaged, or of another version.
    """
    content = store.read(MARKER)
    if content is None:
        return None
    try:
        found = json.loads(content)
        own, when = found.pop("own_sha256"), float(found.pop("time"))
        if found["format"] != FORMAT:
            raise StorageError(
                f"{store.place(MARKER)}: is of format {found['format']}, expected {FORMAT}. Use the version "
                "that wrote it"
            )
        if own != _digest(found):
            raise ValueError("not as it was written")
        entries = {name: Entry(**entry) for name, entry in found["files"].items()}
        for name in entries:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"names {name}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{store.place(MARKER)}: is damaged ({error}). Bring it back, or name another address"
        ) from None
    return Marker(entries, own, when)


def write_marker(store: ObjectStore, entries: Mapping[str, Entry]) -> Marker:
    """Put a version in force whose objects are all written."""
    content = {
        "format": FORMAT,
        "files": {name: asdict(entry) for name, entry in sorted(entries.items())},
    }
    digest, now = _digest(content), time.time()
    store.write(MARKER, json.dumps(content | {"own_sha256": digest, "time": now}, indent=1).encode())
    return Marker(dict(entries), digest, now)


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
