"""Whether hosts that train together agree: on facts, each found by one rank of a host, and on the run folder.

Ranks of one host read the same files, so that nothing is compared there.
"""

import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from trainer.atomic_write import write_text
from trainer.distributed.world import World
from trainer.errors import ConfigError

LONGEST_VALUE = 80
"""Characters of a value that a message shows."""
SEEN_AFTER_SECONDS = 5.0
"""How long a file may take to be seen on another host: network file systems keep listings for a while."""


@dataclass(frozen=True)
class HostFacts:
    """What one host has found.

    Attributes:
        host: Its name.
        rank: Its first rank.
        facts: Value of each fact; the first in which hosts differ is the one that is told.
    """

    host: str
    rank: int
    facts: Mapping[str, str]

    @property
    def place(self) -> str:
        """The host as messages name it; hosts may go by one name, and ranks do not."""
        return f"{self.host} (rank {self.rank})"


def disagreement(hosts: Sequence[HostFacts]) -> str | None:
    """Return the first fact in which a host differs from the first one, with both values; None: they agree.

    Args:
        hosts: All hosts, that of rank 0 first.
    """
    first, *others = hosts
    for other in others:
        for name in [*first.facts, *(each for each in other.facts if each not in first.facts)]:
            values = [_shown(host.facts.get(name, "none")) for host in (first, other)]
            if first.facts.get(name) != other.facts.get(name):
                return f"{name}: {values[0]} on {first.place}, {values[1]} on {other.place}"
    return None


def _shown(value: str) -> str:
    return value if len(value) <= LONGEST_VALUE else f"{value[: LONGEST_VALUE - 3]}..."


def on_several_hosts(world: World) -> bool:
    """Return whether some ranks are on other hosts than this one."""
    return world.local_size < world.size


def agree(world: World, find: Callable[[], Mapping[str, str]], remedy: str) -> None:
    """Compare what hosts find, before anything depends on it; called by every rank alike.

    Args:
        world: All ranks.
        find: Finds this host's facts; one rank of each host calls it, and none where there is one host alone.
        remedy: What to do where hosts differ.

    Raises:
        ConfigError: They differ; raised on every rank, with the first difference.
    """
    if not on_several_hosts(world):
        return
    facts = world.on_each_host(find, long=True)
    own = HostFacts(socket.gethostname(), world.rank, facts) if world.local_rank == 0 else None
    found: list[HostFacts | None] = [None] * world.size
    dist.all_gather_object(found, own, group=world.objects)
    if difference := disagreement([host for host in found if host is not None]):
        raise ConfigError(f"{difference}. {remedy}")


def check_is_shared(world: World, folder: Path) -> None:
    """Refuse a run folder that some host does not see, where its shares of checkpoints would be scattered.

    Args:
        world: All ranks.
        folder: As rank 0 names it; it exists there. Nothing is left in it.

    Raises:
        ConfigError: A host does not see what rank 0 writes there; raised on every rank.
    """
    if not on_several_hosts(world):
        return
    name, first = world.on_first(lambda: (f".hosts-{secrets.token_hex(8)}", socket.gethostname()))

    def look() -> None:
        if not appears(folder / name):
            raise ConfigError(
                f"--run.dir {folder}: {socket.gethostname()} (rank {world.rank}) does not see what {first} "
                "(rank 0) writes there, and every rank writes its share of a checkpoint. Name a folder that "
                "all hosts share, by its full path"
            )

    try:
        world.on_first(lambda: write_text(folder / name, first))
        world.on_each_host(look)
    finally:
        if world.is_first:
            with suppress(OSError):
                (folder / name).unlink()


def appears(file: Path) -> bool:
    """Return whether a file is there, or soon is."""
    end = time.monotonic() + SEEN_AFTER_SECONDS
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
