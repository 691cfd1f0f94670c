"""`prepare`: fetch, read, clean and split the data, and say what was understood."""

import json

from trainer.command_line.arguments import configuration

JSON = "--json"


def run(arguments: list[str], heading: str = "") -> None:
    """Fetch, read, clean and split the data, as `train` does first, and say what was understood."""
    as_json = JSON in arguments
    if as_json:
        arguments = [argument for argument in arguments if argument != JSON]
    note = f"  {JSON:<12}Print what was understood as one JSON object (`prepare` alone).\n"
    config = configuration("python -m trainer prepare", arguments, heading and f"{heading}\n{note}")
    if config is None:
        return
    from trainer.dataset.dataset import open_dataset
    from trainer.dataset.prepare import prepare_data
    from trainer.reporting.dataset_summary import summary, summary_text

    if config.data.share == "none":
        dataset = open_dataset(prepare_data(config.data))
    else:  # under torchrun, by the ranks of the training
        from trainer.distributed.world import join_world
        from trainer.shares.prepare import prepare_shares

        with join_world("cpu", timeout_seconds=config.timeout) as world:
            dataset = open_dataset(prepare_shares(config.data, world))
        if not world.is_first:
            return
    print(json.dumps(summary(dataset)) if as_json else summary_text(dataset))
