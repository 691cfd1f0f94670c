"""The closed-form dims beside the learned ones: computed once a host, kept with the prepared data."""

import os
from pathlib import Path

import numpy as np

from trainer.data.dataset import Dataset
from trainer.data.inputs import Inputs
from trainer.model.low_rank import closed_form_towers
from trainer.model.towers import TwoTowers

HISTORY = "user_low_rank"


def item_table(dataset_item_name: str) -> str:
    """Name of the table of closed-form item vectors."""
    return f"{dataset_item_name}_low_rank"


def closed_inputs(dataset: Dataset) -> tuple[Inputs, Inputs]:
    """What the closed-form towers look up: the items of a user's training history, and the item itself."""
    return (
        {HISTORY: dataset.known("train")},
        {item_table(dataset.item_name): np.arange(dataset.item_count, dtype=np.int32)},
    )


def make_closed_towers(item_name: str, item_count: int, rank: int) -> TwoTowers:
    """Towers of a history table and an item table, scored by their dot product."""
    return TwoTowers({HISTORY: item_count}, {item_table(item_name): item_count}, rank, similarity="dot")


def closed_form_files(dataset: Dataset, rank: int) -> tuple[Path, Path]:
    """Files of the history table and of the item table, computed where they are not there yet."""
    paths = tuple(dataset.folder / f"low_rank_{rank}_{name}.npy" for name in ("history", "items"))
    if not all(path.exists() for path in paths):
        train = dataset.train
        tables = closed_form_towers(
            np.asarray(train.users), np.asarray(train.items), dataset.user_count, dataset.item_count, rank
        )
        for path, table in zip(paths, tables, strict=True):
            beside = path.with_suffix(f".{os.getpid()}.partial.npy")
            np.save(beside, table, allow_pickle=False)
            os.replace(beside, path)
    return paths[0], paths[1]
