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


class LostRanksError(Exception):
    """Another rank has ended or is silent; one that has ended has said why, or was killed.

    Attributes:
        silent: Whether a rank is silent, so that none is going to say why.
    """

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class DivergedError(UserError):
    """Loss or scores are no longer finite numbers: the training has run away."""


def diverged(place: str, fault: str) -> DivergedError:
    """The error that tells where a training was seen to have run away, and what to do."""
    return DivergedError(
        f"{place}: {fault}, expected a finite number; the model has diverged. "
        "Train again with smaller --optimizer.learning_rate"
    )
