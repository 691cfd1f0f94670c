"""Checkpoints of sharded towers, written by all ranks and opened at any world size, or in one process."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainer.dataset.vocabulary import vocabulary_digest
from trainer.distributed.lost_ranks import lost_reason
from trainer.distributed.world import World
from trainer.errors import CheckpointError, SaveError
from trainer.runs.checkpoint_store import STATE, digest_of, file_digest, folder_of
from trainer.runs.safe_reader import SafeReader
from trainer.runs.validation_history import SavedProgress
from trainer.sharding.model_state import whole_state

COPIED = ("config.yaml", "plan.json")
"""Files of the run folder that a checkpoint has copies of: how its weights were trained and laid out."""


def save(
    run: Path,
    step: int,
    model: nn.Module,
    world: World,
    states: dict[str, Any] | None = None,
    progress: SavedProgress | None = None,
    publish_checkpoint: Callable[[Path, dict[str, Any]], None] | None = None,
) -> Path:
    """Write a checkpoint and publish it by a rename when every rank has written.

    Args:
        run: Run folder.
        step: Steps that the weights have been trained.
        model: Sharded model, on every rank alike.
        world: All ranks.
        states: Optimizer states, see `trainer.sharding.optimizer_state`; None: weights alone.
        progress: How far the training has come.
        publish_checkpoint: Publishes it where hosts share no folder; on every rank.

    Returns:
        The checkpoint's folder.

    Raises:
        SaveError: It cannot be written, in which case nothing is left of it; raised on every rank.
    """
    final, description = folder_of(run, step), describe(step, states, progress)
    world.on_each_host(lambda: remove_partial(final))
    try:
        write(final, whole_state(model) | (states or {}))
        if publish_checkpoint is None:
            world.on_first(lambda: publish(final, description))
        else:
            publish_checkpoint(final, description)
    except SaveError as error:
        world.on_each_host(lambda: remove_partial(final))
        raise save_error(final, error) from error
    return final


def describe(step: int, states: dict[str, Any] | None, progress: SavedProgress | None) -> dict[str, Any]:
    """Return the description that is saved with a checkpoint's tensors."""
    return {"step": step, "resumable": states is not None, **asdict(progress or SavedProgress())}


def save_error(final: Path, error: SaveError) -> SaveError:
    """Return the error of a checkpoint that could not be written or published."""
    # On a full disk torch's writer names a place in a file and not the reason.
    reason = "not all of a file could be written" if "inline_container" in str(error) else error
    return SaveError(f"{final}: cannot be saved ({reason}). Make room, or name another --run.dir")


def remove_partial(final: Path) -> None:
    """Remove what is left of a checkpoint that was not published."""
    shutil.rmtree(_partial(final), ignore_errors=True)


def write(final: Path, state: dict[str, Any], group: ProcessGroup | None = None) -> None:
    """Write this rank's shards of a checkpoint under a temporary name; on every rank at once.

    Args:
        final: The checkpoint's folder once it is published.
        state: Weights and optimizer states.
        group: Process group of all ranks; None: the default one.

    Raises:
        SaveError: A rank cannot write; raised on every rank.
    """
    try:
        with _quiet():
            distributed_checkpoint.save(state, checkpoint_id=_partial(final), process_group=group)
    except CheckpointException as error:
        raise SaveError(_reason(error)) from error


def publish(
    final: Path, description: dict[str, Any], elsewhere: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Move a checkpoint that all ranks have written to its place, with the digests of its files.

    Args:
        final: Its folder.
        description: Saved with its tensors.
        elsewhere: Digests of files that other hosts have written, on disks of their own.

    Returns:
        The description with these digests, see `follow`.

    Raises:
        SaveError: It cannot be moved.
    """
    partial, run = _partial(final), final.parents[1]
    try:
        for name in COPIED:
            if (run / name).exists():
                shutil.copyfile(run / name, partial / name)
        files = {**(elsewhere or {}), **own_digests(final)}
        description = description | {"vocabulary": vocabulary_digest(run), "files": files}
    except OSError as error:
        raise SaveError(error.strerror or str(error)) from error
    follow(final, description)
    return description


def own_digests(final: Path) -> dict[str, str]:
    """Return the digests of the files of an unpublished checkpoint that this host has written."""
    partial = _partial(final)
    return {path.name: file_digest(path) for path in sorted(partial.iterdir())} if partial.is_dir() else {}


def follow(final: Path, description: dict[str, Any]) -> None:
    """Move this host's files of a checkpoint to their place, with the description that `publish` returned.

    Raises:
        SaveError: They cannot be moved.
    """
    partial = _partial(final)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / STATE).open("w") as file:
            file.write(json.dumps(description | {"own_sha256": digest_of(description)}))
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except OSError as error:
        raise SaveError(error.strerror or str(error)) from error


def _partial(final: Path) -> Path:
    return final.with_suffix(".partial")


def load(checkpoint: Path, model: nn.Module, states: dict[str, Any] | None = None) -> None:
    """Fill a model's weights in place.

    Args:
        checkpoint: Folder of a checkpoint.
        model: Sharded, on every rank alike, or plain, in one process.
        states: Optimizer states, to be filled too.

    Raises:
        CheckpointError: The checkpoint does not hold this model.
    """
    state = whole_state(model) | (states or {})
    try:
        with _quiet():
            reader = SafeReader(checkpoint)
            reader.read_metadata()  # before torch 2.13, `load` drops the reason of a refusal
            distributed_checkpoint.load(state, storage_reader=reader)
    except (CheckpointException, CheckpointError, ValueError, RuntimeError, OSError) as error:
        if lost_reason(error):
            raise
        raise CheckpointError(
            f"{checkpoint}: does not hold this model ({_reason(error)}). It is damaged, or its tables or its "
            "data have changed since the training; train anew"
        ) from error


def entries(checkpoint: Path) -> dict[str, torch.Size]:
    """Return the shape of every tensor in a checkpoint, by its key.

    Args:
        checkpoint: As `newest` returns it, whose files have been verified.
    """
    found = SafeReader(checkpoint).read_metadata().state_dict_metadata
    return {key: entry.size for key, entry in found.items() if isinstance(entry, TensorStorageMetadata)}


def read_entry(checkpoint: Path, key: str) -> torch.Tensor:
    """Return one whole tensor of a checkpoint, read by this process alone; see `entries`."""
    reader = SafeReader(checkpoint)
    entry = reader.read_metadata().state_dict_metadata[key]
    assert isinstance(entry, TensorStorageMetadata)
    tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
    with _quiet():
        distributed_checkpoint.load({key: tensor}, storage_reader=reader, no_dist=True)
    return tensor


def _reason(error: BaseException) -> str:
    """Return an error's message, or the first rank's, which a CheckpointException wraps with tracebacks."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warnings: deprecations, and tracebacks of errors that it raises as well."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
