"""When a training saves its weights, and which of them it leaves."""

from pathlib import Path
from types import TracebackType

from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import RunConfig
from trainer.distributed.world import World
from trainer.errors import SaveError
from trainer.runs.async_save import Background
from trainer.runs.checkpoint import load, save
from trainer.runs.checkpoint_store import folder_of, is_published, prune
from trainer.runs.validation_history import SavedProgress, ValidationHistory
from trainer.sharding.optimizer_state import optimizer_state


class CheckpointPolicy:
    """Writes a training's checkpoints; made and used on every rank alike."""

    def __init__(
        self,
        run: Path | None,
        config: ResolvedConfig,
        model: nn.Module,
        optimizer: CombinedOptimizer,
        world: World,
    ) -> None:
        """For checkpoints of a sharded model in the folder `run`; None: none are written."""
        self._run, self._config, self._world = run, config, world
        self._model, self._optimizer = model, optimizer
        self._background = Background(world) if run and config.run.save_async else None

    def __enter__(self) -> "CheckpointPolicy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._background and error is not None:
            self._background.wait()

    def is_due(self, history: ValidationHistory, step: int) -> bool:
        """Whether a checkpoint is to be written after a step."""
        settings = self._config.run
        by_count = settings.save_every > 0 and step % settings.save_every == 0 and step < history.steps
        due = by_count or history.paused_at == step or history.is_among_best(step, _best_kept(settings))
        return self._run is not None and due

    def keep(self, history: ValidationHistory, step: int, seconds: float) -> str | None:
        """Write a checkpoint, and remove older ones once it is whole.

        Args: seconds: of training.
        Returns: what hindered it, or the one before that was written meanwhile; None: nothing.
        Raises: SaveError, on every rank, if it cannot be written and the training is not to go on without.
        """
        assert self._run is not None, "then none is due"
        model, paused = self._model, history.paused_at == step
        keep_states = paused or self._config.run.save_every
        states = optimizer_state(model, self._optimizer, self._config.optimizer.name) if keep_states else None
        hindrance, progressed = self.finish(), _progressed(history, seconds)
        if self._background and not paused:
            self._background.save(self._run, step, model, states, progressed, self._prune)
            return hindrance
        try:
            save(self._run, step, model, self._world, states, progressed)
            self._world.on_first(self._prune)
        except SaveError as error:
            return self._put_up_with(error, paused)
        return hindrance

    def finish(self) -> str | None:
        """Wait for what is written meanwhile; returns and raises as `keep`."""
        try:
            if self._background:
                self._background.finish()
        except SaveError as error:
            return self._put_up_with(error)
        return None

    def _put_up_with(self, error: SaveError, paused: bool = False) -> str:
        if paused or self._config.run.on_save_failure == "stop":
            raise error
        return f"{error}. The training goes on"

    def _prune(self) -> None:
        assert self._run is not None
        prune(self._run, self._config.run.keep_last, _best_kept(self._config.run))


def keep_outcome(
    run: Path,
    config: ResolvedConfig,
    model: nn.Module,
    optimizer: CombinedOptimizer,
    world: World,
    history: ValidationHistory,
    seconds: float,
) -> int:
    """Leave the best weights, or the last where there is no patience, in the run and in the model.

    Args: seconds: of training.
    Returns: the step that they are of.
    Raises: SaveError, on every rank.
    """
    last = history.validations[-1].step if history.patience else history.steps
    best = history.best.step if history.patience else last
    if best != last and world.on_first(lambda: is_published(run, best)):
        load(folder_of(run, best), model)
        return best
    if not (history.patience and world.on_first(lambda: is_published(run, last))):
        name = config.optimizer.name
        states = optimizer_state(model, optimizer, name) if config.run.save_every else None
        save(run, last, model, world, states, _progressed(history, seconds))
    return last


def _progressed(history: ValidationHistory, seconds: float) -> SavedProgress:
    return SavedProgress(seconds, [*history.validations], history.origin_steps)


def _best_kept(run: RunConfig) -> int:
    """How many of the best checkpoints stay: with patience the best is the outcome."""
    return max(run.keep_best, 1) if run.patience else run.keep_best
