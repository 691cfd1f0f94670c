"""Asynchronous checkpoints, which a thread writes during training.

torch's own asynchronous saving does not copy sharded tensors. They are copied here, and torch's synchronous
saving runs in a thread, with a process group of its own.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.distributed.world import LONG_WORK, World, set_timeout
from trainer.errors import SaveError
from trainer.runs.checkpoint import describe, publish, remove_partial, save_error, write
from trainer.runs.checkpoint_store import folder_of
from trainer.runs.uploads import RunUploads
from trainer.runs.validation_history import SavedProgress
from trainer.sharding.model_state import copied, whole_state


class AsyncSaver:
    """Writes one checkpoint at a time in a thread."""

    def __init__(self, world: World, uploads: RunUploads | None = None) -> None:
        """Make the thread and its process group; on every rank alike.

        Args:
            world: All ranks.
            uploads: Those of a run in an object store, which go on in the thread too.
        """
        self._world, self._group, self._uploads = world, world.new_group(), uploads
        self._thread_world = replace(world, objects=self._group, long_work=self._group)
        if uploads is not None:
            set_timeout(LONG_WORK, self._group)  # uploads may take long
        # A new thread is on the first GPU, and would allocate memory there.
        begin = partial(torch.cuda.set_device, world.device) if world.device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="save", initializer=begin)
        self._pending: Future[None] | None = None

    def save(
        self,
        run: Path,
        step: int,
        model: nn.Module,
        states: dict[str, Any] | None,
        progress: SavedProgress,
        *,
        on_published: Callable[[], None],
    ) -> None:
        """Save as `trainer.runs.checkpoint.save` does, but return once everything is copied.

        Args:
            run: Run folder.
            step: Steps that the weights have been trained.
            model: Sharded model, on every rank alike.
            states: Optimizer states; None: weights alone.
            progress: How far the training has come.
            on_published: Called when the checkpoint is published, on rank 0; with uploads, on every host.
        """
        assert self._pending is None, "one at a time"
        final, description = folder_of(run, step), describe(step, states, progress)
        state = copied(whole_state(model) | (states or {}))
        self._world.on_each_host(lambda: remove_partial(final))
        self._pending = self._thread.submit(self._write, final, state, description, on_published)

    def finish(self) -> None:
        """Wait for the pending save, if there is one.

        Raises:
            SaveError: It could not be written; raised on every rank.
        """
        pending, self._pending = self._pending, None
        error = pending.exception() if pending else None
        if error is not None and not isinstance(error, SaveError):
            raise error
        # Rank 0 alone publishes, but its failure ends the others too.
        self._world.on_each(lambda: _raise(error))

    def wait(self) -> None:
        """Wait for the pending save, whether it succeeds or not."""
        if self._pending:
            self._pending.exception()

    def _write(
        self,
        final: Path,
        state: dict[str, Any],
        description: dict[str, Any],
        on_published: Callable[[], None],
    ) -> None:
        try:
            write(final, state, self._group)
            if self._uploads is not None:
                self._uploads.publish_checkpoint(final, description, self._thread_world)
            elif self._world.is_first:
                publish(final, description)
                on_published()
        except SaveError as error:
            if self._world.is_first:
                remove_partial(final)
            raise save_error(final, error) from error
        if self._uploads is not None:
            self._thread_world.on_each_host(on_published)
            self._uploads.publish(self._thread_world)


def _raise(error: SaveError | None) -> None:
    if error is not None:
        raise error
