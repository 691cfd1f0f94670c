"""Names to commands, and errors to exit codes. Commands are imported when they are called."""

import difflib
import errno
import importlib
import io
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from trainer.atomic_write import FULL
from trainer.errors import ConfigError, Interrupted, LostRanksError, UserError
from trainer.formatting import with_names
from trainer.installation import installation_fault, quiet_libraries, versions_text

LOST, USER_AT_FAULT, INTERRUPTED = 1, 2, 130
NO_PLACE = (*FULL, errno.EROFS, errno.EACCES)
"""Error numbers of a disk that is full or may not be written to."""
FROM_WRONG_BUILDS = (ImportError, OSError, AttributeError, RuntimeError)
"""Errors that packages raise which do not fit each other, and others do too."""
FIRST_RANK_SECONDS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command and options; those of the process by default.

    Returns:
        The exit code: 0 done or paused, 1 other ranks are lost, 2 the user's input is at fault, 130 if
        interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    quiet_libraries()
    logging.getLogger().setLevel(logging.ERROR)
    try:
        if arguments[:1] == ["--version"]:
            print(versions_text())
            return 0
        command, rest = _command(arguments)
        importlib.import_module(f"trainer.commands.{command}").run(rest, heading=_commands_help())
    except UserError as error:
        if int(os.environ.get("LOCAL_RANK", 0)) != 0:
            # Once one rank has ended, torchrun ends the others of its host. So the first is left to say what
            # is wrong; if this rank is still there afterwards, it alone is at fault and says so itself.
            time.sleep(FIRST_RANK_SECONDS)
        print(f"error: {with_names(str(error))}", file=sys.stderr, flush=True)
        return USER_AT_FAULT
    except LostRanksError as error:
        if not error.silent:
            time.sleep(FIRST_RANK_SECONDS)  # as above: the rank that failed first has the word
        print(f"error: {error}", file=sys.stderr, flush=True)
        return LOST
    except KeyboardInterrupt as error:
        if int(os.environ.get("RANK", 0)) == 0:
            go_on = f". Go on with: {error.command}" if isinstance(error, Interrupted) else ""
            print(f"interrupted{go_on}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; a second failure at exit would only be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except FROM_WRONG_BUILDS as error:
        message = _file_error(error) if isinstance(error, OSError) else None
        message = message or installation_fault(missing=isinstance(error, ImportError))
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr, flush=True)
        return USER_AT_FAULT
    return 0


def run_process() -> NoReturn:
    """Run a command as a process of its own: `python -m trainer`, `shardtower`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Titles and ids may hold characters that the terminal's encoding lacks: they are replaced.
        sys.stdout.reconfigure(errors="replace")
    try:
        code = main()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    distributed = sys.modules.get("torch.distributed")
    if code and distributed is not None and distributed.is_initialized():
        # Python would release the process groups, and wait as it does so for collectives that the other ranks
        # may never answer.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    if not arguments or arguments[0].startswith("-"):
        return "train", arguments
    if arguments[0] in COMMANDS:
        return arguments[0], arguments[1:]
    near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Commands: {', '.join(COMMANDS)}"
    raise ConfigError(f"{arguments[0]}: no such command. {hint}")


def _file_error(error: OSError) -> str | None:
    """Return the message for a file that cannot be read or written; None if the user is not at fault."""
    place = error.filename or "a file"
    if error.errno == errno.EACCES and os.path.exists(place) and not os.access(place, os.R_OK):
        return f"{place}: cannot be read ({error.strerror}). Allow reading it, or name another file"
    if error.errno in NO_PLACE:
        return f"{place}: cannot be written ({error.strerror}). Make room there, or name another folder"
    return None


def _commands_help() -> str:
    lines = [f"  {name:<12}{summary}" for name, summary in COMMANDS.items()]
    usage = "usage: python -m trainer COMMAND [options], or --help [SECTION], or --version"
    return "\n".join([usage, "", "commands:", *lines, ""])


COMMANDS = {
    "train": "Train a model, evaluate it, write a run folder (the default).",
    "plan": "Show which rank would hold what, if it fits, what would be better.",
    "prepare": "Fetch, read, clean and split the data, as `train` does first.",
    "evaluate": "Evaluate a run under any protocol, beside baselines or a run.",
    "recommend": "List the best unseen items for a user, or for someone new.",
    "export": "Write a run as files that others use, checked.",
    "serve": "Answer over HTTP from an export, with a page to look at.",
    "report": "Write one HTML page on a run, or one that compares several.",
    "runs": "List run folders with their data, model, figures and state.",
    "doctor": "Say what keeps a training from starting here, and what helps.",
}
"""What each command does, by the name of its module in `trainer.commands`."""
