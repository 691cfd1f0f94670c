"""Encoded interactions -> the split of each, and the files of each split."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.dataset.columns import blocks, saved, stored, write_items_by_user
from trainer.dataset.encode import Encoded
from trainer.dataset.split import NEGATIVE, NEGATIVES, PARTS, Rule, split_rows


def parts_of_rows(encoded: Encoded, stays: np.ndarray, rule: Rule, settings: dict) -> np.ndarray:
    """Return the split of every row, (n,) int8, -1 where it was dropped."""
    held_out = np.zeros(len(stays), bool)
    held_out[encoded.training_rows :] = True
    whole = bool(stays.all())

    def read(column: str) -> np.ndarray:
        values = encoded.columns[column].read()
        return values if whole else values[stays]

    # Read only the columns that the rule uses; of the others only the length matters.
    by_time = rule in ("leave_last_out", "temporal") and "timestamp" in encoded.columns
    by_user = rule in ("leave_last_out", "per_user")
    found = split_rows(
        rule,
        read("user_id") if by_user else np.zeros(np.count_nonzero(stays), np.int32),
        read("timestamp") if by_time else None,
        held_out if whole else held_out[stays],
        settings["test_size"],
        settings["validation_size"],
        settings["split_seed"],
        settings.get("validation_seed"),
    )
    if whole:
        return found
    parts = np.full(len(stays), -1, np.int8)
    parts[stays] = found
    return parts


def write_parts(folder: Path, encoded: Encoded, parts: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Write the columns of each split and its items by user; return the remaining ids of users and items.

    Explicit negatives, if there are any, are written like a split; their users and items stand in others.
    """
    ids, rows_of = {}, {}
    for column in ("user_id", "item_id"):
        used = encoded.counts(column, (parts >= 0) & (parts < NEGATIVE)) > 0
        ids[column] = encoded.ids[column].filter(pa.array(used))
        rows_of[column] = (np.cumsum(used) - 1).astype(np.int32)
    _write_columns(folder, encoded, parts, rows_of)
    pairs = {
        part: (stored(folder / f"{part}_user_id.npy"), stored(folder / f"{part}_item_id.npy"))
        for part in PARTS
    }
    groups = {part: [pairs[part]] for part in PARTS}
    if len(pairs["validation"][0]):
        groups["known"] = [pairs["train"], pairs["validation"]]
    for name, group in groups.items():
        sizes = len(ids["user_id"]) + 1, len(ids["item_id"])
        write_items_by_user(folder, f"by_user_{name}", group, *sizes)
    return ids["user_id"], ids["item_id"]


def _write_columns(folder: Path, encoded: Encoded, parts: np.ndarray, rows_of: dict[str, np.ndarray]) -> None:
    """Write the columns of each split, with ids renumbered by `rows_of`."""
    names = PARTS if not (parts == NEGATIVE).any() else (*PARTS, NEGATIVES)
    sizes = [int(np.count_nonzero(parts == number)) for number in range(len(names))]
    with ExitStack() as stack:
        files = [
            [
                stack.enter_context(saved(folder / f"{part}_{name}.npy", column.dtype, size))
                for name, column in encoded.columns.items()
            ]
            for part, size in zip(names, sizes, strict=True)
        ]
        for rows, *columns in blocks(*encoded.columns.values()):
            named = dict(zip(encoded.columns, columns, strict=True))
            named |= {name: row_of[named[name]] for name, row_of in rows_of.items()}
            for number, of_part in enumerate(files):
                chosen = np.flatnonzero(parts[rows] == number)
                for file, values in zip(of_part, named.values(), strict=True):
                    values[chosen].tofile(file)
