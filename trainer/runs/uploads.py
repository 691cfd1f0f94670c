"""A run in an object store: all hosts upload what they wrote, then rank 0 puts it in force by a marker.

Hosts need no common disk. Each writes its shares of a checkpoint into a local copy of the run; in the store
they come together.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from trainer.distributed.world import World
from trainer.errors import SaveError, UserError
from trainer.object_storage.lease import Lease
from trainer.object_storage.marker import Entry, write_marker
from trainer.object_storage.working_copy import WorkingCopy, working_copy_of
from trainer.runs.checkpoint import follow, own_digests, publish
from trainer.runs.checkpoint_store import FOLDER, STATE

Result = TypeVar("Result")


class RunUploads:
    """Uploads of a training's run folder; made and used on every rank alike."""

    def __init__(self, copy: WorkingCopy, world: World, lease: Lease) -> None:
        """Prepare uploads.

        Args:
            copy: This host's copy of the run.
            world: All ranks.
            lease: Held by rank 0.
        """
        self._copy, self._world, self._lease = copy, world, lease
        self.seconds: list[float] = []

    def publish_checkpoint(
        self, final: Path, description: dict[str, Any], world: World | None = None
    ) -> None:
        """Publish a checkpoint that all ranks have written, on every host; in the store, `publish` does.

        Args:
            final: Its folder on this host.
            description: Saved with its tensors.
            world: All ranks, where the caller is a thread with a process group of its own.

        Raises:
            SaveError: It cannot be published; raised on every rank.
        """
        world = world or self._world
        digests: dict[str, str] = {}
        for found in _of_hosts(world, lambda: own_digests(final)):
            digests |= found
        state = world.on_first(lambda: publish(final, description, digests))
        world.on_each_host(lambda: None if world.is_first else follow(final, state))

    def publish(self, world: World | None = None) -> None:
        """Upload what has changed, and put it in force.

        Raises:
            SaveError: The store fails, or another training has begun there; what was in force before still
                is. Raised on every rank.
        """
        world, began = world or self._world, time.perf_counter()
        first, *others = _of_hosts(world, lambda: self._upload(world.is_first))
        entries = dict(first)
        published = {_checkpoint(name) for name in first}
        for host in others:
            entries |= {
                name: entry
                for name, entry in host.items()
                if name not in first and _checkpoint(name) in published
            }
        world.on_first(lambda: self._put_in_force(entries), long=True)
        self.seconds.append(time.perf_counter() - began)

    def _upload(self, is_first: bool) -> dict[str, Entry]:
        """Upload what this host has written: rank 0's everything, others' their shares of checkpoints."""
        names = self._copy.names()
        if not is_first:
            names = [name for name in names if _checkpoint(name) and Path(name).name != STATE]
        return self._copy.upload(names)

    def _put_in_force(self, entries: Mapping[str, Entry]) -> None:
        try:
            self._lease.check()
            before = self._copy.marker
            self._copy.marker = write_marker(self._copy.store, entries)
            self._copy.remove_unnamed(before)
        except UserError as error:
            raise SaveError(str(error)) from error

    def complete(self, on_all_hosts: bool = True) -> None:
        """Fetch the shares of checkpoints that other hosts have written.

        Args:
            on_all_hosts: Whether every host needs them, or the first alone.

        Raises:
            SaveError: The store fails; raised on every rank.
        """
        if self._world.local_size < self._world.size:
            needed = on_all_hosts or self._world.is_first
            _of_hosts(self._world, lambda: self._copy.complete(FOLDER) if needed else None)


def _checkpoint(name: str) -> str | None:
    """Return the checkpoint that a file belongs to, or None."""
    folder, _, rest = name.partition("/")
    return rest.partition("/")[0] if folder == FOLDER else None


def _of_hosts(world: World, work: Callable[[], Result]) -> list[Result]:
    """Return what `work` returns on each host, rank 0's first; one rank of each does it, which may take long.

    Raises:
        SaveError: It fails on a host; raised on every rank.
    """
    result: list[Result] = []
    failure = None
    if world.local_rank == 0:
        try:
            result = [work()]
        except (UserError, OSError) as error:
            place = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
            failure = error if isinstance(error, SaveError) else SaveError(place)
    outcomes: list[Any] = [None] * world.size
    dist.all_gather_object(outcomes, (result, failure), group=world.long_work)
    for _, error in outcomes:
        if error is not None:
            raise error
    return [each for found, _ in outcomes for each in found]


@contextmanager
def uploaded(run: Path, world: World) -> Iterator[RunUploads | None]:
    """Give the uploads of a run in an object store, which no other training may publish meanwhile.

    Args:
        run: Run folder; without an address there are none.
        world: All ranks.

    Raises:
        ConfigError: Another training is at work there.
        StorageError: The address cannot be written to.
    """
    copy = working_copy_of(run)
    if copy is None:
        yield None
        return
    lease = Lease(copy.store, copy.home / "lease")
    with ExitStack() as stack:
        world.on_each(lambda: stack.enter_context(copy.locked()) if world.local_rank == 0 else None)
        if world.is_first:
            stack.callback(lease.release)
        world.on_first(lambda: _begin(lease, copy), long=True)
        run.mkdir(parents=True, exist_ok=True)
        yield RunUploads(copy, world, lease)


def _begin(lease: Lease, copy: WorkingCopy) -> None:
    lease.take()
    copy.remove_leftovers()


def run_exists(run: str | os.PathLike[str]) -> bool:
    """Return whether a run folder is there; one in a store, whether anything is in force."""
    copy = working_copy_of(Path(run))
    return Path(run).exists() if copy is None else bool(copy.marker.entries)
