"""What is made of a run once its training has ended, added to what is in force at its address."""

from contextlib import suppress
from pathlib import Path

from trainer.errors import UserError
from trainer.object_storage.lease import Lease
from trainer.object_storage.marker import read_marker
from trainer.object_storage.working_copy import working_copy_of


def publish_late(folder: Path) -> None:
    """Publish what a training's local copy holds beyond what was published, such as vectors that were kept.

    Nothing is done in a folder without an address, or where another training has gone on meanwhile. A store
    that fails now is no fault: what is added can be made again.
    """
    copy = working_copy_of(folder)
    if copy is None:
        return
    with suppress(UserError), copy.locked():
        lease = Lease(copy.store, copy.home / "lease")
        lease.take()
        try:
            found = read_marker(copy.store)
            if found is not None and found.digest == copy.marker.digest:
                copy.publish()
        finally:
            lease.release()
