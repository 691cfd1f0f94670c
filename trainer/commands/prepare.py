"""`prepare`: fetch, read, clean and split the data, and no more."""

from trainer.commands.arguments import configuration


def run(arguments: list[str], heading: str = "") -> None:
    """Fetch, read, clean and split the data, as `train` does first."""
    config = configuration("python -m trainer prepare", arguments, heading)
    if config is None:
        return
    from trainer.dataset.dataset import open_dataset
    from trainer.dataset.prepare import prepare_data

    folder = prepare_data(config.data)
    dataset = open_dataset(folder)
    if skipped := dataset.report["skipped"]:
        print(f"{skipped:,} rows that cannot be read were skipped")
    for side, attributes in dataset.attributes.items():
        for name, text in attributes.items():
            print(f"{side} attribute {name}: {text}")
    print(f"prepared: {folder}")
