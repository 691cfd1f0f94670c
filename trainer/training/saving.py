"""When a training keeps its weights, and how it goes on from what it kept."""

from pathlib import Path
from types import TracebackType
from typing import Any

from trainer.config import Config, RunConfig
from trainer.errors import CheckpointError, SaveError
from trainer.parallel.optimizer_state import create_states, optimizer_state, set_step
from trainer.parallel.world import World
from trainer.training.assembly import Parts
from trainer.training.background import Background
from trainer.training.checkpoint import entries, load, save
from trainer.training.published import Saved, folder_of, is_published, prune
from trainer.training.stopping import Course, Progressed


class Keeper:
    """Writes a training's checkpoints; made and used on every rank alike."""

    def __init__(self, run: Path | None, config: Config, parts: Parts, world: World) -> None:
        """For checkpoints in the folder `run`; None: none are written."""
        self._run, self._config, self._parts, self._world = run, config, parts, world
        self._background = Background(world) if run and config.run.save_async else None

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._background and error is not None:
            self._background.wait()

    def is_due(self, course: Course, step: int) -> bool:
        """Whether a checkpoint is to be written after a step."""
        settings = self._config.run
        by_count = settings.save_every > 0 and step % settings.save_every == 0 and step < course.steps
        due = by_count or course.paused_at == step or course.is_among_best(step, _best_kept(settings))
        return self._run is not None and due

    def keep(self, course: Course, step: int, seconds: float) -> str | None:
        """Write a checkpoint, and remove older ones once it is whole.

        Args: seconds: of training.
        Returns: what hindered it, or the one before that was written meanwhile; None: nothing.
        Raises: SaveError, on every rank, if it cannot be written and the training is not to go on without.
        """
        assert self._run is not None, "then none is due"
        model, paused = self._parts.model, course.paused_at == step
        states = states_of(self._config, self._parts) if paused or self._config.run.save_every else None
        hindrance, progressed = self.finish(), _progressed(course, seconds)
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
    run: Path, config: Config, parts: Parts, world: World, course: Course, seconds: float
) -> int:
    """Leave the best weights, or the last where there is no patience, in the run and in the model.

    Of weights that could not be written on the way, the next best ones take the place.

    Args: seconds: of training.
    Returns: the step that they are of, which `course` keeps too.
    Raises: SaveError, on every rank.
    """
    step = course.kept = _to_keep(run, world, course)
    if not (course.patience and world.on_first(lambda: is_published(run, step))):
        states = states_of(config, parts) if config.run.save_every else None
        save(run, step, parts.model, world, states, _progressed(course, seconds))
    elif step != course.validations[-1].step:
        load(folder_of(run, step), parts.model)
    return step


def _to_keep(run: Path, world: World, course: Course) -> int:
    """The last step, or with patience the best one whose weights are still there."""
    if not course.patience:
        return course.steps
    last = course.validations[-1].step
    best_first = sorted(course.validations, key=lambda each: each.figure, reverse=True)
    there = (each.step for each in best_first if each.step == last or is_published(run, each.step))
    return world.on_first(lambda: next(there))


def go_on(saved: Saved, config: Config, parts: Parts) -> None:
    """Fill model and optimizers as they were when a checkpoint was written, whatever plan they had then.

    Raises: CheckpointError if the checkpoint is of another model, or of states that this plan cannot hold.
    """
    create_states(parts.optimizer)
    states = states_of(config, parts)
    if missing := states.keys() - entries(saved.folder).keys():
        raise CheckpointError(
            f"{saved.folder}: has no optimizer state {min(missing)}, which {config.optimizer.name} needs "
            "under this sharding. Go on under the run's own, which python -m trainer plan RUN shows"
        )
    load(saved.folder, parts.model, states)
    set_step(parts.optimizer, saved.step)


def states_of(config: Config, parts: Parts) -> dict[str, Any]:
    """The optimizers' states, see `trainer.parallel.optimizer_state`."""
    return optimizer_state(parts.model, parts.optimizer, config.optimizer.name)


def _progressed(course: Course, seconds: float) -> Progressed:
    return Progressed(seconds, [*course.validations])


def _best_kept(run: RunConfig) -> int:
    """How many of the best checkpoints stay: with patience the best is the outcome."""
    return max(run.keep_best, 1) if run.patience else run.keep_best
