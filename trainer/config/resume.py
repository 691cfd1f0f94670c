"""Which run a training resumes or starts from, and under which configuration."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.config.parser import changes, given_keys, parse_config, read_config
from trainer.config.resolved import is_open
from trainer.config.schema import Config
from trainer.errors import ConfigError
from trainer.facts.histories import history_spec
from trainer.formatting import format_command, with_names
from trainer.object_storage.copies import open_place
from trainer.object_storage.urls import absolute
from trainer.object_storage.working_copy import working_path

MAY_CHANGE = (
    "run.epochs",
    "run.log_every",
    "run.tensorboard",
    "run.trackers",
    "run.save_every",
    "run.save_async",
    "run.keep_last",
    "run.keep_best",
    "run.on_save_failure",
    "run.dir",
    "batches.ahead",
    "model.precision",
)
MAY_CHANGE_SECTIONS = ("sharding", "evaluation", "device", "deterministic", "backend", "timeout")
PATHS = ("root", "cache", "interactions", "held_out", "impressions", "users", "items")
EVALUATED_WITH = (
    *(f"data.{name}" for name in (*PATHS, "source")),
    *("evaluation", "sharding", "device", "backend", "timeout"),
)
"""Keys and sections that an evaluation may set: where data lie, the protocol, how ranks share tables."""
RUNS, LAUNCH = Path("runs"), ".launch"
RUN_NOTE = "SHARDTOWER_RUN_NOTE"
"""Environment variable that names the file in which launch/ranks.py expects the run folder."""
VECTORS = ("data.user_vectors", "data.item_vectors")
SHAPE = (
    *("model.dim", "model.similarity", "model.item_bias", "model.user_id", "model.history"),
    *("model.history_table", "model.history_decay"),
    *("model.user_features", "model.item_features", "model.hidden", "model.combine", "loss.name"),
    "model.hashed_rows",
)
"""Keys in which two models must agree for one to start from the vectors of the other."""


def launch_id() -> str | None:
    """Return what identifies this launch of torchrun, whose restarts keep it; None if nothing does.

    On one host that is the folder that torchrun makes for each launch. Several hosts share only the id of
    their rendezvous, which is "none" where a static one was given none.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file and os.environ.get("WORLD_SIZE") == os.environ.get("LOCAL_WORLD_SIZE"):
        return Path(error_file).parents[2].name  # .../ID_RANDOM/attempt_0/0/error.json
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if run_id == "none" else run_id


def restarted_run() -> Path | None:
    """Return the run folder that this launch made before its ranks were restarted, or None.

    Raises:
        ConfigError: Ranks may be restarted, and could not tell their run from others.
    """
    launch, restarts = launch_id(), os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if launch is None and restarts != "0":
        raise ConfigError(
            f"--max-restarts {restarts}: without a --rdzv-id, restarted ranks could take another training's "
            "run for theirs. Name the run folder: --run.dir DIR"
        )
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    marks = [mark for mark in RUNS.glob(f"*/{LAUNCH}") if mark.read_text() == launch]
    return max(marks, key=lambda mark: mark.stat().st_mtime).parent if marks else None


def tell_launcher(run: Path) -> None:
    """Tell launch/ranks.py the run folder, so that it can say how to resume when a rank is killed."""
    if note := os.environ.get(RUN_NOTE):
        with suppress(OSError):
            Path(note).write_text(with_names(str(run)))


def asked_config(arguments: Sequence[str]) -> Config:
    """Return the configuration that options ask for; with `--from RUN`, that run's where they are silent.

    Raises:
        ConfigError: RUN is not a run folder.
    """
    arguments, origin = _with_origin(arguments)
    if origin is None:
        return parse_config(arguments)
    file = origin / "config.yaml"
    if not file.is_file():
        raise ConfigError(
            f"--from {origin}: no run folder (it has no {file.name}). Name one that `train` wrote"
        )
    then, asked = read_config(file), parse_config(arguments, base=file)
    if is_open(then):
        raise ConfigError(
            f"--from {origin}: its settings are not chosen yet, so that it has no weights. Finish it first: "
            f"{format_command('train', '--run.dir', origin)}"
        )
    check_shape(origin, then, asked)
    if asked.run.dir != then.run.dir or any(each.startswith("--run.dir") for each in arguments):
        return asked
    return replace(asked, run=replace(asked.run, dir=None))


def check_shape(origin: Path, then: Config, config: Config) -> None:
    """Refuse a model that cannot start from a run's vectors, because they would mean something else in it.

    Raises:
        ConfigError: Names the key, with both values.
    """
    before = changes(config, then)
    # Attention has a score for each place that it looks back; a decay suits histories of any length.
    attends = history_spec(then.model.history).attention
    shape = (*SHAPE, *(["model.history_length"] if attends else []))
    for key, value in changes(then, config).items():
        if key in shape:
            raise ConfigError(
                f"--{key} {value}: {origin} has {before[key]}, and its vectors are of no use otherwise. "
                "Leave the option out, or train without --from"
            )


def _with_origin(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """Replace `--from RUN` by the key that it sets; also return RUN, if it is given."""
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
        origin = open_place(value)
        found += ["--run.origin", absolute(value)]
    return found, origin


def check_resumes(run: Path, arguments: Sequence[str]) -> None:
    """Refuse to train in a folder that looks like a run to be resumed and is none.

    Args:
        run: Folder without a configuration.
        arguments: Options as on the command line. Where they name nothing but the folder and what a resumed
            run may change, the default data set would be trained in somebody's folder.

    Raises:
        ConfigError: The folder holds something, and options do not say what to train.
    """
    options, _ = _with_origin(arguments)
    if any(not _may_change(key) for key in given_keys(options)) or not run.is_dir():
        return
    if found := sorted(path.name for path in run.iterdir() if path.name != ".lock"):
        raise ConfigError(
            f"--run.dir {run}: holds {found[0]} but no config.yaml, so that there is no run to resume. Name "
            "the run folder, or give the options of a new training and another folder"
        )


def _may_change(key: str) -> bool:
    """Return whether an option may change between the start of a run and its resumption."""
    return key in MAY_CHANGE or key.partition(".")[0] in MAY_CHANGE_SECTIONS


def resumed_config(config: Config, arguments: Sequence[str]) -> Config:
    """Return the configuration of a training, or that of the run in its folder, which is then resumed.

    Args:
        config: What `asked_config` returned.
        arguments: The options that it was given.

    Raises:
        ConfigError: See `check_resumes` and `continued_config`.
    """
    if config.run.dir is None and (run := restarted_run()):
        arguments = [*arguments, "--run.dir", str(run)]
        config = asked_config(arguments)
    if config.run.dir is None:
        return config
    asked, folder = config.run.dir, working_path(config.run.dir)
    if (folder / "config.yaml").is_file():
        config = continued_config(folder / "config.yaml", arguments)
    else:
        check_resumes(folder, arguments)
    if folder == Path(asked):
        return config
    return replace(config, run=replace(config.run, dir=str(folder)))


def continued_config(file: Path, arguments: Sequence[str]) -> Config:
    """Return the configuration of a run that is resumed under the given options.

    Args:
        file: The run's own configuration, which holds where the options are silent.
        arguments: Options as on the command line.

    Raises:
        ConfigError: An option may not change between start and resume; the message gives both values.
    """
    options, _ = _with_origin(arguments)
    kept, asked = read_config(file), parse_config(options, base=file)
    settled = changes(asked, kept)
    for key, value in changes(kept, asked).items():
        before = settled[key]
        if _may_change(key) or _is_same(key, before, value):
            continue
        raise ConfigError(
            f"--{key} {value}: the run in {file.parent} has {before}, and goes on with it. Leave the option "
            "out, or name another --run.dir"
        )
    return asked


def evaluated_config(file: Path, arguments: Sequence[str]) -> Config:
    """Return the configuration of a run that is evaluated under the given options.

    Args:
        file: The run's own configuration, which holds where the options are silent.
        arguments: Options as on the command line.

    Raises:
        ConfigError: An option is none of `EVALUATED_WITH`.
    """
    for argument in arguments:
        key = argument.removeprefix("--").partition("=")[0]
        if not argument.startswith("--") or key in EVALUATED_WITH or key.partition(".")[0] in EVALUATED_WITH:
            continue
        raise ConfigError(
            f"{argument}: an evaluation has no such option. See python -m trainer evaluate --help, or leave "
            "it out"
        )
    return parse_config(arguments, base=file)


def _is_same(key: str, before: Any, value: Any) -> bool:
    """Return whether two paths of data name the same place."""
    section, _, name = key.partition(".")
    if key in VECTORS:
        files = [{vector: Path(path).absolute() for vector, path in each.items()} for each in (before, value)]
        return files[0] == files[1]
    if section != "data" or name not in PATHS or None in (before, value):
        return False
    return Path(before).absolute() == Path(value).absolute()
