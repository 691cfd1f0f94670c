"""Digests of a prepared data set's arrays, by which a run recognises its data after they have moved."""

import hashlib
import json
from contextlib import suppress
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from trainer.atomic_write import write_text
from trainer.dataset.dataset import Dataset
from trainer.dataset.split import PARTS

Column: TypeAlias = np.ndarray | pa.Array | None
CACHE = "digests.json"
"""File of the prepared form with its digests, as hashing takes seconds a gigabyte."""


def data_digests(dataset: Dataset) -> dict[str, str]:
    """Return the SHA-256 of each split's interactions, of attributes with titles, and of numbers, in hex.

    They depend on the content alone: raw files may be touched, moved or written in another format. Raw ids
    are left out, as a run has them itself.

    Args:
        dataset: Its digests are kept in its folder, where that can be written to.
    """
    cache = dataset.folder / CACHE
    with suppress(OSError, ValueError):
        return json.loads(cache.read_text())
    digests = {name: _digest(columns) for name, columns in _columns(dataset).items()}
    with suppress(OSError):
        write_text(cache, json.dumps(digests))
    return digests


def _columns(dataset: Dataset) -> dict[str, dict[str, Column]]:
    """Return the columns that each digest is of, by name."""
    columns: dict[str, dict[str, Column]] = {name: vars(getattr(dataset, name)) for name in PARTS}
    attributes: dict[str, Column] = {"titles": dataset.titles}
    for side, features in (("user", dataset.user_features), ("item", dataset.item_features)):
        for name, feature in features.items():
            attributes |= {f"{side} {name} {column}": array for column, array in vars(feature.bags).items()}
            attributes[f"{side} {name} categories"] = feature.categories
    numbers: dict[str, Column] = {
        f"{side} {name}": feature.values
        for side, dense in (("user", dataset.user_dense), ("item", dataset.item_dense))
        for name, feature in dense.items()
    }
    # A digest of their own, as runs from before there were numbers have none to compare.
    return columns | {"attributes": attributes} | ({"numbers": numbers} if numbers else {})


def _digest(columns: dict[str, Column]) -> str:
    digest = hashlib.sha256()
    for name, column in columns.items():
        if isinstance(column, pa.Array):
            digest.update(f"{name} {json.dumps(column.to_pylist(), default=str)}\n".encode())
        elif column is not None:
            digest.update(f"{name} {column.dtype.str} {column.shape}\n".encode())
            digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()
