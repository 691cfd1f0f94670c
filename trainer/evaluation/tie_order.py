"""The order in which items of equal scores are ranked: by a hash of their raw ids.

Rows are numbered by first appearance, so that low rows tend to be popular items, or whatever the file begins
with. A model that gives all items the same score would be measured by that order. A hash of the raw id knows
nothing of popularity and is the same whatever the order of the file, the split and the number of ranks.

A model's equal scores are ranked in one of 32 orders, by user (see `tied_ranking`); baselines take the same
one for all. The catalogue is numbered anew, by *places*, before anything is ranked; lower places first is
then the rule in every kernel, and costs nothing where no scores are equal. Nothing here imports torch
before it is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from trainer.dataset.dataset import Dataset
from trainer.storage.arrays import keep_array
from trainer.storage.tie_hashes import first_hashes, tie_hashes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    ItemLists: TypeAlias = tuple[Tensor, Tensor]
    Ranker: TypeAlias = Callable[[np.ndarray, ItemLists], Tensor]

VERSION = 2
"""Version of hash and seed, part of the name of a cached order."""


class RawIds(Protocol):
    """What has raw ids of users and items, such as a data set or the vocabulary of a run."""

    @property
    def user_ids(self) -> pa.Array:
        """Raw ids of users, in row order."""
        ...

    @property
    def item_ids(self) -> pa.Array:
        """Raw ids of items, in row order."""
        ...


@dataclass(frozen=True)
class TieOrder:
    """The items that are ranked, N of them, numbered by place.

    Attributes:
        rows: (N,) int64 item row at each place.
        places: int64 place of each item row; (N,) where all items are ranked.
        ids: Raw ids of all users and items.
    """

    rows: "Tensor"
    places: "Tensor"
    ids: RawIds

    @classmethod
    def of(cls, dataset: Dataset, device: "torch.device | str" = "cpu") -> "TieOrder":
        """Return the order of a data set's items, on a device; it is cached with the prepared data."""
        import torch

        rows = _cached_rows(dataset)
        places = np.empty_like(rows)
        places[rows] = np.arange(len(rows))
        return cls(torch.from_numpy(rows).to(device), torch.from_numpy(places).to(device), dataset)

    def entries_of(self, users: np.ndarray) -> np.ndarray:
        """Return the place at which the order of each user begins, (n,) int64, of users given by rows."""
        first = first_hashes(self.ids.user_ids.take(pa.array(users)))
        return np.searchsorted(self._hashes, first) % max(len(self.rows), 1)

    @cached_property
    def _hashes(self) -> np.ndarray:
        """Hash of the item at each place, ascending."""
        return tie_hashes(self.ids.item_ids.take(pa.array(self.rows.cpu().numpy())))

    def lists_of_places(self, lists: "ItemLists") -> "ItemLists":
        """Return lists of item rows as lists of places."""
        # Several times as fast as indexing, which would also need another type.
        return lists[0], self.places.index_select(0, lists[1])

    def item_rows(self, ranking: "Tensor") -> "Tensor":
        """Return the item rows of a ranking of places, (B, K); -1, no item, stays."""
        return self.rows[ranking.clamp(min=0)].masked_fill(ranking < 0, -1)

    def by_rows(self, rank: "Ranker") -> "Ranker":
        """Return a ranker of item rows that calls a ranker of places."""
        return lambda users, exclude: self.item_rows(rank(users, self.lists_of_places(exclude)))


def tied_lists(scores: "Tensor") -> "Tensor":
    """Return which lists hold two items of equal scores.

    Args:
        scores: (B, K), best first, -inf for no item.

    Returns:
        (B,) bool.
    """
    import torch

    equal = (scores[:, 1:] == scores[:, :-1]) & (scores[:, 1:] > -torch.inf)
    return equal.any(1)


def _cached_rows(dataset: Dataset) -> np.ndarray:
    """Return the row of the item at each place, (N,) int64."""
    path = dataset.folder / f"tie-order-{VERSION}.npy"
    try:
        rows = np.load(path, allow_pickle=False)
        if len(rows) == dataset.evaluated_items:
            return rows
    except (OSError, ValueError):
        pass  # missing or truncated: computed again
    rows = np.argsort(tie_hashes(dataset.item_ids.slice(0, dataset.evaluated_items)), kind="stable")
    keep_array(path, rows)
    return rows
