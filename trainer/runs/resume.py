"""Resuming a training: what its options may not contradict, and its model and optimizers as they were."""

from pathlib import Path

from torch import nn
from torchrec.optim.keyed import CombinedOptimizer

from trainer.config.parser import read_config
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import EvaluationConfig
from trainer.errors import CheckpointError, ConfigError
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
