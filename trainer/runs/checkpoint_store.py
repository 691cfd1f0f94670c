"""The checkpoints of a run, and whether they are undamaged; nothing here imports torch."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.dataset.vocabulary import vocabulary_digest
from trainer.errors import CheckpointError
from trainer.formatting import format_command
from trainer.runs.validation_history import SavedProgress, Validation

CONFIG, METRICS = "config.yaml", "metrics.json"
FOLDER = "checkpoints"
STATE = "state.json"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""Errors that reading a damaged `state.json` may raise."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint whose files have been verified.

    Attributes:
        folder: Its folder.
        step: Steps that its weights have been trained.
        resumable: Whether it holds optimizer states.
        progress: How far the training had come.
        digest: SHA-256 of its description, which holds the digests of all files and of the vocabulary.
    """

    folder: Path
    step: int
    resumable: bool
    progress: SavedProgress
    digest: str


def folder_of(run: Path, step: int) -> Path:
    """Return the folder of a run's checkpoint after `step` steps."""
    return run / FOLDER / f"step-{step:09d}"


def is_published(run: Path, step: int) -> bool:
    """Return whether a run has a checkpoint of this step."""
    return folder_of(run, step) in _published(run)


def check_is_run(run: Path) -> None:
    """Refuse a folder that no training has written.

    Raises:
        CheckpointError: It is not a run folder.
    """
    if not (run / CONFIG).is_file():
        raise CheckpointError(f"{run}: no run folder (it has no {CONFIG}). Name one that `train` wrote")


def finished_step(run: Path) -> int | None:
    """Return the step of the weights that a finished run evaluated; None: it is not finished."""
    with suppress(OSError, ValueError, KeyError):
        return json.loads((run / METRICS).read_text())["step"]
    return None


def prune(run: Path, keep_last: int, keep_best: int = 0) -> None:
    """Remove all checkpoints but the last resumable ones and the best, and unfinished ones.

    Args:
        run: Run folder.
        keep_last: How many resumable checkpoints stay.
        keep_best: How many stay for their own validation figure; earlier ones win ties.
    """
    checkpoints = []
    for folder in _published(run):
        with suppress(*UNREADABLE):
            checkpoints.append(_read(folder))
    validated = [saved for saved in checkpoints if saved.progress.figure(saved.step) is not None]
    validated.sort(key=lambda saved: saved.progress.figure(saved.step) or 0.0, reverse=True)
    resumable = [saved for saved in checkpoints if saved.resumable]
    retained = [*validated[:keep_best], *resumable[max(len(resumable) - keep_last, 0) :]]
    folders = {saved.folder for saved in retained}
    for other in (run / FOLDER).iterdir() if (run / FOLDER).is_dir() else ():
        if other not in folders:
            shutil.rmtree(other, ignore_errors=True)


def has_checkpoint(run: Path) -> bool:
    """Return whether a run has a checkpoint, damaged or not."""
    return bool(_published(run))


def last_saved_step(run: Path) -> int | None:
    """Return the step of a run's last resumable checkpoint, damaged or not; None: it has none."""
    for folder in reversed(_published(run)):
        with suppress(*UNREADABLE):
            if (saved := _read(folder)).resumable:
                return saved.step
    return None


def newest(run: Path, preferred: int | None = None) -> SavedCheckpoint:
    """Return a run's last undamaged checkpoint; print a line for every damaged one that it replaces.

    Args:
        run: Run folder.
        preferred: Step of the checkpoint to be taken if it is undamaged.

    Raises:
        CheckpointError: The folder does not exist or holds no checkpoint.
    """
    if not run.is_dir():
        raise CheckpointError(
            f"{run}: no such run folder. Train one: {format_command('train', '--run.dir', run)}"
        )
    for saved in _undamaged(run, preferred):
        return saved
    raise CheckpointError(f"{run}: holds no complete checkpoint. Name the folder of a finished training")


def newest_resumable(run: Path) -> SavedCheckpoint | None:
    """Return the last undamaged checkpoint with optimizer states; None: there is none.

    Raises:
        CheckpointError: All checkpoints are damaged.
    """
    return next((saved for saved in _undamaged(run) if saved.resumable), None)


def _undamaged(run: Path, preferred: int | None = None) -> Iterator[SavedCheckpoint]:
    """Yield undamaged checkpoints, the preferred one first, then from the last backwards.

    Raises:
        CheckpointError: All are damaged, or one was trained with another vocabulary than the run's.
    """
    damages, vocabulary, first = [], vocabulary_digest(run), folder_of(run, preferred or 0)
    for folder in sorted(_published(run), key=lambda each: (each == first, each), reverse=True):
        if damage := _damage(folder):
            damages.append(damage)
            continue
        for message in damages:
            print(f"{message}; {folder.name} is taken in its place", file=sys.stderr)
        damages = []
        if _description(folder)["vocabulary"] != vocabulary:
            raise CheckpointError(
                f"{run / 'vocabulary'}: is not the one that {folder.name} was trained with, so that its rows "
                "would stand for others. Bring the files back, or train anew elsewhere"
            )
        yield _read(folder)
    if damages:
        raise CheckpointError(f"{damages[0]}. Train anew elsewhere")


def _read(checkpoint: Path) -> SavedCheckpoint:
    found = _description(checkpoint)
    validations = [Validation(**each) for each in found["validations"]]
    # Checkpoints from before optimizer steps were taken over do not name them.
    progress = SavedProgress(found["seconds"], validations, found.get("origin_steps", 0))
    return SavedCheckpoint(checkpoint, found["step"], found["resumable"], progress, digest_of(found))


def _description(checkpoint: Path) -> dict[str, Any]:
    """Return the description that was saved with a checkpoint's tensors.

    Raises:
        ValueError: It is damaged.
    """
    description = json.loads((checkpoint / STATE).read_text())
    own = description.pop("own_sha256", None)
    if own is None:
        raise ValueError("of an older version")
    if own != digest_of(description):
        raise ValueError("not as it was written")
    return description


def digest_of(description: dict[str, Any]) -> str:
    """Return the SHA-256 of a checkpoint's description, in hexadecimal."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _published(run: Path) -> list[Path]:
    """Return the folders of a run's published checkpoints, by step."""
    numbered = (run / FOLDER).glob("step-*[0-9]")  # not the `.partial` ones
    return sorted(folder for folder in numbered if (folder / STATE).exists())


def _damage(checkpoint: Path) -> str | None:
    """Return a message on what is wrong with a checkpoint's files; None: they are undamaged.

    All are hashed before any of them is opened.
    """
    try:
        files = _description(checkpoint)["files"]
        if folder_of(checkpoint.parents[1], _read(checkpoint).step) != checkpoint:
            return f"{checkpoint}: is another step's"
        for name, digest in files.items():
            if not (checkpoint / name).is_file():
                return f"{checkpoint}: {name} is missing"
            if file_digest(checkpoint / name) != digest:
                return f"{checkpoint}: {name} is not as it was written"
        others = {path.name for path in checkpoint.iterdir()} - {STATE, *files}
    except UNREADABLE as error:
        return f"{checkpoint / STATE}: cannot be read ({str(error) or type(error).__name__})"
    return f"{checkpoint}: {min(others)} does not belong to it" if others else None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
