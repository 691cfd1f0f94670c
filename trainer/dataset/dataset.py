"""A prepared data set: what `trainer.dataset.build` has written, memory-mapped by all ranks of a host."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trainer.dataset.encode import COLUMNS
from trainer.dataset.impressions import SHOWN
from trainer.dataset.interactions import Interactions
from trainer.dataset.sequences import Sequences, map_sequences, sequences_of
from trainer.dataset.split import NEGATIVES, PARTS
from trainer.errors import DataError
from trainer.storage import arrays
from trainer.storage.attribute_store import map_dense, map_features
from trainer.storage.attributes import DenseFeature, Feature, Ragged
from trainer.storage.raw_ids import row_of
from trainer.storage.user_shares import UserShares, map_user_shares


@dataclass(frozen=True)
class Dataset:
    """A prepared data set; see `trainer.dataset.build`.

    Attributes:
        folder: Folder of the prepared data.
        key: Hash of source and settings, in the folder's name.
        name: Name of the data set.
        item_name: What an item is called, e.g. `movie`.
        user_count: Users in the vocabulary; row `user_count` is reserved for unknown users.
        item_count: Items in the catalogue: every item of any split.
        train: Training interactions.
        validation: Validation interactions; there may be none.
        test: Test interactions; under `none` there are none.
        user_ids: Raw ids of users (int64 or string) in row order: by first appearance.
        item_ids: Raw ids of items, likewise.
        titles: (item_count,) strings, null where unknown, or None.
        user_features: Attributes by name; `user_count + 1` rows, the last one unknown.
        item_features: Attributes by name; `item_count` rows.
        user_dense: Numbers and vectors by name, of the same rows as `user_features`.
        item_dense: The same for items.
        attributes: A text on every attribute, used or left out, by side (`user`, `item`) and name.
        report: What was read, dropped and kept.
        notes: Sentences on how the files were understood and what of them was left out.
        kept_users: (n,) int64 rows that have vectors of their own without training interactions; see
            `trainer.warm_start.retained_ids`.
        kept_items: The same for items.
        negatives: Interactions below `min_value` that are explicit negatives of the training, of users and
            items with training interactions; or None.
        shown: Impressions that are, likewise; see `impressions.write_impressions`.
        has_order: Whether it is known which interaction of a user came before another.
        shares: Shares of users; then interactions, lists by user and raw ids of users are those of this
            host's users alone, and null or empty elsewhere. None: a host has all users.
    """

    folder: Path
    key: str
    name: str
    item_name: str
    user_count: int
    item_count: int
    train: Interactions
    validation: Interactions
    test: Interactions
    user_ids: pa.Array
    item_ids: pa.Array
    titles: pa.Array | None
    user_features: dict[str, Feature]
    item_features: dict[str, Feature]
    user_dense: dict[str, DenseFeature]
    item_dense: dict[str, DenseFeature]
    attributes: dict[str, dict[str, str]]
    report: dict[str, int | float | str]
    notes: list[str]
    kept_users: np.ndarray
    kept_items: np.ndarray
    negatives: Interactions | None = None
    shown: Interactions | None = None
    has_order: bool = False
    shares: UserShares | None = None

    @property
    def evaluated_items(self) -> int:
        """Number of items that evaluations rank: all but the last, which an earlier run retained."""
        return self.item_count - int(self.report.get("kept_items", 0))

    def item_popularity(self) -> np.ndarray:
        """Return the summed weights of each item's training interactions, (item_count,) float64."""
        if self.shares is not None:
            return self.shares.item_counts.astype(np.float64)
        return np.bincount(self.train.items, self.train.weights, self.item_count).astype(np.float64)

    def train_counts_by_item(self) -> np.ndarray:
        """Return the training interactions of each item over all hosts, (item_count,) int64."""
        if self.shares is not None:
            return self.shares.item_counts
        return np.bincount(self.train.items, minlength=self.item_count)

    def counts_by_user(self, split: str) -> np.ndarray:
        """Return the interactions in `split` of each user over all hosts, (user_count + 1,) integers."""
        if self.shares is not None:
            return self.shares.lengths[split]
        return self._by_user(split).lengths()

    def interaction_count(self, split: str) -> int:
        """Return the number of interactions in `split` over all hosts."""
        return len(getattr(self, split)) if self.shares is None else self.shares.count(split)

    def explicit_negatives(self) -> Interactions | None:
        """Return all explicit negatives of the training; None without any."""
        return self.shown if self.negatives is None else self.negatives.followed_by(self.shown)

    def train_by_user(self) -> Ragged:
        """Training items of each user, of the same shape as `seen`."""
        return self._by_user("train")

    def seen(self, split: str) -> Ragged:
        """Return the items of each user before `split`: training items, for `test` validation items too.

        Returns:
            `user_count + 1` rows, item rows ascending within a user; the last row is empty.
        """
        return self._by_user("known" if split == "test" else "train")

    def history(self) -> Ragged:
        """Return each user's history: training items or, for a retained user, those of the earlier run."""
        return self._by_user("history")

    def sequences(self, split: str) -> Sequences:
        """Return the items of each user before `split`, as `seen` does, but oldest first, with their times.

        Of interactions of one second, the earlier in the file is the older. A retained user has the items of
        the earlier run before either split, as in `history`: they are there to be looked up, not trained on.

        Raises:
            DataError: The interactions have no order.
        """
        if not self.has_order:
            raise DataError(
                f"{self.name}: these interactions have no timestamps, which say what a user did last. Name "
                "their column (--data.timestamp_column) or, where a user's rows stand in order of time, use "
                "--data.order file"
            )
        found = map_sequences(self.folder, "known") if split == "test" else None
        return found or map_sequences(self.folder, "train") or self._unwritten_sequences(split)

    def _unwritten_sequences(self, split: str) -> Sequences:
        """Return the sequences of data that were prepared before they were written with them."""
        before = [self.train, self.validation] if split == "test" else [self.train]
        users, items, times = (
            np.concatenate([getattr(part, column) for part in before])
            for column in ("users", "items", "timestamps")  # there was no other order then
        )
        return sequences_of(users, items, times, self.user_count + 1)

    def _by_user(self, name: str) -> Ragged:
        own = (self.folder / f"by_user_{name}_offsets.npy").exists()
        return arrays.map_ragged(self.folder, f"by_user_{name if own else 'train'}")

    def held_out(self, split: str) -> Ragged:
        """Return the items of `split` by user, of the same shape as `seen`."""
        return arrays.map_ragged(self.folder, f"by_user_{split}")

    def served_held_out(self) -> Ragged:
        """Return the test items of each user or, for a retained user, those that the earlier run knew of."""
        own = (self.folder / "by_user_held_out_offsets.npy").exists()
        return arrays.map_ragged(self.folder, "by_user_held_out") if own else self.held_out("test")

    def user_row(self, raw_id: str | int) -> int | None:
        """Return the row of a user, or None. Command-line ids are text, so "1" finds the integer 1."""
        return row_of(self.user_ids, raw_id)

    def item_row(self, raw_id: str | int) -> int | None:
        """Return the row of an item, or None."""
        return row_of(self.item_ids, raw_id)


def open_dataset(folder: Path) -> Dataset:
    """Memory-map a prepared data set.

    Raises:
        DataError: A file of it is missing or truncated.
    """
    meta = arrays.read_meta(folder, "Prepare it anew: start the same command again")
    has_timestamps = (folder / "train_timestamp.npy").exists()
    user_ids, _ = arrays.map_ids(folder, "user")
    item_ids, titles = arrays.map_ids(folder, "item")
    train, validation, test = (_map_part(folder, part) for part in PARTS)
    return Dataset(
        folder=folder,
        key=meta["key"],
        name=meta["name"],
        item_name=meta["item_name"],
        user_count=len(user_ids),
        item_count=len(item_ids),
        train=train,
        validation=validation,
        test=test,
        user_ids=user_ids,
        item_ids=item_ids,
        titles=titles,
        user_features=map_features(folder, "user", meta),
        item_features=map_features(folder, "item", meta),
        user_dense=map_dense(folder, "user", meta),
        item_dense=map_dense(folder, "item", meta),
        attributes=meta.get("attributes", {}),
        report=meta["report"],
        notes=meta.get("notes", []),
        kept_users=_kept(folder, "user"),
        kept_items=_kept(folder, "item"),
        negatives=_map_part(folder, NEGATIVES) if (folder / f"{NEGATIVES}_user_id.npy").exists() else None,
        has_order=meta.get("has_order", has_timestamps),
        shown=_map_part(folder, SHOWN) if (folder / f"{SHOWN}_user_id.npy").exists() else None,
        shares=map_user_shares(folder, meta),
    )


def _map_part(folder: Path, part: str) -> Interactions:
    users, items, *others = (arrays.map_array(folder, f"{part}_{column}") for column in COLUMNS)
    assert users is not None
    assert items is not None
    return Interactions(users, items, *others)


def _kept(folder: Path, side: str) -> np.ndarray:
    rows = arrays.map_array(folder, f"kept_{side}s")
    return np.empty(0, np.int64) if rows is None else rows
