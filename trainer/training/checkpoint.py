"""Checkpoints of sharded towers: written by all ranks, opened at any world size, or whole in one process."""

import hashlib
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch import nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainer.data.vocabulary import vocabulary_digest
from trainer.errors import CheckpointError
from trainer.parallel.state import whole_state
from trainer.parallel.world import World

FOLDER = "checkpoints"
STATE = "state.json"


def save(
    run: Path,
    step: int,
    model: nn.Module,
    world: World,
    states: dict[str, Any] | None = None,
    finished: bool = False,
) -> Path:
    """Write the model's weights after `step` steps; published by a rename when every rank has written.

    Args:
        run: run folder.
        model: sharded model, on every rank alike.
        states: of the optimizers, see `trainer.parallel.optimizer_state`; None: they are not kept.
        finished: the training is over, so that it does not go on from here.
    Returns: the checkpoint's folder.
    """
    final = run / FOLDER / f"step-{step:09d}"
    partial = final.with_suffix(".partial")
    world.on_first(lambda: shutil.rmtree(partial, ignore_errors=True))
    with _quiet():
        distributed_checkpoint.save(whole_state(model) | (states or {}), checkpoint_id=partial)
    description = {"step": step, "resumable": states is not None and not finished}
    world.on_first(lambda: _publish(partial, final, description | {"vocabulary": vocabulary_digest(run)}))
    return final


def save_alone(run: Path, step: int, model: nn.Module, world: World) -> Path:
    """As `save`, and remove the run's other checkpoints once this one is whole."""
    final = save(run, step, model, world)
    world.on_first(lambda: prune(run, keep=1))
    return final


def prune(run: Path, keep: int) -> None:
    """Remove all checkpoints of a run but the last ones, and what was left unfinished."""
    folder = run / FOLDER
    kept = set(_complete(run)[-keep:])
    for other in folder.iterdir() if folder.is_dir() else ():
        if other not in kept:
            shutil.rmtree(other, ignore_errors=True)


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a checkpoint, be it damaged."""
    return bool(_complete(run))


def newest(run: Path) -> tuple[Path, int]:
    """Folder and step of a run's last whole checkpoint; says so where a later one is damaged.

    Raises: CheckpointError if the folder is no run or holds no checkpoint.
    """
    if not run.is_dir():
        raise CheckpointError(
            f"{run}: no such run folder. Train one: python -m trainer train --run.dir {run}"
        )
    for folder, description in _whole(run):
        return folder, int(description["step"])
    raise CheckpointError(f"{run}: holds no complete checkpoint. Name the folder of a finished training")


def last_to_go_on_from(run: Path) -> tuple[Path, int] | None:
    """Folder and step of the last whole checkpoint with optimizers' states; None: there is none.

    Raises: CheckpointError if there are damaged ones alone.
    """
    for folder, description in _whole(run):
        if description["resumable"]:
            return folder, int(description["step"])
    return None


def _whole(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Checkpoints that are as they were written, with what was written beside them, the last one first.

    Raises: CheckpointError if all are damaged, or the run's vocabulary is not that of a whole one.
    """
    damages, vocabulary = [], vocabulary_digest(run)
    for folder in reversed(_complete(run)):
        if damage := _damage(folder):
            damages.append(damage)
            continue
        for words in damages:
            print(f"{words}; {folder.name} is taken in its place", file=sys.stderr)
        damages, description = [], _described(folder)
        if description["vocabulary"] != vocabulary:
            raise CheckpointError(
                f"{run / 'vocabulary'}: is not the one that {folder.name} was trained with, so that its rows "
                "would stand for others. Bring the files back, or train anew elsewhere"
            )
        yield folder, description
    if damages:
        raise CheckpointError(f"{damages[0]}. Train anew elsewhere")


def _described(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / STATE).read_text())


def _complete(run: Path) -> list[Path]:
    """Published checkpoints of a run, by step."""
    numbered = (run / FOLDER).glob("step-*[0-9]")  # not the `.partial` ones
    return sorted(folder for folder in numbered if (folder / STATE).exists())


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, in words; None: they are as they were written.

    They are read before any of them is opened: TorchRec's metadata are a pickle, which a stranger's hand must
    not have touched.
    """
    try:
        description = _described(checkpoint)
        files = description["files"]
        for name, digest in files.items():
            if not (checkpoint / name).is_file():
                return f"{checkpoint}: {name} is missing"
            if _digest(checkpoint / name) != digest:
                return f"{checkpoint}: {name} is not as it was written"
        others = {path.name for path in checkpoint.iterdir()} - {STATE, *files}
        if "vocabulary" not in description:
            return f"{checkpoint / STATE}: is of an older version, which kept no hash of the vocabulary"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{checkpoint / STATE}: cannot be read ({str(error) or type(error).__name__})"
    return f"{checkpoint}: {min(others)} does not belong to it" if others else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(checkpoint: Path, model: nn.Module, states: dict[str, Any] | None = None) -> None:
    """Fill a sharded or plain model's weights in place; in one process where the model is plain.

    Args: states: of the optimizers, to be filled too.

    Raises: CheckpointError if the checkpoint does not hold this model.
    """
    state = whole_state(model) | (states or {})
    try:
        with _quiet():
            distributed_checkpoint.load(state, checkpoint_id=checkpoint)
    except (distributed_checkpoint.api.CheckpointException, ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{checkpoint}: does not hold this model ({_reason(error)}). It is damaged, or its tables or its "
            "data have changed since the training; train anew"
        ) from error


def entries(checkpoint: Path) -> dict[str, torch.Size]:
    """Shape of every tensor in a checkpoint, by its key.

    Args: checkpoint: as `newest` gives it, so that its files are as they were written.
    """
    kept = distributed_checkpoint.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    return {key: entry.size for key, entry in kept.items() if isinstance(entry, TensorStorageMetadata)}


def read_entry(checkpoint: Path, key: str) -> torch.Tensor:
    """One tensor of a checkpoint, whole, read by this process alone; see `entries`."""
    reader = distributed_checkpoint.FileSystemReader(checkpoint)
    entry = reader.read_metadata().state_dict_metadata[key]
    assert isinstance(entry, TensorStorageMetadata)
    tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
    with _quiet():
        distributed_checkpoint.load({key: tensor}, storage_reader=reader, no_dist=True)
    return tensor


def _reason(error: BaseException) -> str:
    """The words of an error, or of the first rank's that a CheckpointException wraps with its traceback."""
    if isinstance(error, distributed_checkpoint.api.CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return " ".join(str(error).split())[:200] or type(error).__name__


def _publish(partial: Path, final: Path, description: dict[str, Any]) -> None:
    files = {path.name: _digest(path) for path in sorted(partial.iterdir())}
    (partial / STATE).write_text(json.dumps(description | {"files": files}))
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
