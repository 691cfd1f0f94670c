"""Items, users and what each user is known to have, as the files of an export."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.dataset.vocabulary import Vocabulary
from trainer.recommender.manifest import DISLIKED, ITEMS, PAST, USERS
from trainer.storage.attributes import Ragged

USERS_AT_ONCE = 65_536
"""Users whose items are put in order at a time."""
RESERVED = ("item", "title")
"""Columns of `items.parquet` that are no attributes."""


@dataclass(frozen=True)
class Past:
    """What users are known to have, as an export holds it.

    Attributes:
        items: (users,) lists of item rows, each item once; oldest first where there is an order.
        times: Seconds of the same; None where there are none.
    """

    items: Ragged
    times: Ragged | None


def write_items(folder: Path, vocabulary: Vocabulary) -> None:
    """Write raw ids in their own type, titles and attributes, a row an item."""
    titles = vocabulary.titles
    columns = {"item": vocabulary.item_ids}
    columns["title"] = pa.nulls(len(vocabulary.item_ids), pa.string()) if titles is None else titles
    for name in vocabulary.item_attributes.column_names:
        shown = f"{name}_attribute" if name in RESERVED else name
        columns[shown] = vocabulary.item_attributes[name]
    pq.write_table(pa.table(columns), folder / ITEMS, compression="zstd")


def write_users(folder: Path, vocabulary: Vocabulary) -> None:
    """Write raw ids in their own type."""
    pq.write_table(pa.table({"user": vocabulary.user_ids}), folder / USERS, compression="zstd")


def write_past(folder: Path, vocabulary: Vocabulary, ordered: bool) -> Past:
    """Write what each user has in the training, validation and test splits, and what they disliked.

    Args:
        folder: Of the export.
        vocabulary: Of the run.
        ordered: Whether the query tower takes histories in order; then times are returned.

    Returns:
        The items, memory-mapped from the file.
    """
    count = len(vocabulary.user_ids)
    lengths, items, times = [np.zeros(1, np.int64)], [], []
    for start in range(0, count, USERS_AT_ONCE):
        users = np.arange(start, min(start + USERS_AT_ONCE, count))
        own = _known(vocabulary, users)
        lengths.append(own[0])
        items.append(own[1].astype(np.int32))
        if ordered and own[2] is not None:
            times.append(own[2])
    offsets = np.cumsum(np.concatenate(lengths))
    past = Ragged(offsets, np.concatenate([*items, np.empty(0, np.int32)]))
    _write(folder, PAST, past)
    if vocabulary.disliked is not None:
        disliked = vocabulary.disliked
        _write(folder, DISLIKED, Ragged(disliked.offsets[: count + 1], disliked.values))
    return Past(past, Ragged(offsets, np.concatenate(times)) if times else None)


def _known(vocabulary: Vocabulary, users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return lengths, item rows and, where there are any, times of what some users have, oldest first."""
    known = vocabulary.sequences
    parts = list(_parts(vocabulary))
    owners = np.concatenate([np.repeat(users, items.take(users)[0]) for items, _ in parts])
    items = np.concatenate([items.take(users)[1] for items, _ in parts])
    times = None
    if known is not None and all(moments is not None for _, moments in parts):
        times = np.concatenate([moments.take(users)[1] for _, moments in parts if moments is not None])
    # Splits need not go by time: a test item may be older than a training item.
    order = np.argsort(owners, kind="stable") if times is None else np.lexsort((times, owners))
    owners, items = owners[order], items[order]
    pairs = owners * np.int64(len(vocabulary.item_ids)) + items
    once = np.sort(np.unique(pairs, return_index=True)[1])
    lengths = np.bincount(owners[once] - users[0], minlength=len(users))
    return lengths, items[once], None if times is None else times[order][once]


def _parts(vocabulary: Vocabulary) -> Iterator[tuple[Ragged, Ragged | None]]:
    """Yield items of each user and their times, those before the test split first."""
    if vocabulary.sequences is not None:
        yield vocabulary.sequences.items, vocabulary.sequences.times
    else:
        yield vocabulary.seen, None
    if vocabulary.held_out_sequences is not None:
        yield vocabulary.held_out_sequences.items, vocabulary.held_out_sequences.times
    elif vocabulary.held_out is not None:
        yield vocabulary.held_out, None


def _write(folder: Path, name: str, lists: Ragged) -> None:
    np.save(folder / f"{name}_offsets.npy", np.asarray(lists.offsets, np.int64), allow_pickle=False)
    np.save(folder / f"{name}_values.npy", np.asarray(lists.values, np.int32), allow_pickle=False)
