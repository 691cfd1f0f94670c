"""What is needed of a block of users before items are ranked: query vectors, and items to be left out.

Towers, and TorchRec with them, are imported where there are no cached vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from trainer.dataset.vocabulary import Vocabulary
from trainer.serving.ordered_history import served_history
from trainer.storage.attributes import Ragged

if TYPE_CHECKING:
    from trainer.model.retriever import TowerPair


@dataclass(frozen=True)
class Queries:
    """Query vectors of all users, block by block.

    Attributes:
        vocabulary: Of the run.
        cached: (users, D) query vectors, memory-mapped; None: they come from the towers.
        tower_pairs: Whole towers on the CPU, where there is no cache.
        served: Whether ordered histories go on with test items, as those of users who are served do.
    """

    vocabulary: Vocabulary
    cached: np.ndarray | None
    tower_pairs: "Sequence[TowerPair]"
    served: bool

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the query vectors of some users, (len(rows), D) float32."""
        if self.cached is not None:
            return np.asarray(self.cached[rows])
        from trainer.model.retriever import query_vectors, some_users

        pairs = self.tower_pairs
        if self.served:
            histories, times = self._histories(rows)
            pairs = [some_users(pair, rows, histories, times) for pair in pairs]
            rows = np.arange(len(rows))
        return query_vectors(pairs, rows, torch.device("cpu")).numpy()

    def _histories(self, rows: np.ndarray) -> tuple[Ragged, Ragged | None]:
        """Return the ordered histories with which some users are served, and their times."""
        known = self.vocabulary.sequences
        assert known is not None, "ordered histories are made of sequences"
        items, times = [], []
        for row in rows.tolist():
            served = served_history(self.vocabulary, row, None)
            if served is None:  # an evaluation knows as many
                one = np.array([row])
                served = known.items.take(one)[1], None if known.times is None else known.times.take(one)[1]
            items.append(served[0])
            times.append(served[1])
        offsets = np.append(0, np.cumsum([len(each) for each in items]))
        joined = Ragged(offsets, np.concatenate(items).astype(np.int32))
        if known.times is None:
            return joined, None
        return joined, Ragged(offsets, np.concatenate([each for each in times if each is not None]))


@dataclass(frozen=True)
class KnownItems:
    """Items that users are known to have, and that are left out of their lists.

    Attributes:
        lists: Lists of items by user, all of which are left out.
        item_count: Items of the catalogue.
    """

    lists: tuple[Ragged, ...]
    item_count: int

    @classmethod
    def of_run(
        cls, vocabulary: Vocabulary, held_out: Ragged | None, keep_seen: bool, mark: bool
    ) -> "KnownItems":
        """Return what `recommend` leaves out; with `mark`, what an evaluation does."""
        kinds = [] if keep_seen else [vocabulary.seen]
        if not keep_seen and not mark:
            kinds += [lists for lists in (vocabulary.disliked, held_out) if lists is not None]
        return cls(tuple(kinds), len(vocabulary.item_ids))

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of some users: the place of the user in `rows`, ascending, and the item row."""
        pairs = [np.empty(0, np.int64)]
        for lists in self.lists:
            lengths, items = lists.take(rows)
            pairs.append(np.repeat(np.arange(len(rows)), lengths) * self.item_count + items)
        users, items = np.divmod(np.unique(np.concatenate(pairs)), self.item_count)
        return users, items
