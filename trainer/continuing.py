"""A training that goes on, or begins with what an earlier run learned: which run, which configuration."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.options import changes, parse_config, read_config

MAY_CHANGE = (
    "run.epochs",
    "run.log_every",
    "run.tensorboard",
    "run.save_every",
    "run.save_async",
    "run.keep_last",
    "run.keep_best",
    "run.on_save_failure",
    "run.dir",
    "batches.ahead",
    "model.precision",
)
MAY_CHANGE_SECTIONS = ("sharding", "evaluation", "device", "backend", "timeout")
RUNS, LAUNCH = Path("runs"), ".launch"
RUN_NOTE = "SHARDTOWER_RUN_NOTE"
"""Names the file in which launch/ranks.py is told the run folder."""
PATHS = ("root", "cache", "interactions", "held_out", "users", "items")
SHAPE = (
    *("model.dim", "model.similarity", "model.item_bias", "model.user_id", "model.history"),
    *("model.user_features", "model.item_features", "model.hidden", "model.combine", "loss.name"),
)
"""What two models must have in common for the vectors of one to be of use to the other."""


def launch_id() -> str | None:
    """What tells a launch of torchrun from all others, however often it starts its ranks; None: nothing.

    On one host it is the name of the folder that torchrun makes for each launch. Several hosts have no more
    in common than the id of their rendezvous, which is "none" where a static one was given none.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file and os.environ.get("WORLD_SIZE") == os.environ.get("LOCAL_WORLD_SIZE"):
        return Path(error_file).parents[2].name  # .../ID_RANDOM/attempt_0/0/error.json
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if run_id == "none" else run_id


def restarted_run() -> Path | None:
    """The run folder that this launch made before its ranks were started again; None: there is none.

    Raises: ConfigError if ranks may be started again and could not know their run from others.
    """
    launch, restarts = launch_id(), os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if launch is None and restarts != "0":
        raise ConfigError(
            f"--max-restarts {restarts}: without a --rdzv-id ranks that are started again could take another "
            "training's run for theirs. Name the folder: --run.dir DIR"
        )
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    marks = [mark for mark in RUNS.glob(f"*/{LAUNCH}") if mark.read_text() == launch]
    return max(marks, key=lambda mark: mark.stat().st_mtime).parent if marks else None


def tell_launcher(run: Path) -> None:
    """Tell launch/ranks.py the run folder, so that it can say how to go on where a rank is killed."""
    if note := os.environ.get(RUN_NOTE):
        with suppress(OSError):
            Path(note).write_text(str(run))


def asked_config(arguments: Sequence[str]) -> Config:
    """The configuration that options ask for; with `--from RUN` what they do not say is as in that run.

    Raises: ConfigError if that is no run.
    """
    arguments, origin = _with_origin(arguments)
    if origin is None:
        return parse_config(arguments)
    file = origin / "config.yaml"
    if not file.is_file():
        raise ConfigError(
            f"--from {origin}: no run folder (it has no {file.name}). Name one that `train` wrote"
        )
    then, asked = read_config(file), parse_config(["--config", str(file), *arguments])
    check_shape(origin, then, asked)
    if asked.run.dir != then.run.dir or any(each.startswith("--run.dir") for each in arguments):
        return asked
    return replace(asked, run=replace(asked.run, dir=None))


def check_shape(origin: Path, then: Config, config: Config) -> None:
    """Refuse a model whose vectors mean something else than those of the run that it would begin with.

    Raises: ConfigError naming the key, with both values.
    """
    before = changes(config, then)
    for key, value in changes(then, config).items():
        if key in SHAPE:
            raise ConfigError(
                f"--{key} {value}: {origin} has {before[key]}, and its vectors are of no use otherwise. "
                "Leave the option out, or train without --from"
            )


def _with_origin(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """Options with `--from RUN` as the key behind it, and RUN where it is given."""
    found: list[str] = []
    origin: Path | None = None
    given = iter(arguments)
    for argument in given:
        option, equals, value = argument.partition("=")
        if option != "--from":
            found.append(argument)
            continue
        value = value if equals else next(given, "")
        if not value or value.startswith("--"):
            raise ConfigError("--from: a run folder is needed. Name one that `train` wrote")
        origin = Path(value)
        found += ["--run.origin", str(origin.absolute())]
    return found, origin


def continued_config(file: Path, arguments: Sequence[str]) -> Config:
    """The configuration of a run that goes on under the given options.

    Args: file: the run's configuration; what is not asked for is as it says.
    Raises: ConfigError for an option that may not change, with both values.
    """
    options, _ = _with_origin(arguments)
    kept, asked = read_config(file), parse_config(["--config", str(file), *options])
    settled = changes(asked, kept)
    for key, value in changes(kept, asked).items():
        before = settled[key]
        if key in MAY_CHANGE or key.partition(".")[0] in MAY_CHANGE_SECTIONS or _is_same(key, before, value):
            continue
        raise ConfigError(
            f"--{key} {value}: the run in {file.parent} has {before}, and goes on with it. Leave the option "
            "out, or name another --run.dir"
        )
    return asked


def _is_same(key: str, before: Any, value: Any) -> bool:
    """Whether two paths of data are one, written otherwise."""
    section, _, name = key.partition(".")
    if section != "data" or name not in PATHS or None in (before, value):
        return False
    return Path(before).absolute() == Path(value).absolute()
