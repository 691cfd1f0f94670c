"""A run's data after they have moved: digests to recognise them by, and the prepared form that stands."""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from trainer.atomic_write import write_text
from trainer.config.parser import read_config
from trainer.config.resume import PATHS
from trainer.config.schema import DataConfig
from trainer.dataset.dataset import Dataset
from trainer.dataset.prepare import find_prepared
from trainer.dataset.split import PARTS
from trainer.dataset.vocabulary import FOLDER
from trainer.errors import UserError
from trainer.runs.checkpoint_store import CONFIG
from trainer.sources.configured import raw_data_are_there
from trainer.storage.arrays import is_whole, read_meta

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
    of_all = dataset.shares.digests if dataset.shares else {}  # of the users of all hosts, with their ids
    digests = {name: of_all.get(name) or _digest(columns) for name, columns in _columns(dataset).items()}
    with suppress(OSError):
        write_text(cache, json.dumps(digests))
    return digests


def _columns(dataset: Dataset) -> dict[str, dict[str, Column]]:
    """Return the columns that each digest is of, by name."""
    columns: dict[str, dict[str, Column]] = {name: vars(getattr(dataset, name)) for name in PARTS}
    if dataset.negatives is not None:
        columns["negatives"] = vars(dataset.negatives)
    if dataset.shown is not None:
        columns["shown"] = vars(dataset.shown)
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


def standing_form(run: Path, data: DataConfig, retained: bool = True) -> Path | None:
    """Return the prepared form of a run's data, for where the files that it was made of are gone.

    Args:
        run: Run folder.
        data: What is asked for.
        retained: Whether ids that the run retained from an earlier one are to be in it.

    Returns:
        Its folder; None where the files are there, other data are asked for, or it does not stand.
    """
    if raw_data_are_there(data):
        return None
    try:
        then, key = read_config(run / CONFIG).data, read_meta(run / FOLDER, "")["key"]
    except UserError:
        return None
    folder = find_prepared(data, key) if _identity(then) == _identity(data) else None
    if folder and not retained and "kept_users" in read_meta(folder, "")["report"]:
        # See trainer.warm_start.retained_ids.extend.
        folder = folder.with_name(folder.name.rpartition("-")[0])
        return folder if is_whole(folder) else None
    return folder


def _identity(data: DataConfig) -> dict[str, Any]:
    """Return the keys that say which data they are, with paths in full."""
    found = asdict(data) | {"cache": None, "source": None}
    return found | {name: str(Path(found[name]).absolute()) for name in PATHS if found[name] is not None}
