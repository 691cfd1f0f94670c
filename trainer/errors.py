"""Errors that the user can put right: each is shown as one line, without a traceback, with exit code 2."""


class UserError(Exception):
    """The user's input is at fault; the message names place, value, rule and remedy."""


class ConfigError(UserError):
    """An option or a configuration file cannot be used."""


class DataError(UserError):
    """Interactions, attributes or the prepared form of them cannot be used."""


class CheckpointError(UserError):
    """A run folder or a checkpoint in it cannot be used."""
