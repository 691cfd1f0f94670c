"""Builders of the learned and the closed-form towers, and the features of the latter."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from trainer.batching.tower_inputs import Inputs, context_table, expected_bias, ordered_histories
from trainer.config.resolved import ResolvedConfig
from trainer.dataset.dataset import Dataset
from trainer.facts.histories import history_spec
from trainer.model.history_encoder import HistoryEncoder
from trainer.model.towers import TwoTowers

START_NORM = 0.3
"""Mean norm of initial vectors."""
CLOSED_DECAY = 0.05
"""Decay by position of the rows of the history table in ordered histories: slower than what is learned."""
HISTORY = "user_low_rank"
"""Name of the closed-form table for histories."""


def table_of_alias(name: str, item_name: str) -> str:
    """Return the table that an option names; `item` and `item_bias` stand for the items' own name."""
    return name.replace("item", item_name, 1) if name in ("item", "item_bias") else name


def item_table(dataset_item_name: str) -> str:
    """Return the name of the table of closed-form item vectors."""
    return f"{dataset_item_name}_low_rank"


def closed_inputs(dataset: Dataset, ordered: bool = False) -> tuple[Inputs, Inputs]:
    """Return the features of the closed-form towers: a user's training items, and the item itself.

    With ordered histories, items have the row of the history table.
    """
    rows = np.arange(dataset.item_count, dtype=np.int32)
    items = {item_table(dataset.item_name): rows}
    if ordered:
        return ordered_histories(dataset), items | {HISTORY: rows}
    return {HISTORY: dataset.history()}, items


def make_closed_towers(
    item_name: str,
    item_count: int,
    rank: int,
    partitions: Mapping[str, int] | None = None,
    table_dtype: str = "float32",
    history_length: int = 0,
) -> TwoTowers:
    """Make towers of a history table and an item table, scored by their dot product.

    Args:
        item_name: What the data set calls its items.
        item_count: Rows of both tables.
        rank: Width of both tables.
        partitions: Number of row partitions of each partitioned table.
        table_dtype: Type of table values.
        history_length: Items of an ordered history, whose rows are summed with decaying weights; 0: rows are
            summed in any order.
    """
    history, items = {HISTORY: item_count}, {item_table(item_name): item_count}
    shape: dict[str, Any] = {"similarity": "dot", "partitions": partitions, "table_dtype": table_dtype}
    if not history_length:
        return TwoTowers(history, items, rank, **shape)
    encoder = HistoryEncoder(rank, history_length, start_decay=CLOSED_DECAY).requires_grad_(False)
    return TwoTowers({}, items | history, rank, encoder=encoder, context_table=HISTORY, **shape)


def make_towers(
    config: ResolvedConfig,
    user_tables: Mapping[str, int],
    item_tables: Mapping[str, int],
    item_name: str,
    partitions: Mapping[str, int] | None = None,
    table_dtype: str | None = None,
    user_dense: Mapping[str, int] | None = None,
    item_dense: Mapping[str, int] | None = None,
    timed: bool = False,
) -> TwoTowers:
    """Make the learned towers, without values in their tables.

    Args:
        config: Configuration of the training.
        user_tables: Rows of each user feature's table.
        item_tables: Rows of each item feature's table.
        item_name: What the data set calls its items.
        partitions: Number of row partitions of each partitioned table.
        table_dtype: Type of table values; None: the configured one.
        user_dense: Numbers in each user feature that is a number or a vector.
        item_dense: The same for items, and the expected bias if there is one.
        timed: Whether ordered histories have times.
    """
    torch.manual_seed(config.run.seed)  # initial weights of the dense layers
    model, numbers, expected = config.model, item_dense or {}, expected_bias(item_name)
    spec, context = history_spec(model.history), context_table(item_name)
    encoder = None
    if spec.ordered:
        encoder = HistoryEncoder(
            model.dim,
            model.history_length,
            by_position=model.history_decay != "time",
            by_time=model.history_decay != "position" and timed,
            attention=spec.attention,
        )
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
        user_dense=user_dense,
        item_dense={name: width for name, width in numbers.items() if name != expected},
        expects_bias=expected in numbers,
        dense_std=initial_std(model.dim, model.init_std),
        encoder=encoder,
        context_table=context if context in item_tables else None,
        adds_context=model.history_table == "both",
    )


def initial_std(dim: int, given: float | None) -> float:
    """Return the standard deviation of initial vectors: as given, or for a mean norm of START_NORM."""
    return START_NORM / dim**0.5 if given is None else given
