"""When a training keeps its weights, and how it goes on from what it kept."""

from pathlib import Path

from trainer.config import Config, RunConfig
from trainer.errors import SaveError
from trainer.parallel.optimizer_state import create_states, optimizer_state, set_step
from trainer.parallel.world import World
from trainer.training.assembly import Parts
from trainer.training.checkpoint import Saved, folder_of, is_published, load, prune, save
from trainer.training.stopping import Course, Progressed


def is_due(run: RunConfig, course: Course, step: int) -> bool:
    """Whether a checkpoint is to be written after a step."""
    by_count = run.save_every > 0 and step % run.save_every == 0 and step < course.steps
    return by_count or course.paused_at == step or course.is_among_best(step, _best_kept(run))


def keep(
    run: Path, step: int, config: Config, parts: Parts, world: World, course: Course, seconds: float
) -> str | None:
    """Write a checkpoint, and remove older ones once it is whole.

    Args: seconds: of training.
    Returns: what hindered it; None: nothing.
    Raises: SaveError, on every rank, if it cannot be written and the training is not to go on without.
    """
    with_states = course.paused_at == step or config.run.save_every > 0
    try:
        _write(run, step, config, parts, world, Progressed(seconds, course.validations), with_states)
        world.on_first(lambda: prune(run, config.run.keep_last, _best_kept(config.run)))
    except SaveError as error:
        if course.paused_at == step or config.run.on_save_failure == "stop":
            raise
        return f"{error}. The training goes on"
    return None


def keep_outcome(
    run: Path, config: Config, parts: Parts, world: World, course: Course, seconds: float
) -> int:
    """Leave the best weights, or the last where there is no patience, in the run and in the model.

    Args: seconds: of training.
    Returns: the step that they are of.
    Raises: SaveError, on every rank.
    """
    last = course.validations[-1].step if course.patience else course.steps
    best = course.best.step if course.patience else last
    if best != last and world.on_first(lambda: is_published(run, best)):
        load(folder_of(run, best), parts.model)
        return best
    if not (course.patience and world.on_first(lambda: is_published(run, last))):
        progressed, with_states = Progressed(seconds, course.validations), config.run.save_every > 0
        _write(run, last, config, parts, world, progressed, with_states)
    return last


def go_on(saved: Saved, config: Config, parts: Parts) -> None:
    """Fill model and optimizers as they were when a checkpoint was written, whatever plan they had then.

    Raises: CheckpointError if the checkpoint is of another model, or of states that this plan cannot hold.
    """
    create_states(parts.optimizer)
    load(saved.folder, parts.model, optimizer_state(parts.model, parts.optimizer, config.optimizer.name))
    set_step(parts.optimizer, saved.step)


def _write(
    run: Path, step: int, config: Config, parts: Parts, world: World, progressed: Progressed, resumable: bool
) -> None:
    states = None
    if resumable:
        states = optimizer_state(parts.model, parts.optimizer, config.optimizer.name)
    save(run, step, parts.model, world, states, progressed)


def _best_kept(run: RunConfig) -> int:
    """How many of the best checkpoints stay: with patience the best is the outcome."""
    return max(run.keep_best, 1) if run.patience else run.keep_best
