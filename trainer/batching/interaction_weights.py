"""Weights of a step's positives, and its explicit negatives."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.dataset.dataset import Dataset
from trainer.dataset.interactions import Interactions
from trainer.storage.attributes import Ragged


@dataclass(frozen=True)
class Negatives:
    """Explicit negatives of a step's rows, one row's after another's.

    Attributes:
        lengths: Number of each row, (b,) int64.
        items: Item rows, (M,) int32.
        weights: Their weights in the row's loss, (M,) float32.
    """

    lengths: np.ndarray
    items: np.ndarray
    weights: np.ndarray


class InteractionWeights:
    """Weights and explicit negatives of a training split.

    Each interaction of the data, positive or negative, counts by its weight in an epoch. Where a row is one
    interaction, every row of a user has all of the user's negatives, each with the weight v / n, where n is
    the number of the user's rows.

    Attributes:
        train: Interactions that rows are made of; for a pointwise loss, which fits an explicit negative like
            any other row, these are followed by the negatives.
        positives: Weights of each user's training items, in the order of `Dataset.train_by_user`; None: all
            weigh 1, or the loss is pointwise.
        negatives: Items of each user's explicit negatives; None: there are none, or the loss is pointwise.
    """

    def __init__(self, dataset: Dataset, rows: Literal["user", "interaction"], pointwise: bool) -> None:
        """Group weights and negatives by user.

        Args:
            dataset: Interactions.
            rows: What a row is.
            pointwise: Whether the loss scores each row's own item alone.
        """
        self._by_user, self._rows, self._pointwise = dataset.train_by_user(), rows, pointwise
        self._rows_of_users, self._rows_of_items = dataset.counts_by_user, dataset.train_counts_by_item
        negatives = dataset.explicit_negatives()
        self.train = dataset.train.followed_by(negatives) if pointwise else dataset.train
        self.positives: Ragged | None = None
        self.negatives: Ragged | None = None
        self._negative_weights: Ragged | None = None
        if pointwise:
            return
        if dataset.train.weights is not None:
            self.positives = Ragged(self._by_user.offsets, dataset.train.weights[_order(dataset.train)])
        if negatives is not None:
            self._group_negatives(negatives)

    def _group_negatives(self, negatives: Interactions) -> None:
        users = len(self._by_user.offsets) - 1
        counts = np.bincount(negatives.users, minlength=users)
        offsets, order = np.concatenate([[0], np.cumsum(counts)]), _order(negatives)
        ones = np.ones(len(negatives), np.float32)
        weights = (ones if negatives.weights is None else negatives.weights)[order]
        if self._rows == "interaction":
            weights = weights / self._by_user.lengths()[negatives.users[order]].astype(np.float32)
        self.negatives = Ragged(offsets, negatives.items[order])
        self._negative_weights = Ragged(offsets, weights)

    def of_positives(
        self, rows: np.ndarray, users: np.ndarray, lengths: np.ndarray, items: np.ndarray
    ) -> np.ndarray | None:
        """Return the weights of the rows' positives, (P,) float32, or None if all weigh 1.

        Args:
            rows: Row numbers, (b,).
            users: Their users, (b,).
            lengths: Number of positives of each row.
            items: The positives, ascending within a user row: all of the user's, or some.
        """
        if self.positives is None:
            return None
        if self._rows == "interaction":
            assert self.train.weights is not None
            return self.train.weights[rows]
        all_lengths, weights = self.positives.take(users)
        if len(weights) == len(items):
            return weights
        _, all_items = self._by_user.take(users)
        width = int(all_items.max(initial=0)) + 1
        every = np.repeat(np.arange(len(users)), all_lengths) * width + all_items
        return weights[np.searchsorted(every, np.repeat(np.arange(len(users)), lengths) * width + items)]

    def of_negatives(self, users: np.ndarray) -> Negatives | None:
        """Return the explicit negatives of rows of these users, or None if the data have none."""
        if self.negatives is None or self._negative_weights is None:
            return None
        lengths, items = self.negatives.take(users)
        return Negatives(lengths, items, self._negative_weights.take(users)[1])

    def totals(
        self, lengths: np.ndarray, weights: np.ndarray | None, negatives: Negatives | None
    ) -> np.ndarray:
        """Return what the losses of rows are divided by, (b,): numbers of positives, or sums of weights."""
        if weights is None and negatives is None:
            return lengths.astype(np.int64)
        totals = lengths if weights is None else _sums(lengths, weights)
        return (totals + (0 if negatives is None else _sums(negatives.lengths, negatives.weights))).astype(
            np.float32
        )

    def of_rows(self, power: float) -> np.ndarray | None:
        """Return the weight of every row, 1 on average, float32; None: all weigh alike.

        Args:
            power: A user row, numbered by user, weighs the sum of its positives' weights to this power. A row
                of one interaction weighs as much as itself and its share of the user's negatives.
        """
        if self._rows == "user":
            return self._of_users(power)
        if self.train.weights is None and self.negatives is None:
            return None
        weights = np.ones(len(self.train)) if self.train.weights is None else self.train.weights
        if self.negatives is not None and self._negative_weights is not None:
            owed = _sums(self.negatives.lengths(), self._negative_weights.values)
            weights = weights + owed[self.train.users]
        return (weights / weights.mean(dtype=np.float64)).astype(np.float32)

    def _of_users(self, power: float) -> np.ndarray:
        lengths = self._rows_of_users("train")
        sums = lengths.astype(np.float64) if self.positives is None else _sums(lengths, self.positives.values)
        users = np.flatnonzero(lengths)
        weights = sums[users] ** power
        found = np.zeros(len(lengths), np.float32)
        found[users] = weights / weights.mean()
        return found

    def rows_with_items(self, item_count: int) -> np.ndarray:
        """Return the number of rows with each item as a positive or an explicit negative, (item_count,)."""
        # A row contains an item once at most.
        found = self._rows_of_items()
        if self.negatives is None:
            return found
        rows = np.ones(len(self.negatives.values), np.int64)
        if self._rows == "interaction":
            rows = np.repeat(self._by_user.lengths(), self.negatives.lengths())
        return found + np.bincount(self.negatives.values, rows, item_count).astype(np.int64)


def _order(interactions: Interactions) -> np.ndarray:
    """Return the order by user, then by item."""
    return np.lexsort((interactions.items, interactions.users))


def _sums(lengths: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sum of each row's values, (rows,) float64."""
    return np.bincount(np.repeat(np.arange(len(lengths)), lengths), values, len(lengths))
