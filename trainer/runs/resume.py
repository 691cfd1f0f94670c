"""Resuming a training: what its options may not contradict, and its model and optimizers as they were.

Also what a training that ends before its first step leaves: nothing if it was refused, and else what it is
resumed from.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.config.parser import read_config
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import EvaluationConfig
from trainer.errors import CheckpointError, ConfigError, Interrupted, UserError
from trainer.formatting import format_command
from trainer.runs.checkpoint import entries, load
from trainer.runs.checkpoint_store import CONFIG, SavedCheckpoint
from trainer.sharding.optimizer_state import create_states, optimizer_state, set_step


def check_resumable(run: Path, saved: SavedCheckpoint, config: ResolvedConfig, epoch_steps: int) -> None:
    """Refuse options that contradict what a checkpoint holds.

    Args:
        run: Run folder, as messages name it.
        saved: Checkpoint to resume from.
        config: Configuration that the training is to be resumed with.
        epoch_steps: Steps of an epoch.

    Raises:
        ConfigError: The training would end before the step that it has reached, or its validation figures
            would be of another metric than those that it has.
    """
    if saved.step > config.run.epochs * epoch_steps:
        epochs = -(-saved.step // epoch_steps)
        raise ConfigError(
            f"--run.epochs {config.run.epochs}: the run in {run} has trained {saved.step:,} steps already, "
            f"which is {saved.step / epoch_steps:.4g} epochs. Give {epochs} or more, or name another "
            "--run.dir"
        )
    if saved.progress.validations:
        before = _validated_by(read_config(saved.folder / CONFIG).evaluation)
        for key, value in _validated_by(config.evaluation).items():
            if value != before[key]:
                raise ConfigError(
                    f"--{key} {value}: the validation figures of the run in {run} were taken with "
                    f"{before[key]}, and others cannot be compared with them. Leave the option out, or name "
                    "another --run.dir"
                )


def _validated_by(evaluation: EvaluationConfig) -> dict[str, str]:
    """Return what the validation figures of one training must have in common, by option."""
    return {"evaluation.k": str(evaluation.k[0]), "evaluation.seen": evaluation.seen}


def resume(
    saved: SavedCheckpoint, optimizer_name: str, model: nn.Module, optimizer: CombinedOptimizer
) -> None:
    """Restore model and optimizers from a checkpoint, whatever their sharding plan was.

    Args:
        saved: A resumable checkpoint.
        optimizer_name: Name of the tables' optimizer.
        model: Sharded model, on every rank alike.
        optimizer: Of the model.

    Raises:
        CheckpointError: It is a checkpoint of another model, or of states that this plan cannot hold.
    """
    create_states(optimizer)
    states = optimizer_state(model, optimizer, optimizer_name)
    if missing := states.keys() - entries(saved.folder).keys():
        raise CheckpointError(
            f"{saved.folder}: has no optimizer state {min(missing)}, which {optimizer_name} needs "
            "under this sharding. Go on under the run's own, which python -m trainer plan RUN shows"
        )
    # A checkpoint holds the optimizer's step of dense layers, and not that of tables.
    set_step(optimizer, saved.step + saved.progress.origin_steps)
    load(saved.folder, model, states)


@contextmanager
def withdrawn_if_refused(run: Path, *, active: bool, existed: bool) -> Iterator[None]:
    """Leave a run folder as it was if the training is refused before it has begun.

    An interruption or a full disk is no refusal: what has been written then is what the run is resumed from.

    Args:
        run: Run folder, which this training has locked.
        active: Whether this rank writes into the folder.
        existed: Whether the folder was there before this training.
    """
    before = {path.name for path in run.iterdir()} if active else set()
    config = (run / CONFIG).read_bytes() if active and CONFIG in before else None
    try:
        yield
    except BaseException as error:
        begun = (run / CONFIG).is_file() and not isinstance(error, UserError)
        if active and not begun:
            if existed:
                _bring_back(run, before, config)
            else:
                shutil.rmtree(run, ignore_errors=True)
                with suppress(OSError):  # it holds other runs, or is not ours
                    run.parent.rmdir()
        raise


def _bring_back(run: Path, before: set[str], config: bytes | None) -> None:
    """Remove what is new in a run folder, and bring its configuration back."""
    for path in run.iterdir():
        if path.name in before:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if config is not None:
        (run / CONFIG).write_bytes(config)


@contextmanager
def resumable(run: Path) -> Iterator[None]:
    """Add the command that goes on to an interruption, once the run folder holds a configuration."""
    try:
        yield
    except KeyboardInterrupt:
        if not (run / CONFIG).is_file():
            raise
        raise Interrupted(resume_command(run)) from None


def resume_command(run: Path) -> str:
    """Return the command that resumes a run, quoted for a shell."""
    return format_command("train", "--run.dir", run)
