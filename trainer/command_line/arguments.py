"""Argument parsing that commands share: one-line errors and types of values. Nothing here imports torch."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trainer.errors import ConfigError
from trainer.facts.baselines import BASELINES
from trainer.object_storage.urls import is_url, local_path

if TYPE_CHECKING:
    from trainer.config.schema import Config


COMMON = """\
  --help [SECTION]      Show this help, or one section or option with examples:
                        --help data, --help data.split
  --from RUN            Start from the vectors of an earlier run.
  --config FILE         YAML file with any of the keys below, nested by section.
  --print_config        Print the configuration that results, and stop.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and whose options are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        # An abbreviation would mean something else as soon as there is another option like it.
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise a ConfigError in place of argparse's usage text and exit."""
        raise ConfigError(f"{self.prog}: {message}. See {self.prog} --help")


def configuration(prog: str, arguments: list[str], heading: str = "") -> "Config | None":
    """Return the configuration that options ask for; None where they ask for help or for its text.

    Args:
        prog: Name of the command, as help shows it.
        arguments: Options of the command.
        heading: Printed above the help.
    """
    from trainer.config.parser import config_text
    from trainer.config.resume import asked_config

    if help_options := {"--help", "-h"}.intersection(arguments):
        _print_help(prog, heading, arguments[arguments.index(help_options.pop()) + 1 :])
        return None
    config = asked_config([argument for argument in arguments if argument != "--print_config"])
    if "--print_config" in arguments:
        print(config_text(config), end="")
        return None
    return config


def _print_help(prog: str, heading: str, following: list[str]) -> None:
    """Print the help on all options, or on the section or option that follows `--help`."""
    from trainer.command_line.help import help_text

    if following and not following[0].startswith("-"):
        print(help_text(following[0]))
        return
    if heading:
        print(heading)
    print(f"usage: {prog} [--from RUN] [--config F] [--section.key V ...]\n")
    print(COMMON)
    print(help_text())


def count(text: str) -> int:
    """Return a whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 up is needed")
    return int(text)


def local(text: str) -> Path:
    """Return the path of a file or folder of this machine."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a path of this machine is needed; copy it from there")
    return local_path(text)


def lengths(text: str) -> list[int]:
    """Return whole numbers from 1 up that are separated by commas."""
    found = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 1 up are needed, as 5,10")
    return found


def ids(text: str) -> str:
    """Return a text that holds raw ids, which the run can tell apart; see `serving.history`."""
    if not text.strip(", "):
        raise argparse.ArgumentTypeError(f"{text!r}: ids of items are needed, as 12,7")
    return text


def baselines(text: str) -> list[str]:
    """Return names of baselines that are separated by commas; none for an empty text."""
    names = text.split(",") if text else []
    if wrong := set(names) - set(BASELINES):
        raise argparse.ArgumentTypeError(f"{min(wrong)!r}: names out of {', '.join(BASELINES)} are needed")
    return names
