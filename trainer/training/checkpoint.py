"""Checkpoints of sharded towers: written by all ranks, opened at any world size, or whole in one process."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed.checkpoint as distributed_checkpoint
from torch import nn

from trainer.errors import CheckpointError
from trainer.parallel.state import whole_state
from trainer.parallel.world import World

FOLDER = "checkpoints"
STATE = "state.json"


def save(run: Path, step: int, model: nn.Module, world: World) -> Path:
    """Write the model's weights after `step` steps; published by a rename when every rank has written.

    Args:
        run: run folder.
        model: sharded model, on every rank alike.
    Returns: the checkpoint's folder.
    """
    final = run / FOLDER / f"step-{step:09d}"
    partial = final.with_suffix(".partial")
    world.on_first(lambda: shutil.rmtree(partial, ignore_errors=True))
    with _quiet():
        distributed_checkpoint.save(whole_state(model), checkpoint_id=partial)
    world.on_first(lambda: _publish(partial, final, step))
    return final


def save_alone(run: Path, step: int, model: nn.Module, world: World) -> Path:
    """As `save`, and remove the run's other checkpoints once this one is whole."""
    final = save(run, step, model, world)
    world.on_first(lambda: _remove_others(final))
    return final


def newest(run: Path) -> tuple[Path, int]:
    """Folder and step of a run's last checkpoint.

    Raises: CheckpointError if the folder is no run or holds no checkpoint.
    """
    if not run.is_dir():
        raise CheckpointError(
            f"{run}: no such run folder. Train one: python -m trainer train --run.dir {run}"
        )
    numbered = (run / FOLDER).glob("step-*[0-9]")  # not the `.partial` ones
    complete = sorted(folder for folder in numbered if (folder / STATE).exists())
    if not complete:
        raise CheckpointError(f"{run}: holds no complete checkpoint. Name the folder of a finished training")
    return complete[-1], int(json.loads((complete[-1] / STATE).read_text())["step"])


def load(checkpoint: Path, model: nn.Module) -> None:
    """Fill a sharded or plain model's weights in place; in one process where the model is plain.

    Raises: CheckpointError if the checkpoint does not hold this model.
    """
    state = whole_state(model)
    try:
        with _quiet():
            distributed_checkpoint.load(state, checkpoint_id=checkpoint)
    except (distributed_checkpoint.api.CheckpointException, ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{checkpoint}: does not hold this model ({_reason(error)}). It is damaged, or its tables or its "
            "data have changed since the training; train anew"
        ) from error


def _reason(error: BaseException) -> str:
    """The words of an error, or of the first rank's that a CheckpointException wraps with its traceback."""
    if isinstance(error, distributed_checkpoint.api.CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return " ".join(str(error).split())[:200] or type(error).__name__


def _remove_others(kept: Path) -> None:
    for folder in kept.parent.iterdir():
        if folder != kept:
            shutil.rmtree(folder, ignore_errors=True)


def _publish(partial: Path, final: Path, step: int) -> None:
    (partial / STATE).write_text(json.dumps({"step": step}))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's warnings: of deprecations, and tracebacks of errors that it raises as well."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
