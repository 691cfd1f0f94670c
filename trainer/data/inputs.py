"""What the towers look up for a row of users or of items, as TorchRec takes it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias
from zipfile import BadZipFile

import numpy as np
import torch
from torchrec import KeyedJaggedTensor

from trainer.data.dataset import Dataset
from trainer.data.features import Ragged
from trainer.errors import CheckpointError

Inputs: TypeAlias = Mapping[str, np.ndarray | Ragged]
"""Features of one side by table: (rows,) one id a row, or a bag of codes a row."""


def user_inputs(dataset: Dataset, features: Sequence[str]) -> Inputs:
    """Query features: the user's id, then attributes; each named after its table.

    A user without training interactions looks up the row that is reserved for unknown users.
    """
    ids = np.arange(dataset.user_count + 1, dtype=np.int32)
    ids[dataset.known("train").lengths() == 0] = dataset.user_count
    return {"user": ids} | {f"user_{name}": dataset.user_features[name].bags for name in features}


def item_inputs(dataset: Dataset, features: Sequence[str], bias: bool) -> Inputs:
    """Candidate features: the item's id, then attributes, then the id once more for the bias table."""
    name, ids = dataset.item_name, np.arange(dataset.item_count, dtype=np.int32)
    attributes = {f"{name}_{feature}": dataset.item_features[feature].bags for feature in features}
    return {name: ids} | attributes | ({f"{name}_bias": ids} if bias else {})


def keyed_jagged(inputs: Inputs, rows: np.ndarray) -> KeyedJaggedTensor:
    """Features of the given rows as TorchRec takes them.

    Args:
        inputs: by feature, one id a row, or bags of codes by row.
        rows: (b,) integer row numbers.
    Returns: stride b, keys in the order of `inputs`.
    """
    ones = np.ones(len(rows), np.int64)
    parts = [bags.take(rows) if isinstance(bags, Ragged) else (ones, bags[rows]) for bags in inputs.values()]
    return KeyedJaggedTensor(
        keys=list(inputs),
        values=torch.from_numpy(np.concatenate([values for _, values in parts]).astype(np.int64)),
        lengths=torch.from_numpy(np.concatenate([lengths for lengths, _ in parts]).astype(np.int32)),
        stride=len(rows),
    )


def save_inputs(path: Path, inputs: Inputs) -> None:
    """Write the features of one side into a `.npz` file."""
    arrays: dict[str, np.ndarray] = {}
    for table, column in inputs.items():
        if isinstance(column, Ragged):
            arrays |= {f"{table}.offsets": column.offsets, f"{table}.values": column.values}
        else:
            arrays[table] = column
    beside = path.with_name(f".{path.name}.partial.npz")
    np.savez(beside, **arrays)  # type: ignore[arg-type]
    os.replace(beside, path)


def open_inputs(path: Path) -> Inputs:
    """Features that `save_inputs` wrote.

    Raises: CheckpointError if the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}). Train anew elsewhere") from None
    tables = dict.fromkeys(name.partition(".")[0] for name in arrays)
    return {
        table: arrays[table]
        if table in arrays
        else Ragged(arrays[f"{table}.offsets"], arrays[f"{table}.values"])
        for table in tables
    }
