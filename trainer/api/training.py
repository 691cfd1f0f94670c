"""`trainer.train`: a training from Python, with the options of the command line."""

import os
from collections.abc import Mapping
from typing import Any

from trainer.api.options import options_of
from trainer.api.run import Run
from trainer.config.resume import asked_config, resumed_config
from trainer.config.schema import Config
from trainer.errors import ConfigError
from trainer.installation import quiet_libraries


def train(
    config: Config | str | os.PathLike[str] | None = None, changes: Mapping[str, Any] | None = None
) -> Run | None:
    """Train, evaluate on the held-out split, and leave a run folder; as `python -m trainer train` does.

    Args:
        config: YAML file, or what `parse_config` returned; None: the defaults.
        changes: Values by key, such as `{"data.name": "ml-100k"}`, as `--data.name ml-100k` would give them;
            `{"from": run}` starts from an earlier run, and `{"run.dir": folder}` resumes the run in it.

    Returns:
        The run; None on ranks other than the first, and if the training was paused by a signal.

    Raises:
        ConfigError: A key or a value is wrong; other errors are those of the command line, as exceptions.
    """
    from trainer.training.train import train as train_config

    quiet_libraries()
    if isinstance(config, Config):
        if changes:
            raise ConfigError(
                "changes: they apply to a YAML file. Give them to trainer.parse_config, as "
                f'["--{next(iter(changes))}", "..."]'
            )
        asked = config
    else:
        arguments = [] if config is None else ["--config", os.fspath(config)]
        arguments += options_of(changes or {})
        asked = resumed_config(asked_config(arguments), arguments)
    folder = train_config(asked)
    return None if folder is None else Run(folder)
