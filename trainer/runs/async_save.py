"""Checkpoints that a thread writes while the training goes on.

The library's own asynchronous saving copies tensors before it returns, but knows no sharded ones: so they are
copied here, and its saving runs in a thread, with collectives of its own.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.distributed.world import World
from trainer.errors import SaveError
from trainer.runs.checkpoint import cannot_save, clear, described_as, publish, write
from trainer.runs.checkpoint_store import folder_of
from trainer.runs.validation_history import SavedProgress
from trainer.sharding.model_state import copied, whole_state


class Background:
    """One save at a time, besides the training."""

    def __init__(self, world: World) -> None:
        """Made on every rank alike."""
        self._world, self._group = world, world.new_group()
        # A thread begins on the first GPU, and would take memory there.
        begin = partial(torch.cuda.set_device, world.device) if world.device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="save", initializer=begin)
        self._saving: Future[None] | None = None

    def save(
        self,
        run: Path,
        step: int,
        model: nn.Module,
        states: dict[str, Any] | None,
        progressed: SavedProgress,
        then: Callable[[], None],
    ) -> None:
        """As `trainer.runs.checkpoint.save`, but return when everything is copied.

        Args: then: done on rank 0 when the checkpoint is published.
        """
        assert self._saving is None, "one at a time"
        final, described = folder_of(run, step), described_as(step, states, progressed)
        state = copied(whole_state(model) | (states or {}))
        self._world.on_first(lambda: clear(final))
        self._saving = self._thread.submit(self._write, final, state, described, then)

    def finish(self) -> None:
        """Wait for the save under way, if there is one.

        Raises: SaveError, on every rank, if it could not be written.
        """
        saving, self._saving = self._saving, None
        error = saving.exception() if saving else None
        if error is not None and not isinstance(error, SaveError):
            raise error
        # A failure of rank 0 alone, which publishes, is every rank's.
        self._world.on_each(lambda: _raise(error))

    def wait(self) -> None:
        """Wait for the save under way, however it ends."""
        if self._saving:
            self._saving.exception()

    def _write(
        self, final: Path, state: dict[str, Any], described: dict[str, Any], then: Callable[[], None]
    ) -> None:
        try:
            write(final, state, self._group)
            if self._world.is_first:
                publish(final, described)
                then()
        except SaveError as error:
            if self._world.is_first:
                clear(final)
            raise cannot_save(final, error) from error


def _raise(error: SaveError | None) -> None:
    if error is not None:
        raise error
