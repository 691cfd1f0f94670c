"""Sequences: the items of each user in the order in which they came, oldest first."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.dataset.encode import Encoded
from trainer.dataset.split import TRAIN, VALIDATION
from trainer.storage import arrays
from trainer.storage.attributes import Ragged
from trainer.storage.columns import blocks, grouped_by_user, saved, stable_order


@dataclass(frozen=True)
class Sequences:
    """Items of each user, oldest first; a pair of user and item stands once, as in the splits.

    Attributes:
        items: A row a user, and an empty one behind them, for unknown users.
        times: int64 seconds of the same items, with the same offsets; None where there are no timestamps.
    """

    items: Ragged
    times: Ragged | None


def sequences_of(users: np.ndarray, items: np.ndarray, times: np.ndarray | None, user_rows: int) -> Sequences:
    """Return the sequences of interactions; of those of one second, the earlier in file order is older.

    Args:
        users: (n,) int32, in file order.
        items: (n,) int32.
        times: (n,) int64 seconds; None: the file order is the order in time.
        user_rows: Rows of the result.
    """
    order = _oldest_first(users, times)
    offsets = np.append(0, np.cumsum(np.bincount(users, minlength=user_rows)))
    ordered = Ragged(offsets, np.asarray(items)[order])
    return Sequences(ordered, None if times is None else Ragged(offsets, np.asarray(times)[order]))


def write_sequences(
    folder: Path, encoded: Encoded, parts: np.ndarray, rows_of: dict[str, np.ndarray]
) -> None:
    """Write the sequences before the validation split and, where there is one, before the test split.

    They are read from all interactions at once rather than from the splits, which do not say how rows of one
    second of two splits were ordered.

    Args:
        folder: Where `columns.write_items_by_user` has written.
        encoded: All interactions.
        parts: (n,) int8, their split.
        rows_of: Row of each user and item of `encoded` in the vocabulary, by column.
    """
    columns = [encoded.columns[name] for name in ("user_id", "item_id")]
    columns += [encoded.columns["timestamp"]] if encoded.has_timestamps else []

    def rows_before(split: int) -> Iterator[tuple[np.ndarray, ...]]:
        for rows, users, items, *times in blocks(*columns):
            chosen = np.flatnonzero((parts[rows] >= TRAIN) & (parts[rows] < split))
            users, items = rows_of["user_id"][users[chosen]], rows_of["item_id"][items[chosen]]
            yield users, items, *(moments[chosen] for moments in times)

    for name, split in (("train", VALIDATION), ("known", VALIDATION + 1)):
        if not (folder / f"by_user_{name}_offsets.npy").exists():
            continue
        offsets = np.load(folder / f"by_user_{name}_offsets.npy")
        np.save(folder / f"sequences_{name}_offsets.npy", offsets)
        with ExitStack() as stack:
            files = [
                stack.enter_context(saved(folder / f"sequences_{name}_{kind}.npy", dtype, int(offsets[-1])))
                for kind, dtype in (("values", np.int32), ("times", np.int64))[: len(columns) - 1]
            ]
            for _, (users, *ordered) in grouped_by_user(rows_before(split), np.diff(offsets), folder):
                order = _oldest_first(users, ordered[1] if encoded.has_timestamps else None)
                for file, column in zip(files, ordered, strict=True):
                    column[order].tofile(file)


def save_sequences(folder: Path, name: str, sequences: Sequences) -> None:
    """Save sequences that are in memory, under the names of `map_sequences`."""
    arrays.write_ragged(folder, f"sequences_{name}", sequences.items)
    if sequences.times is not None:
        np.save(folder / f"sequences_{name}_times.npy", sequences.times.values)


def map_sequences(folder: Path, name: str) -> Sequences | None:
    """Return the sequences of a folder, memory-mapped; None if it has none."""
    if not (folder / f"sequences_{name}_offsets.npy").exists():
        return None
    items = arrays.map_ragged(folder, f"sequences_{name}")
    times = arrays.map_array(folder, f"sequences_{name}_times")
    return Sequences(items, None if times is None else Ragged(items.offsets, times))


def _oldest_first(users: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    """Return the rows by user, then by time, then as they stand."""
    if times is None:
        return stable_order(users)
    by_time = stable_order(times)
    return by_time[stable_order(users[by_time])]
