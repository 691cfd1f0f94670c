"""One training at an address: a lease object that its holder writes anew again and again.

Stores have no locks. Where one takes conditional writes, two trainings that start at once cannot both make
the object; elsewhere, and where a lease is taken over, that is a best effort, and a holder that finds
another's lease publishes nothing any more.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from trainer.atomic_write import write_text
from trainer.errors import ConfigError, StorageError
from trainer.object_storage.store import ObjectStore

LEASE = "lease.json"
SECONDS = "SHARDTOWER_STORE_LEASE_SECONDS"
"""Environment variable: how long a lease holds that is not written anew."""
DEFAULT_SECONDS = 60.0
LOOKS = 20
"""How often a lease is looked at while somebody waits for it to end."""
SETTLED_SECONDS = 0.5


def is_held(url: str) -> bool:
    """Return whether a training at an address has lately written its lease, by the clocks of both hosts."""
    content = ObjectStore(url).read(LEASE)
    with suppress(ValueError, KeyError, TypeError):
        return content is not None and time.time() - json.loads(content)["time"] < 2 * DEFAULT_SECONDS
    return content is not None


def _seconds() -> float:
    text = os.environ.get(SECONDS) or str(DEFAULT_SECONDS)
    with suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise StorageError(f"{SECONDS} {text}: expected seconds above 0, such as 60. Mend it")


class Lease:
    """The right to publish at an address, which one process of a training holds."""

    def __init__(self, store: ObjectStore, own: Path) -> None:
        """Prepare to take it.

        Args:
            store: The address.
            own: File of this host that remembers the lease of the training that was last at work here. As it
                is at work no more (a local lock says so), its lease need not be waited for.
        """
        self._store, self._own, self._id = store, own, secrets.token_hex(8)
        self._quick = ObjectStore(store.url, patient=False)  # for what need not succeed
        self._seconds = _seconds()
        self._end, self._beats = threading.Event(), 0
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def take(self) -> None:
        """Take the lease and keep it.

        Raises:
            ConfigError: Another training holds it.
            StorageError: The address cannot be written to.
        """
        if not self._store.create(LEASE, self._content()):
            self._take_over()
        write_text(self._own, self._id)
        self._thread.start()

    def check(self) -> None:
        """Refuse to publish what another training may have overtaken.

        Raises:
            StorageError: The lease is another's.
        """
        holder = self._read()
        if holder is not None and holder["id"] != self._id:
            raise StorageError(
                f"{self._store.url}: {holder['holder']} has begun to train there. Name another --run.dir"
            )

    def release(self) -> None:
        """Give the lease back."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._seconds)
        with suppress(StorageError):
            holder = self._read(self._quick)
            if holder is not None and holder["id"] == self._id:
                self._quick.remove([LEASE])
        with suppress(OSError):
            self._own.unlink(missing_ok=True)

    def _take_over(self) -> None:
        """Wait for a sign of life of the holder; without one, take its lease."""
        first = found = self._read()
        # One's own is found where the store's answer to the first request was lost.
        known = {self._id, self._own.read_text() if self._own.exists() else self._id}
        if first is not None and first["id"] not in known:
            print(
                f"{self._store.url}: {first['holder']} trains there, or did; waiting "
                f"{self._seconds:.0f} s for a sign of life",
                file=sys.stderr,
                flush=True,
            )
            end = time.monotonic() + self._seconds
            while found == first and time.monotonic() < end:
                time.sleep(self._seconds / LOOKS)
                found = self._read()
            if found is not None and found != first:
                self._refuse(found)
        self._store.write(LEASE, self._content())
        time.sleep(SETTLED_SECONDS)
        if (found := self._read()) is not None and found["id"] != self._id:
            self._refuse(found)

    def _refuse(self, holder: dict) -> None:
        raise ConfigError(
            f"--run.dir {self._store.url}: another training is at work in it ({holder['holder']}). Name "
            "another"
        )

    def _read(self, store: ObjectStore | None = None) -> dict | None:
        content = (store or self._store).read(LEASE)
        if content is None:
            return None
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(content)
            return {name: str(found[name]) for name in ("holder", "id", "beat")}
        return {"holder": "unknown", "id": "", "beat": content.decode(errors="replace")}

    def _content(self) -> bytes:
        holder = f"{socket.gethostname()}, process {os.getpid()}"
        return json.dumps(
            {"holder": holder, "id": self._id, "beat": self._beats, "time": time.time()}
        ).encode()

    def _beat(self) -> None:
        while not self._end.wait(self._seconds / 4):
            self._beats += 1
            with suppress(StorageError):
                if (found := self._read(self._quick)) is None or found["id"] == self._id:
                    self._quick.write(LEASE, self._content())
