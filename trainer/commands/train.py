"""`train`: train a model, evaluate it and write a run folder."""

from pathlib import Path

from trainer.command_line.arguments import configuration
from trainer.formatting import format_command, format_option

LARGEST_EXAMPLE = 2**30
"""Bytes of tables up to which a training ends with recommendations: they are opened whole for it."""


def run(arguments: list[str], heading: str = "") -> None:
    """Train a model, evaluate it and write a run folder (the default command)."""
    config = configuration("python -m trainer [train]", arguments, heading)
    if config is None:
        return
    from trainer.config.resume import resumed_config
    from trainer.object_storage.late import publish_late
    from trainer.training.train import train

    folder = train(resumed_config(config, arguments))
    if folder is not None:
        _show_an_example(folder)
        publish_late(folder)


def _show_an_example(run: Path) -> None:
    """Print ten items for the first user, if tables are small enough to be opened whole; name the report."""
    from trainer.runs.run_folder import first_user, weight_bytes
    from trainer.serving.listing import as_text
    from trainer.serving.recommend import recommend

    user = str(first_user(run))
    command = f"{format_command('recommend', run)} {format_option('--user', user)}"
    if weight_bytes(run) > LARGEST_EXAMPLE:
        print(f"Next: {command}")
    else:
        print(f"\n{command}\n{as_text(recommend(run, user))}")
    print(f"All of it on one page: {format_command('report', run)}")
