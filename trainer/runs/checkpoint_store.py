"""The checkpoints that a run has, and whether they are as they were written; nothing here needs torch."""

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
from trainer.runs.validation_history import SavedProgress, Validation

CONFIG, METRICS = "config.yaml", "metrics.json"
FOLDER = "checkpoints"
STATE = "state.json"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a damaged `state.json` may raise."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint whose files are as they were written.

    Attributes:
        step: steps that its weights have been trained.
        resumable: whether it holds the optimizers' states.
        digest: SHA-256 of its description, which has the digests of all files and of the vocabulary.
    """

    folder: Path
    step: int
    resumable: bool
    progressed: SavedProgress
    digest: str


def folder_of(run: Path, step: int) -> Path:
    """Folder of a run's checkpoint after `step` steps."""
    return run / FOLDER / f"step-{step:09d}"


def is_published(run: Path, step: int) -> bool:
    """Whether a run has a checkpoint of this step."""
    return folder_of(run, step) in _complete(run)


def check_is_run(run: Path) -> None:
    """Refuse a folder that no training has written.

    Raises: CheckpointError.
    """
    if not (run / CONFIG).is_file():
        raise CheckpointError(f"{run}: no run folder (it has no {CONFIG}). Name one that `train` wrote")


def finished_step(run: Path) -> int | None:
    """Step of the weights that a finished run has measured; None: it is not finished."""
    with suppress(OSError, ValueError, KeyError):
        return json.loads((run / METRICS).read_text())["step"]
    return None


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


def newest(run: Path, preferred: int | None = None) -> SavedCheckpoint:
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


def last_to_go_on_from(run: Path) -> SavedCheckpoint | None:
    """The last whole checkpoint with optimizers' states; None: there is none.

    Raises: CheckpointError if there are damaged ones alone.
    """
    return next((saved for saved in _whole(run) if saved.resumable), None)


def _whole(run: Path, preferred: int | None = None) -> Iterator[SavedCheckpoint]:
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


def _opened(checkpoint: Path) -> SavedCheckpoint:
    described = _described(checkpoint)
    validations = [Validation(**each) for each in described["validations"]]
    progressed = SavedProgress(described["seconds"], validations, described.get("origin_steps", 0))
    return SavedCheckpoint(
        checkpoint, described["step"], described["resumable"], progressed, digest_of(described)
    )


def _described(checkpoint: Path) -> dict[str, Any]:
    """What was written beside a checkpoint.

    Raises: ValueError if it is not as it was written.
    """
    described = json.loads((checkpoint / STATE).read_text())
    own = described.pop("own_sha256", None)
    if own is None:
        raise ValueError("of an older version")
    if own != digest_of(described):
        raise ValueError("not as it was written")
    return described


def digest_of(described: dict[str, Any]) -> str:
    """SHA-256 of what stands beside a checkpoint's tensors, in hexadecimal."""
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
            if file_digest(checkpoint / name) != digest:
                return f"{checkpoint}: {name} is not as it was written"
        others = {path.name for path in checkpoint.iterdir()} - {STATE, *files}
    except UNREADABLE as error:
        return f"{checkpoint / STATE}: cannot be read ({str(error) or type(error).__name__})"
    return f"{checkpoint}: {min(others)} does not belong to it" if others else None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
