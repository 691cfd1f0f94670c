"""Initial values of tables: normal or closed-form vectors, popularity biases, zeros where untrained."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from trainer.batching.tower_inputs import USER, USER_HISTORY
from trainer.dataset.attributes import Ragged
from trainer.dataset.dataset import Dataset
from trainer.model.edlae import history_vectors
from trainer.model.retriever import TowerPair
from trainer.model.towers import BIAS_DIM
from trainer.sharding.table_values import normal_block

Block = Callable[[slice], torch.Tensor]
"""Rows of a table -> their values, as many as asked for; those behind its end are zero."""
START_NORM = 0.3
"""Mean length of initial vectors."""


def normal_values(
    dataset: Dataset, learned: TowerPair, seed: int, std: float, trains_reserved_item: bool
) -> dict[str, Block]:
    """Normal vectors for every learned table, zero where training looks up for nobody and nothing.

    Such rows stay as they are: those of unknown users and of items without training interactions, and
    categories, the unknown one among them, of such users or items alone. Unit vectors would give their
    values, by chance, the full weight.
    """
    widths = learned.towers.query.widths | learned.towers.candidate.widths
    used = _used_rows(dataset, learned)
    if trains_reserved_item:
        used[dataset.item_name] = np.append(used[dataset.item_name], dataset.item_count)  # still ascending

    def values(table: str, rows: slice) -> torch.Tensor:
        block = normal_block(seed, table, rows, widths[table], std)
        # By halving: a search of all used rows for each block would take the square of the table's rows.
        within = slice(*np.searchsorted(used[table], (rows.start, rows.stop)))
        unused = np.ones(rows.stop - rows.start, dtype=bool)
        unused[used[table][within] - rows.start] = False
        block[torch.from_numpy(unused)] = 0
        return block

    return {table: lambda rows, table=table: values(table, rows) for table in used}


def closed_form_start(dataset: Dataset, files: tuple[Path, Path]) -> dict[str, Block]:
    """Vectors of the closed form in place of normal ones, for users, their histories and items.

    Args: files: of its history table and item table, as wide as the learned tables.
    """
    history, vectors = (np.load(path, mmap_mode="r", allow_pickle=False) for path in files)
    known = dataset.train_by_user()
    sample = np.flatnonzero(known.lengths())[:10_000]
    factor = _to_start_norm(history_vectors(known, sample, history))

    def users(rows: slice) -> torch.Tensor:
        there = np.arange(rows.start, min(rows.stop, dataset.user_count))
        block = torch.zeros(rows.stop - rows.start, history.shape[1])
        block[: len(there)] = torch.from_numpy(history_vectors(known, there, history) * factor)
        return block

    return {
        USER: users,
        USER_HISTORY: scaled(history, factor),
        dataset.item_name: scaled(vectors, _to_start_norm(vectors)),
    }


def scaled(source: np.ndarray, factor: float) -> Block:
    """Rows of an array times a factor."""

    def values(rows: slice) -> torch.Tensor:
        part = torch.from_numpy(source[rows] * np.float32(factor))
        block = torch.zeros(rows.stop - rows.start, source.shape[1])
        block[: len(part)] = part
        return block

    return values


def popularity_bias(dataset: Dataset, prior: float, trains_reserved_item: bool) -> Block:
    """Centred log popularity times `prior`; an item that nobody has counts as half a one.

    So does the last row, which all such items look up; where it is trained, it stands for an item of any
    popularity and starts at that of the mean item which somebody has.
    """
    counts = np.bincount(dataset.train.items, minlength=dataset.item_count + 1).astype(np.float64)
    if trains_reserved_item:
        counts[-1] = counts[counts > 0].mean()
    logarithm = np.log(np.maximum(counts, 0.5))
    bias = (prior * (logarithm - logarithm[:-1].mean())).astype(np.float32)
    return scaled(np.repeat(bias[:, None], BIAS_DIM, axis=1), 1.0)


def _to_start_norm(vectors: np.ndarray) -> float:
    return START_NORM / max(float(np.linalg.norm(vectors, axis=1).mean()), 1e-30)


def _used_rows(dataset: Dataset, learned: TowerPair) -> dict[str, np.ndarray]:
    """Rows of each table that training looks up, ascending."""
    users = np.flatnonzero(dataset.train_by_user().lengths())
    items = np.flatnonzero(np.bincount(dataset.train.items, minlength=dataset.item_count))
    sides: tuple[tuple[Mapping[str, np.ndarray | Ragged], np.ndarray], ...] = (
        (learned.user_inputs, users),
        (learned.item_inputs, items),
    )
    # Of the histories, which are as long as the data, the answer is known.
    return {
        table: items if table == USER_HISTORY else np.unique(_looked_up(column, rows))
        for inputs, rows in sides
        for table, column in inputs.items()
    }


def _looked_up(column: np.ndarray | Ragged, rows: np.ndarray) -> np.ndarray:
    return column.take(rows)[1] if isinstance(column, Ragged) else column[rows]
