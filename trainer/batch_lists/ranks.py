"""Who makes the lists: the ranks of a launch, or one process without a process group."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from filelock import FileLock, Timeout

from trainer.distributed.world import World, join_world
from trainer.errors import UserError

Result = TypeVar("Result")
LOCK = ".lock"


@contextmanager
def joined(world: World | None = None) -> Iterator[World]:
    """Give the ranks that are there already, those of a launch, or a world of this process alone."""
    if world is not None:
        yield world
    elif int(os.environ.get("WORLD_SIZE", 1)) > 1:
        with join_world("cpu") as launched:
            yield launched
    else:
        yield World(0, 1, 0, 1, torch.device("cpu"))


def on_first(world: World, work: Callable[[], Result]) -> Result:
    """Return the result of `work`, which the first rank does while the others wait, for however long."""
    return work() if world.size == 1 else world.on_first(work, long=True)


@contextmanager
def locked(folder: Path, world: World) -> Iterator[None]:
    """Make a folder of lists and lock it for these ranks.

    Raises:
        UserError: It cannot be made, or others write lists into it; raised on every rank.
    """
    lock = FileLock(folder / LOCK, timeout=0)

    def take() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise UserError(
                f"--out {folder}: another process writes lists into it. Name another folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"--out {folder}: cannot be made ({error.strerror}). Name another folder"
            ) from error

    on_first(world, take)
    try:
        yield
    finally:
        if lock.is_locked:
            (folder / LOCK).unlink(missing_ok=True)
            lock.release()
