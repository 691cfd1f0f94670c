"""Checkpoints of sharded towers: written by all ranks, opened at any world size, or whole in one process."""

import hashlib
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from trainer.data.vocabulary import vocabulary_digest
from trainer.errors import CheckpointError, SaveError
from trainer.parallel.state import whole_state
from trainer.parallel.world import World
from trainer.training.reader import Reader
from trainer.training.stopping import Progressed, Validation

FOLDER = "checkpoints"
STATE = "state.json"
BESIDE = ("config.yaml", "plan.json")
"""Files of the run folder that a checkpoint has copies of: how its weights came to be and were laid out."""
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a damaged `state.json` may raise."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files are as they were written.

    Attributes:
        step: steps that its weights have been trained.
        resumable: whether it holds the optimizers' states.
    """

    folder: Path
    step: int
    resumable: bool
    progressed: Progressed


def folder_of(run: Path, step: int) -> Path:
    """Folder of a run's checkpoint after `step` steps."""
    return run / FOLDER / f"step-{step:09d}"


def is_published(run: Path, step: int) -> bool:
    """Whether a run has a checkpoint of this step."""
    return folder_of(run, step) in _complete(run)


def save(
    run: Path,
    step: int,
    model: nn.Module,
    world: World,
    states: dict[str, Any] | None = None,
    progressed: Progressed | None = None,
) -> Path:
    """Write the model's weights after `step` steps; published by a rename when every rank has written.

    Args:
        run: run folder.
        model: sharded model, on every rank alike.
        states: of the optimizers, see `trainer.parallel.optimizer_state`; None: weights alone.
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


def described_as(step: int, states: dict[str, Any] | None, progressed: Progressed | None) -> dict[str, Any]:
    """What stands beside a checkpoint's tensors."""
    return {"step": step, "resumable": states is not None, **asdict(progressed or Progressed())}


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
        files = {path.name: _digest(path) for path in sorted(partial.iterdir())}
        described = described | {"vocabulary": vocabulary_digest(run), "files": files}
        with (partial / STATE).open("w") as file:
            file.write(json.dumps(described | {"own_sha256": _digest_of(described)}))
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except OSError as error:
        raise SaveError(error.strerror or str(error)) from error


def _partial(final: Path) -> Path:
    return final.with_suffix(".partial")


def prune(run: Path, keep_last: int, keep_best: int = 0) -> None:
    """Remove all checkpoints but the last with optimizers' states and the best, and unfinished ones.

    Args:
        keep_last: how many of those with states stay.
        keep_best: how many stay by their own validation figure, of equal ones the earlier.
    """
    everyone = []
    for folder in _complete(run):
        with suppress(*UNREADABLE):
            everyone.append(_opened(folder))
    measured = [saved for saved in everyone if saved.progressed.figure(saved.step) is not None]
    measured.sort(key=lambda saved: saved.progressed.figure(saved.step) or 0.0, reverse=True)
    resumable = [saved for saved in everyone if saved.resumable]
    kept = {
        saved.folder for saved in [*measured[:keep_best], *resumable[max(len(resumable) - keep_last, 0) :]]
    }
    for other in (run / FOLDER).iterdir() if (run / FOLDER).is_dir() else ():
        if other not in kept:
            shutil.rmtree(other, ignore_errors=True)


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a checkpoint, be it damaged."""
    return bool(_complete(run))


def newest(run: Path, preferred: int | None = None) -> Saved:
    """A run's last whole checkpoint; says so where a later one is damaged.

    Args: preferred: step of the one to be taken if it is whole.
    Raises: CheckpointError if the folder is no run or holds no checkpoint.
    """
    if not run.is_dir():
        raise CheckpointError(
            f"{run}: no such run folder. Train one: python -m trainer train --run.dir {run}"
        )
    for saved in _whole(run, preferred):
        return saved
    raise CheckpointError(f"{run}: holds no complete checkpoint. Name the folder of a finished training")


def last_to_go_on_from(run: Path) -> Saved | None:
    """The last whole checkpoint with optimizers' states; None: there is none.

    Raises: CheckpointError if there are damaged ones alone.
    """
    return next((saved for saved in _whole(run) if saved.resumable), None)


def _whole(run: Path, preferred: int | None = None) -> Iterator[Saved]:
    """Checkpoints that are as they were written, the preferred one first, then from the last back.

    Raises: CheckpointError if all are damaged, or the run's vocabulary is not that of a whole one.
    """
    damages, vocabulary, first = [], vocabulary_digest(run), folder_of(run, preferred or 0)
    for folder in sorted(_complete(run), key=lambda each: (each == first, each), reverse=True):
        if damage := _damage(folder):
            damages.append(damage)
            continue
        for words in damages:
            print(f"{words}; {folder.name} is taken in its place", file=sys.stderr)
        damages = []
        if _described(folder)["vocabulary"] != vocabulary:
            raise CheckpointError(
                f"{run / 'vocabulary'}: is not the one that {folder.name} was trained with, so that its rows "
                "would stand for others. Bring the files back, or train anew elsewhere"
            )
        yield _opened(folder)
    if damages:
        raise CheckpointError(f"{damages[0]}. Train anew elsewhere")


def _opened(checkpoint: Path) -> Saved:
    described = _described(checkpoint)
    validations = [Validation(**each) for each in described["validations"]]
    progressed = Progressed(described["seconds"], validations)
    return Saved(checkpoint, described["step"], described["resumable"], progressed)


def _described(checkpoint: Path) -> dict[str, Any]:
    """What was written beside a checkpoint.

    Raises: ValueError if it is not as it was written.
    """
    described = json.loads((checkpoint / STATE).read_text())
    own = described.pop("own_sha256", None)
    if own is None:
        raise ValueError("of an older version")
    if own != _digest_of(described):
        raise ValueError("not as it was written")
    return described


def _digest_of(described: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _complete(run: Path) -> list[Path]:
    """Published checkpoints of a run, by step."""
    numbered = (run / FOLDER).glob("step-*[0-9]")  # not the `.partial` ones
    return sorted(folder for folder in numbered if (folder / STATE).exists())


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, in words; None: they are as they were written.

    They are read before any of them is opened.
    """
    try:
        described = _described(checkpoint)
        if folder_of(checkpoint.parents[1], _opened(checkpoint).step) != checkpoint:
            return f"{checkpoint}: is another step's"
        files = described["files"]
        for name, digest in files.items():
            if not (checkpoint / name).is_file():
                return f"{checkpoint}: {name} is missing"
            if _digest(checkpoint / name) != digest:
                return f"{checkpoint}: {name} is not as it was written"
        others = {path.name for path in checkpoint.iterdir()} - {STATE, *files}
    except UNREADABLE as error:
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
            distributed_checkpoint.load(state, storage_reader=Reader(checkpoint))
    except (distributed_checkpoint.api.CheckpointException, ValueError, RuntimeError, OSError) as error:
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
