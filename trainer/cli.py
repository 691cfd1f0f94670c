"""The commands. Heavy imports happen inside them, so that help and mistakes answer at once."""

import argparse
import difflib
import errno
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from trainer.config.schema import BASELINES
from trainer.errors import ConfigError, LostRanksError, UserError

if TYPE_CHECKING:
    from trainer.config.schema import Config

LOST, USER_AT_FAULT, INTERRUPTED = 1, 2, 130
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""What the system says of a disk that is full or may not be written to."""
FIRST_RANK_SECONDS = 10
EXAMPLE_BYTES = 2**30


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}. See {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns: its exit code: 0 done or paused, 1 other ranks are lost, 2 the user's input is at fault, 130
        interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _quiet_libraries()
    try:
        command, rest = _command(arguments)
        COMMANDS[command](rest)
    except UserError as error:
        if int(os.environ.get("RANK", 0)) != 0:
            # Once one rank has ended, torchrun ends the others. So the first is left to say what is wrong; if
            # this rank is still there afterwards, it alone is at fault and says so itself.
            time.sleep(FIRST_RANK_SECONDS)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return USER_AT_FAULT
    except LostRanksError as error:
        time.sleep(FIRST_RANK_SECONDS)  # as above: the rank that failed first has the word
        print(f"error: {error}", file=sys.stderr, flush=True)
        return LOST
    except KeyboardInterrupt:
        if int(os.environ.get("RANK", 0)) == 0:
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; a second failure at exit would only be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in NO_PLACE:
            raise
        words = f"{error.filename or 'a file'}: cannot be written ({error.strerror})"
        print(f"error: {words}. Make room there, or name another folder", file=sys.stderr, flush=True)
        return USER_AT_FAULT
    return 0


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    if not arguments or arguments[0].startswith("-"):
        return "train", arguments
    if arguments[0] in COMMANDS:
        return arguments[0], arguments[1:]
    near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Commands: {', '.join(COMMANDS)}"
    raise ConfigError(f"{arguments[0]}: no such command. {hint}")


def _quiet_libraries() -> None:
    """Keep the libraries' notes to their own developers out of what the user reads."""
    for name in ("root", "torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("torchrec", "fbgemm_gpu", "torch", "torchmetrics", "tensordict", "pyre_extensions"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")


def _train(arguments: list[str]) -> None:
    """Train, measure and keep a run (the default command)."""
    config = _config("python -m trainer [train]", arguments)
    if config is not None:
        config = _as_the_run_has_it(config, arguments)
        from trainer.commands.train import train

        run = train(config)
        if run is not None:
            _show_an_example(run)


def _as_the_run_has_it(config: "Config", arguments: list[str]) -> "Config":
    """The configuration, or that of the run in its folder, which goes on."""
    from trainer.config.resume import asked_config, continued_config, restarted_run

    if config.run.dir is None and (run := restarted_run()):
        arguments = [*arguments, "--run.dir", str(run)]
        config = asked_config(arguments)
    file = Path(config.run.dir or "") / "config.yaml"
    return continued_config(file, arguments) if config.run.dir and file.is_file() else config


def _show_an_example(run: Path) -> None:
    """Ten items for the first user, where the tables are small enough to be opened whole beside the model."""
    from trainer.runs.run_folder import first_user, weight_bytes
    from trainer.serving.recommend import as_text, recommend

    command = f"python -m trainer recommend {run} --user {first_user(run)}"
    if weight_bytes(run) > EXAMPLE_BYTES:
        print(f"Next: {command}")
    else:
        print(f"\n{command}\n{as_text(recommend(run, str(first_user(run))))}")


def _prepare(arguments: list[str]) -> None:
    """Fetch, read, clean and split the data, as `train` does first."""
    config = _config("python -m trainer prepare", arguments)
    if config is not None:
        from trainer.dataset.dataset import open_dataset
        from trainer.dataset.prepare import prepare_data

        folder = prepare_data(config.data)
        if skipped := open_dataset(folder).report["skipped"]:
            print(f"{skipped:,} rows that cannot be read were skipped")
        print(f"prepared: {folder}")


def _plan(arguments: list[str]) -> None:
    """Show which rank would hold what, whether it fits, and what would be better."""
    run = Path(arguments.pop(0)) if arguments and not arguments[0].startswith("-") else None
    parser = Parser(
        prog="python -m trainer plan",
        usage="%(prog)s [RUN] [options] [--config FILE] [--section.key VALUE ...]",
        description=f"{_plan.__doc__} With RUN: what that run used.",
        epilog="Configuration as `train` takes it; see python -m trainer train --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--world-size", type=_count, help="ranks in all (default: 4)")
    parser.add_argument("--local-world-size", type=_count, help="ranks of a host (default: its devices)")
    parser.add_argument(
        "--hardware", help="cpu, h100-80g and the like, or a YAML file (default: this machine)"
    )
    parser.add_argument(
        "--rows", action="append", default=[], metavar="TABLE=N", help="rows of a table, as user=2e9"
    )
    parser.add_argument("--dim", help="the same as --model.dim")  # taken below; here for the help alone
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write JSON for --sharding.plan")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write an SVG picture")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="set a saved plan beside this one")
    # As one option, of which the last one given holds.
    arguments = [re.sub(r"^--dim(?=$|=)", "--model.dim", argument) for argument in arguments]
    options, rest = parser.parse_known_args(arguments)
    own = ("world_size", "local_world_size", "hardware", "rows")
    asked = [f"--{name.replace('_', '-')}" for name in own if getattr(options, name)] + rest
    if run and asked:
        raise ConfigError(f"{asked[0]}: a run's plan is what it is. Leave the option, or RUN, out")
    if options.json and options.compare:
        raise ConfigError("--json: prints one plan. Leave it or --compare out")
    from trainer.config.parser import parse_config

    config = parse_config(rest)
    from trainer.commands.plan import Outputs, plan_a_case, plan_of_run
    from trainer.inspection.scenario import table_rows_given

    outputs = Outputs(options.json, options.save, options.picture, options.compare)
    if run:
        print(plan_of_run(run, outputs))
        return
    rows, ranks = table_rows_given(options.rows), (options.world_size or 4, options.local_world_size)
    print(plan_a_case(config, rows, options.hardware, *ranks, outputs))


def _config(prog: str, arguments: list[str]) -> "Config | None":
    """Configuration of the options; None where they ask for help or for the configuration itself."""
    from trainer.config.parser import config_text, make_parser
    from trainer.config.resume import asked_config

    if "--help" in arguments or "-h" in arguments:
        print(_commands_help())
        make_parser(prog).print_help()
        return None
    config = asked_config([argument for argument in arguments if argument != "--print_config"])
    if "--print_config" in arguments:
        print(config_text(config), end="")
        return None
    return config


def _evaluate(arguments: list[str]) -> None:
    """Measure a run under any protocol, beside other rankers or another run."""
    parser = Parser(prog="python -m trainer evaluate", description=_evaluate.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--split", choices=["test", "validation"], help="part to find (default: the run's)")
    parser.add_argument("--seen", choices=["mask", "keep"], help="leave earlier items out, or rank them too")
    parser.add_argument("--k", type=_lengths, metavar="K,K", help="lengths of the ranked list, as 5,10,20")
    parser.add_argument(
        "--baselines", type=_baselines, metavar="B,B", help=f"other rankers: {', '.join(BASELINES)}"
    )
    parser.add_argument(
        "--beyond", action="store_true", help="coverage, novelty, diversity, and NDCG by group too"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="RUN2",
        help="how far another run of the same data is off, and how sure",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="device of every rank")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    from trainer.commands.evaluate import measure_run

    text = measure_run(
        options.run,
        options.split,
        options.seen,
        options.k,
        options.device,
        baselines=options.baselines,
        beyond=options.beyond,
        compare=options.compare,
        as_json=options.json,
    )
    if text is not None:
        print(text)


def _recommend(arguments: list[str]) -> None:
    """The best items for a user, or for someone new with a history, among those not in it."""
    parser = Parser(prog="python -m trainer recommend", description=_recommend.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    person = parser.add_mutually_exclusive_group(required=True)
    person.add_argument("--user", metavar="ID", help="raw user id, as in the data")
    person.add_argument(
        "--history", type=_ids, metavar="ID,ID", help="raw ids of the items that someone new has"
    )
    parser.add_argument("-k", type=int, default=10, help="items wanted (default: 10)")
    parser.add_argument("--keep-seen", action="store_true", help="rank items that the user already has too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    from trainer.serving.recommend import as_json, as_text, recommend, recommend_by_history

    if options.history is None:
        items = recommend(options.run, options.user, options.k, options.keep_seen)
    else:
        items = recommend_by_history(options.run, options.history, options.k, options.keep_seen)
    person = options.user if options.history is None else options.history
    print(json.dumps(as_json(person, items)) if options.json else as_text(items))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 up is needed")
    return int(text)


def _lengths(text: str) -> list[int]:
    lengths = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if min(lengths) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 1 up are needed, as 5,10")
    return lengths


def _ids(text: str) -> list[str]:
    ids = [part for part in text.split(",") if part]
    if not ids:
        raise argparse.ArgumentTypeError(f"{text!r}: ids of items are needed, as 12,7")
    return ids


def _baselines(text: str) -> list[str]:
    names = text.split(",") if text else []
    if wrong := set(names) - set(BASELINES):
        raise argparse.ArgumentTypeError(f"{min(wrong)!r}: names out of {', '.join(BASELINES)} are needed")
    return names


def _commands_help() -> str:
    lines = [f"  {name:<12}{(run.__doc__ or '').splitlines()[0]}" for name, run in COMMANDS.items()]
    return "\n".join(["usage: python -m trainer COMMAND [options]", "", "commands:", *lines, ""])


COMMANDS = {
    "train": _train,
    "plan": _plan,
    "prepare": _prepare,
    "evaluate": _evaluate,
    "recommend": _recommend,
}
