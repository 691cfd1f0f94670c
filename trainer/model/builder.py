"""The closed-form dims beside the learned ones: their towers, and what these look up."""

from collections.abc import Mapping

import numpy as np
import torch

from trainer.batching.tower_inputs import Inputs
from trainer.config.resolved import ResolvedConfig
from trainer.dataset.dataset import Dataset
from trainer.model.towers import TwoTowers

HISTORY = "user_low_rank"


def item_table(dataset_item_name: str) -> str:
    """Name of the table of closed-form item vectors."""
    return f"{dataset_item_name}_low_rank"


def closed_inputs(dataset: Dataset) -> tuple[Inputs, Inputs]:
    """What the closed-form towers look up: the items of a user's training history, and the item itself."""
    return (
        {HISTORY: dataset.history()},
        {item_table(dataset.item_name): np.arange(dataset.item_count, dtype=np.int32)},
    )


def make_closed_towers(
    item_name: str,
    item_count: int,
    rank: int,
    partitions: Mapping[str, int] | None = None,
    table_dtype: str = "float32",
) -> TwoTowers:
    """Towers of a history table and an item table, scored by their dot product."""
    users, items = {HISTORY: item_count}, {item_table(item_name): item_count}
    return TwoTowers(users, items, rank, similarity="dot", partitions=partitions, table_dtype=table_dtype)


def make_towers(
    config: ResolvedConfig,
    user_tables: Mapping[str, int],
    item_tables: Mapping[str, int],
    item_name: str,
    partitions: Mapping[str, int] | None = None,
    table_dtype: str | None = None,
) -> TwoTowers:
    """Towers without values in their tables, whose rows are given by name.

    Args: table_dtype: None: as the configuration has it.
    """
    torch.manual_seed(config.run.seed)  # of the dense layers
    model = config.model
    return TwoTowers(
        dict(user_tables),
        dict(item_tables),
        dim=model.dim,
        similarity=model.similarity,
        temperature=model.temperature,
        learn_temperature=model.learn_temperature,
        item_bias=f"{item_name}_bias" if model.item_bias else None,
        hidden=model.hidden,
        combine=model.combine,
        partitions=dict(partitions or {}),
        table_dtype=table_dtype or model.table_dtype,
    )
