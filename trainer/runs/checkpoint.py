"""Checkpoints of sharded towers: written by all ranks, opened at any world size, or whole in one process."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainer.dataset.vocabulary import vocabulary_digest
from trainer.distributed.lost_ranks import lost_reason
from trainer.distributed.world import World
from trainer.errors import CheckpointError, SaveError
from trainer.runs.checkpoint_store import STATE, digest_of, file_digest, folder_of
from trainer.runs.safe_reader import Reader
from trainer.runs.validation_history import SavedProgress
from trainer.sharding.model_state import whole_state

BESIDE = ("config.yaml", "plan.json")
"""Files of the run folder that a checkpoint has copies of: how its weights came to be and were laid out."""


def save(
    run: Path,
    step: int,
    model: nn.Module,
    world: World,
    states: dict[str, Any] | None = None,
    progressed: SavedProgress | None = None,
) -> Path:
    """Write the model's weights after `step` steps; published by a rename when every rank has written.

    Args:
        run: run folder.
        model: sharded model, on every rank alike.
        states: of the optimizers, see `trainer.sharding.optimizer_state`; None: weights alone.
    Returns: the checkpoint's folder.
    Raises: SaveError, on every rank, if it cannot be written; nothing is left of it then.
    """
    final, described = folder_of(run, step), described_as(step, states, progressed)
    world.on_first(lambda: clear(final))
    try:
        write(final, whole_state(model) | (states or {}))
        world.on_first(lambda: publish(final, described))
    except SaveError as error:
        world.on_first(lambda: clear(final))
        raise cannot_save(final, error) from error
    return final


def described_as(
    step: int, states: dict[str, Any] | None, progressed: SavedProgress | None
) -> dict[str, Any]:
    """What stands beside a checkpoint's tensors."""
    return {"step": step, "resumable": states is not None, **asdict(progressed or SavedProgress())}


def cannot_save(final: Path, error: SaveError) -> SaveError:
    """What is said of a checkpoint that could not be written or published."""
    # On a full disk torch's writer says where in a file it stood, and not why.
    reason = "not all of a file could be written" if "inline_container" in str(error) else error
    return SaveError(f"{final}: cannot be saved ({reason}). Make room, or name another --run.dir")


def clear(final: Path) -> None:
    """Remove what was left of a checkpoint that was not published."""
    shutil.rmtree(_partial(final), ignore_errors=True)


def write(final: Path, state: dict[str, Any], group: ProcessGroup | None = None) -> None:
    """Write this rank's part of a checkpoint, together with all others, beside its place.

    Args: group: of all ranks; None: the default one.
    Raises: SaveError, on every rank, if one cannot write.
    """
    try:
        with _quiet():
            distributed_checkpoint.save(state, checkpoint_id=_partial(final), process_group=group)
    except distributed_checkpoint.api.CheckpointException as error:
        raise SaveError(_reason(error)) from error


def publish(final: Path, described: dict[str, Any]) -> None:
    """Put a checkpoint that all ranks have written in its place, with the hashes of its files.

    Raises: SaveError.
    """
    partial, run = _partial(final), final.parents[1]
    try:
        for name in BESIDE:
            if (run / name).exists():
                shutil.copyfile(run / name, partial / name)
        files = {path.name: file_digest(path) for path in sorted(partial.iterdir())}
        described = described | {"vocabulary": vocabulary_digest(run), "files": files}
        with (partial / STATE).open("w") as file:
            file.write(json.dumps(described | {"own_sha256": digest_of(described)}))
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except OSError as error:
        raise SaveError(error.strerror or str(error)) from error


def _partial(final: Path) -> Path:
    return final.with_suffix(".partial")


def load(checkpoint: Path, model: nn.Module, states: dict[str, Any] | None = None) -> None:
    """Fill a sharded or plain model's weights in place; in one process where the model is plain.

    Args: states: of the optimizers, to be filled too.

    Raises: CheckpointError if the checkpoint does not hold this model.
    """
    state = whole_state(model) | (states or {})
    try:
        with _quiet():
            distributed_checkpoint.load(state, storage_reader=Reader(checkpoint))
    except (distributed_checkpoint.api.CheckpointException, ValueError, RuntimeError, OSError) as error:
        if lost_reason(error):
            raise
        raise CheckpointError(
            f"{checkpoint}: does not hold this model ({_reason(error)}). It is damaged, or its tables or its "
            "data have changed since the training; train anew"
        ) from error


def entries(checkpoint: Path) -> dict[str, torch.Size]:
    """Shape of every tensor in a checkpoint, by its key.

    Args: checkpoint: as `newest` gives it, so that its files are as they were written.
    """
    kept = Reader(checkpoint).read_metadata().state_dict_metadata
    return {key: entry.size for key, entry in kept.items() if isinstance(entry, TensorStorageMetadata)}


def read_entry(checkpoint: Path, key: str) -> torch.Tensor:
    """One tensor of a checkpoint, whole, read by this process alone; see `entries`."""
    reader = Reader(checkpoint)
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
