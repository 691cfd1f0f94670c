"""When a training saves its weights, and which of them it leaves."""

from pathlib import Path
from types import TracebackType

from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.config.schema import RunConfig
from trainer.distributed.world import World
from trainer.errors import SaveError
from trainer.runs.async_save import AsyncSaver
from trainer.runs.checkpoint import load, save
from trainer.runs.checkpoint_store import folder_of, is_published, prune
from trainer.runs.uploads import RunUploads
from trainer.runs.validation_history import ValidationHistory
from trainer.sharding.optimizer_state import optimizer_state


class CheckpointPolicy:
    """Writes a training's checkpoints; made and used on every rank alike."""

    def __init__(
        self,
        run: Path | None,
        config: RunConfig,
        *,
        model: nn.Module,
        optimizer: CombinedOptimizer,
        optimizer_name: str,
        world: World,
        uploads: RunUploads | None = None,
    ) -> None:
        """Prepare to save a training's checkpoints.

        Args:
            run: Run folder; None: nothing is saved.
            config: When to save, and what stays.
            model: Sharded model.
            optimizer: Of the model.
            optimizer_name: Name of the tables' optimizer.
            world: All ranks.
            uploads: Those of a run in an object store.
        """
        self._run, self._config, self._world, self._uploads = run, config, world, uploads
        self._model, self._optimizer, self._optimizer_name = model, optimizer, optimizer_name
        self._async = AsyncSaver(world, uploads) if run and config.save_async else None

    def __enter__(self) -> "CheckpointPolicy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._async and error is not None:
            self._async.wait()

    def is_due(self, history: ValidationHistory, step: int) -> bool:
        """Return whether a checkpoint is due after a step."""
        every = self._config.save_every
        by_count = every > 0 and step % every == 0 and step < history.steps
        is_best = history.is_among_best(step, _best_count(self._config))
        return self._run is not None and (by_count or history.paused_at == step or is_best)

    def save(self, history: ValidationHistory, step: int, seconds: float) -> str | None:
        """Write a checkpoint, then remove older ones.

        Args:
            history: Validation figures so far.
            step: Steps trained.
            seconds: Seconds of training.

        Returns:
            A message on why this checkpoint, or the one before, could not be written; None: both are.

        Raises:
            SaveError: It cannot be written, and the training is to stop then; raised on every rank.
        """
        assert self._run is not None, "without a run folder none is due"
        paused = history.paused_at == step
        resumable = paused or self._config.save_every
        states = optimizer_state(self._model, self._optimizer, self._optimizer_name) if resumable else None
        failure, progress = self.finish(), history.progress(seconds)
        if self._async and not paused:
            self._async.save(self._run, step, self._model, states, progress, on_published=self._prune)
            return failure
        try:
            if self._uploads is None:
                save(self._run, step, self._model, self._world, states, progress)
                self._world.on_first(self._prune)
            else:
                publish = self._uploads.publish_checkpoint
                save(self._run, step, self._model, self._world, states, progress, publish)
                self._world.on_each_host(self._prune)
                self._uploads.publish()
        except SaveError as error:
            return self._tolerate(error, paused)
        return failure

    def finish(self) -> str | None:
        """Wait for an asynchronous save; returns and raises as `save` does."""
        try:
            if self._async:
                self._async.finish()
        except SaveError as error:
            return self._tolerate(error)
        return None

    def _tolerate(self, error: SaveError, paused: bool = False) -> str:
        if paused or self._config.on_save_failure == "stop":
            raise error
        return f"{error}. The training goes on"

    def _prune(self) -> None:
        assert self._run is not None
        prune(self._run, self._config.keep_last, _best_count(self._config))


def save_outcome(
    run: Path,
    config: RunConfig,
    *,
    model: nn.Module,
    optimizer: CombinedOptimizer,
    optimizer_name: str,
    world: World,
    history: ValidationHistory,
    seconds: float,
    uploads: RunUploads | None = None,
) -> int:
    """Leave the best weights, or without patience the last ones, in the run folder and in the model.

    If the best could not be written on the way, the next best take their place.

    Args:
        run: Run folder.
        config: Whether the outcome is to be resumable.
        model: Sharded model with the last weights, on every rank alike.
        optimizer: Of the model.
        optimizer_name: Name of the tables' optimizer.
        world: All ranks.
        history: Validation figures of the whole training; records which weights are kept.
        seconds: Seconds of training.
        uploads: Those of a run in an object store, where the outcome is not uploaded yet.

    Returns:
        The step of these weights.

    Raises:
        SaveError: They cannot be written; raised on every rank.
    """
    step = history.kept = world.on_first(lambda: _step_to_keep(run, history))
    if not (history.patience and world.on_first(lambda: is_published(run, step))):
        states = optimizer_state(model, optimizer, optimizer_name) if config.save_every else None
        publish = uploads.publish_checkpoint if uploads else None
        save(run, step, model, world, states, history.progress(seconds), publish)
    elif step != history.validations[-1].step:
        if uploads:
            uploads.complete()
        load(folder_of(run, step), model)
    return step


def _step_to_keep(run: Path, history: ValidationHistory) -> int:
    """Return the last step, or with patience the best one whose weights are in the model or were written."""
    if not history.patience:
        return history.steps
    last, best_first = history.validations[-1], sorted(history.validations, key=lambda each: -each.figure)
    return next(each.step for each in best_first if each is last or is_published(run, each.step))


def _best_count(run: RunConfig) -> int:
    """Return how many of the best checkpoints stay: with patience at least one, the outcome."""
    return max(run.keep_best, 1) if run.patience else run.keep_best
