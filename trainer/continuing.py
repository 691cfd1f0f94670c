"""A training that goes on: which run it is, its own configuration, and the few keys that may differ."""

import os
from collections.abc import Sequence
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
    "run.keep_last",
    "run.keep_best",
    "run.on_save_failure",
    "run.dir",
)
MAY_CHANGE_SECTIONS = ("sharding", "evaluation", "device", "backend", "timeout")
RUNS, LAUNCH = Path("runs"), ".launch"
PATHS = ("root", "cache", "interactions", "held_out", "users", "items")


def launch_id() -> str | None:
    """What torchrun calls its launch, however often it starts its ranks again; None without torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def restarted_run() -> Path | None:
    """The run folder that this launch made before its ranks were started again; None: there is none."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    marks = [mark for mark in RUNS.glob(f"*/{LAUNCH}") if mark.read_text() == launch_id()]
    return max(marks, key=lambda mark: mark.stat().st_mtime).parent if marks else None


def continued_config(file: Path, arguments: Sequence[str]) -> Config:
    """The configuration of a run that goes on under the given options.

    Args: file: the run's configuration; what is not asked for is as it says.
    Raises: ConfigError for an option that may not change, with both values.
    """
    kept, asked = read_config(file), parse_config(["--config", str(file), *arguments])
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
