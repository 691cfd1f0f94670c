"""The vocabulary that a run keeps: raw ids, titles, attribute values, and the items of each user."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.dataset.dataset import Dataset, Interactions
from trainer.dataset.sequences import Sequences, map_sequences, save_sequences, sequences_of
from trainer.storage import arrays
from trainer.storage.attribute_table import attribute_table
from trainer.storage.attributes import Ragged
from trainer.storage.raw_ids import row_of

FOLDER = "vocabulary"
SEEN, HELD_OUT, DISLIKED = "by_user_known", "by_user_test", "by_user_disliked"
"""Names of the items of each user before the test split, and in it, as in prepared data."""
SEQUENCES, HELD_OUT_SEQUENCES = "known", "test"
"""Names of the sequences before the test split, likewise, and in it."""
ATTRIBUTES = "item_attributes"
LAST = ("leave_last_out", "given")
"""Splits whose test interactions come after all others, where the order is that of the file."""


@dataclass(frozen=True)
class Vocabulary:
    """What recommending needs to know of a data set, without the data set.

    Attributes:
        user_ids: Raw ids of users (int64 or string) in row order.
        item_ids: Raw ids of items, likewise.
        titles: (items,) strings, null where unknown, or None.
        item_name: What an item is called, e.g. `movie`.
        seen: Items of each user before the test split (users + 1 rows, the last one empty).
        sequences: The same, oldest first; None without an order, and in run folders of older versions.
        held_out_sequences: Items of each user in the test split, oldest first; None where nothing tells their
            order.
        held_out: Items of each user in the test split, likewise; None in run folders of older versions.
        disliked: Explicit negatives of each user, likewise; None without any.
        user_categories: Categories of each user attribute, in the order of its codes, by name.
        item_categories: The same for items.
        item_attributes: Attributes of the items in row order, as `attribute_table` reads them back; without
            columns in run folders of older versions.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    titles: pa.Array | None
    item_name: str
    seen: Ragged
    sequences: Sequences | None
    held_out_sequences: Sequences | None
    held_out: Ragged | None
    disliked: Ragged | None
    user_categories: dict[str, pa.Array]
    item_categories: dict[str, pa.Array]
    item_attributes: pa.Table

    def user_row(self, raw_id: str | int) -> int | None:
        """Return the row of a user, or None. Command-line ids are text, so "1" finds the integer 1."""
        return row_of(self.user_ids, raw_id)

    def item_row(self, raw_id: str | int) -> int | None:
        """Return the row of an item, or None."""
        return row_of(self.item_ids, raw_id)

    def had(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return whether each pair of rows, -1 for unknown ones, stood before the test split: (n,) bool."""
        known = (users >= 0) & (items >= 0)
        return known & stand_in(self.seen, len(self.item_ids), users, items)


def copy_vocabulary(dataset: Dataset, folder: Path) -> None:
    """Write `folder`/vocabulary: what `open_vocabulary` needs when the data set is no longer there.

    Nothing is done if it is there already; that of another data set is replaced.
    """
    target = folder / FOLDER
    if arrays.is_whole(target) and vocabulary_key(folder) == dataset.key and _has(target, HELD_OUT):
        return
    with arrays.published(target) as temporary:
        arrays.write_ids(temporary, "user", dataset.user_ids, None)
        arrays.write_ids(temporary, "item", dataset.item_ids, dataset.titles)
        arrays.write_ragged(temporary, SEEN, dataset.seen("test"))
        if dataset.has_order:
            save_sequences(temporary, SEQUENCES, dataset.sequences("test"))
            test = dataset.test
            if test.timestamps is not None or dataset.report["split"] in LAST:
                later = sequences_of(test.users, test.items, test.timestamps, dataset.user_count + 1)
                save_sequences(temporary, HELD_OUT_SEQUENCES, later)
        arrays.write_ragged(temporary, HELD_OUT, dataset.served_held_out())
        if dataset.negatives is not None:
            arrays.write_ragged(temporary, DISLIKED, _by_user(dataset.negatives, dataset.user_count))
        names: dict[str, list[str]] = {}
        for side, features in (("user", dataset.user_features), ("item", dataset.item_features)):
            names[f"{side}_features"] = list(features)
            for number, feature in enumerate(features.values()):
                arrays.write_column(temporary, f"{side}_categories_{number}", feature.categories)
        attributes = attribute_table(dataset.item_features, dataset.item_dense, dataset.item_count)
        arrays.write_table(temporary, ATTRIBUTES, attributes)
        arrays.write_meta(temporary, {"key": dataset.key, "item_name": dataset.item_name} | names)


def open_vocabulary(folder: Path) -> Vocabulary:
    """Memory-map the vocabulary that `copy_vocabulary` wrote into `folder`.

    Raises:
        DataError: A file of it is missing or truncated.
    """
    target = folder / FOLDER
    meta = arrays.read_meta(target, "Train the run anew, into another folder")
    user_ids, _ = arrays.map_ids(target, "user")
    item_ids, titles = arrays.map_ids(target, "item")
    user_categories, item_categories = (
        {
            name: arrays.map_column(target, f"{side}_categories_{number}")
            for number, name in enumerate(meta[f"{side}_features"])
        }
        for side in ("user", "item")
    )
    attributes = arrays.map_table(target, ATTRIBUTES)
    return Vocabulary(
        user_ids=user_ids,
        item_ids=item_ids,
        titles=titles,
        item_name=meta["item_name"],
        seen=arrays.map_ragged(target, SEEN),
        sequences=map_sequences(target, SEQUENCES),
        held_out_sequences=map_sequences(target, HELD_OUT_SEQUENCES),
        held_out=arrays.map_ragged(target, HELD_OUT) if _has(target, HELD_OUT) else None,
        disliked=arrays.map_ragged(target, DISLIKED) if _has(target, DISLIKED) else None,
        user_categories=user_categories,
        item_categories=item_categories,
        item_attributes=attributes if attributes is not None else pa.table({}),
    )


def vocabulary_key(folder: Path) -> str:
    """Return the key of the data set whose vocabulary is in `folder`."""
    return arrays.read_meta(folder / FOLDER, "Train the run anew, into another folder")["key"]


def _has(target: Path, lists: str) -> bool:
    return (target / f"{lists}_offsets.npy").exists()


def _by_user(interactions: Interactions, users: int) -> Ragged:
    """Return the items of each user, (users + 1) lists of which the last is empty."""
    lengths = np.bincount(interactions.users, minlength=users + 1)
    order = np.argsort(interactions.users, kind="stable")
    return Ragged(np.append(0, np.cumsum(lengths)), np.asarray(interactions.items)[order])


def vocabulary_digest(folder: Path) -> str | None:
    """Return the SHA-256 of the vocabulary in `folder`, in hexadecimal; None if it has none."""
    files = sorted((folder / FOLDER).glob("*.arrow"))
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if files else None


def stand_in(lists: Ragged, item_count: int, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return whether each (user, item) pair stands in lists of items by user, (n,) bool.

    Args:
        lists: Items of each user, ascending within a user and below `item_count`.
        item_count: Number of items.
        users: (n,) rows of `lists`.
        items: (n,) items.
    """
    owners = np.repeat(np.arange(len(lists.offsets) - 1), lists.lengths())
    listed = owners * item_count + lists.values
    pairs = users.astype(np.int64) * item_count + items
    return np.append(listed, -1)[np.searchsorted(listed, pairs)] == pairs
