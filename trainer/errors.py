"""Errors that the user can put right: each is shown as one line, without a traceback, with exit code 2."""


class UserError(Exception):
    """The user's input is at fault; the message names place, value, rule and remedy."""


class ConfigError(UserError):
    """An option or a configuration file cannot be used."""


class DataError(UserError):
    """Interactions, attributes or the prepared form of them cannot be used."""


class CheckpointError(UserError):
    """A run folder or a checkpoint in it cannot be used."""


class SaveError(CheckpointError):
    """A checkpoint cannot be written: the disk is full, or the folder may not be written to."""


class StorageError(UserError):
    """An object store cannot be used, or what it holds is missing or damaged."""


class LostRanksError(Exception):
    """Another rank has ended, and has reported why or was killed, or it is silent.

    Attributes:
        silent: Whether a rank is silent, so that none is going to say why.
    """

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class Interrupted(KeyboardInterrupt):
    """The user has interrupted a training that can be resumed.

    Attributes:
        command: The command that resumes it.
    """

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command


class DivergedError(UserError):
    """Loss, weights or scores are no longer finite numbers."""


def diverged(place: str, fault: str) -> DivergedError:
    """Return the error for numbers that are not finite, with the place where they were seen and a remedy."""
    return DivergedError(
        f"{place}: {fault}, expected a finite number; the model has diverged. "
        "Train again with smaller --optimizer.learning_rate"
    )
