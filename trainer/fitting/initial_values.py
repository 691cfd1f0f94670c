"""Initial values of tables: normal or closed-form vectors, popularity biases, zeros for untrained rows."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from trainer.batching.expected_popularity import residual_mean
from trainer.batching.tower_inputs import USER, USER_HISTORY, log_popularity, looked_up
from trainer.closed_form.edlae import history_vectors
from trainer.dataset.dataset import Dataset
from trainer.model.builder import START_NORM
from trainer.model.retriever import TowerPair
from trainer.model.tower import BIAS_DIM
from trainer.sharding.table_values import normal_block
from trainer.storage.attributes import Ragged

ADDED_STD = 0.1
"""Standard deviation of initial vectors that are added to others, over that of the others."""
Block = Callable[[slice], torch.Tensor]
"""Rows of a table -> their values; rows beyond its end are zero."""


def normal_values(
    dataset: Dataset, learned: TowerPair, seed: int, std: float, trains_reserved_item: bool
) -> dict[str, Block]:
    """Return normal vectors for every learned table, with zeros in rows that training never looks up.

    Those are the rows of unknown users and of items without training interactions, and categories that only
    such users or items have. They are never trained, and unit vectors would give their random values full
    weight.

    Args:
        dataset: The data set.
        learned: The learned towers and their inputs.
        seed: Seed of the training.
        std: Standard deviation.
        trains_reserved_item: Whether the row that untrained items share, the last of a bag of hashed ids or
            else row `item_count`, is trained.
    """
    widths = learned.towers.query.widths | learned.towers.candidate.widths
    used = _used_rows(dataset, learned)
    if trains_reserved_item:
        column = learned.item_inputs[dataset.item_name]
        reserved = column.values[-1] if isinstance(column, Ragged) else dataset.item_count
        used[dataset.item_name] = np.append(used[dataset.item_name], reserved)  # still ascending

    def values(table: str, rows: slice) -> torch.Tensor:
        # What is added to the tower's own vectors begins close to zero.
        small = table == learned.towers.candidate.context_table and learned.towers.adds_context
        block = normal_block(seed, table, rows, widths[table], std * (ADDED_STD if small else 1))
        # A binary search, as comparing all used rows for each block takes quadratic time.
        within = slice(*np.searchsorted(used[table], (rows.start, rows.stop)))
        unused = np.ones(rows.stop - rows.start, dtype=bool)
        unused[used[table][within] - rows.start] = False
        block[torch.from_numpy(unused)] = 0
        return block

    return {table: lambda rows, table=table: values(table, rows) for table in used}


def closed_form_start(dataset: Dataset, files: tuple[Path, Path]) -> dict[str, Block]:
    """Return closed-form vectors in place of normal ones, for users, histories and items.

    Args:
        dataset: The data set.
        files: Files of the closed form's history table and item table, as wide as the learned tables.
    """
    history, vectors = (np.load(path, mmap_mode="r", allow_pickle=False) for path in files)
    by_user = dataset.train_by_user()
    sample = np.flatnonzero(by_user.lengths())[:10_000]
    factor = _to_start_norm(history_vectors(by_user, sample, history))

    def users(rows: slice) -> torch.Tensor:
        existing = np.arange(rows.start, min(rows.stop, dataset.user_count))
        block = torch.zeros(rows.stop - rows.start, history.shape[1])
        block[: len(existing)] = torch.from_numpy(history_vectors(by_user, existing, history) * factor)
        return block

    return {
        USER: users,
        USER_HISTORY: scaled(history, factor),
        dataset.item_name: scaled(vectors, _to_start_norm(vectors)),
    }


def scaled(source: np.ndarray, factor: float) -> Block:
    """Return the rows of an array times a factor."""

    def values(rows: slice) -> torch.Tensor:
        existing = torch.from_numpy(source[rows] * np.float32(factor))
        block = torch.zeros(rows.stop - rows.start, source.shape[1])
        block[: len(existing)] = existing
        return block

    return values


def popularity_bias(
    dataset: Dataset, prior: float, trains_reserved_item: bool, expected: np.ndarray | None = None
) -> Block:
    """Return centred log popularity times `prior`, where an item without interactions counts as half of one.

    Popularity is the number of training interactions, or the sum of their weights.

    So does the reserved last row, which all such items share. Where it is trained, it represents items of any
    popularity, and starts at the mean popularity of items with interactions. Where expected popularities are
    added to the table's, the table has what an item's popularity is beyond them.

    Args:
        dataset: The data set.
        prior: Multiple of log popularity.
        trains_reserved_item: Whether the reserved row is trained.
        expected: Log popularity that attributes let expect, (items,); None: not part of the model.
    """
    counts = np.append(dataset.item_popularity(), 0.0)
    if trains_reserved_item:
        counts[-1] = counts[counts > 0].mean()
    logarithm = log_popularity(counts, dataset.train.weights)
    beyond = logarithm - logarithm[:-1].mean()
    if expected is not None:
        beyond = np.append(logarithm[:-1] - expected, residual_mean(counts[:-1], expected))
    bias = (prior * beyond).astype(np.float32)
    return scaled(np.repeat(bias[:, None], BIAS_DIM, axis=1), 1.0)


def _to_start_norm(vectors: np.ndarray) -> float:
    return START_NORM / max(float(np.linalg.norm(vectors, axis=1).mean()), 1e-30)


def _used_rows(dataset: Dataset, learned: TowerPair) -> dict[str, np.ndarray]:
    """Return the rows of each table that training looks up, ascending."""
    users = np.flatnonzero(dataset.counts_by_user("train"))
    items = np.flatnonzero(dataset.train_counts_by_item())
    sides: tuple[tuple[Mapping[str, np.ndarray | Ragged], np.ndarray], ...] = (
        (learned.user_inputs, users),
        (learned.item_inputs, items),
    )
    # Histories, which are as long as the data, hold exactly the trained items.
    return {
        table: items if table == USER_HISTORY else np.unique(_looked_up(column, rows))
        for inputs, rows in sides
        for table, column in looked_up(inputs).items()
    }


def _looked_up(column: np.ndarray | Ragged, rows: np.ndarray) -> np.ndarray:
    return column.take(rows)[1] if isinstance(column, Ragged) else column[rows]
