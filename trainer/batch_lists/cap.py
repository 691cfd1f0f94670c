"""A cap on how often an item may appear over all lists.

Users have their turns in the order of their rows. Each gets the best items that stand in fewer lists than the
cap, up to then; so an item that runs out is replaced by the next best ones. What a user gets depends on all
users before, so that lists with a cap are made one after another, whatever the number of ranks.
"""

import numpy as np

from trainer.batch_lists.block_ranking import Block, BlockRanker
from trainer.ranking.best import scores_of
from trainer.ranking.selection import Limit, Selection, select, within_limits
from trainer.storage.tie_hashes import first_hashes

USERS = 256
"""Users whose candidates are found together; items that have run out before are none."""


class Cap:
    """Makes lists in which no item appears more often than it may.

    Attributes:
        counts: (items,) lists that each item stands in so far.
    """

    def __init__(self, ranker: BlockRanker, most: int, selection: Selection) -> None:
        """Begin with no lists.

        Args:
            ranker: Of all items that the selection permits.
            most: Most lists of an item.
            selection: What restricts lists.
        """
        self._ranker, self._most, self._selection = ranker, most, selection
        self._permitted = ranker.permitted
        self.counts = np.zeros(len(ranker.permitted), np.int64)

    def lists(self, block: Block, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the lists of the next users in turn; as `BlockRanker.lists` does."""
        parts = [
            self._some(block.some(np.arange(start, min(start + USERS, len(block.rows)))), k)
            for start in range(0, len(block.rows), USERS)
        ]
        rows, scores = zip(*parts, strict=True)
        return np.concatenate(rows), np.concatenate(scores)

    def _some(self, block: Block, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.full((len(block.rows), k), -1, np.int64)
        scores = np.full(rows.shape, -np.inf, np.float32)
        left = self._permitted & (self.counts < self._most)
        if not left.any():
            return rows, scores
        self._ranker.permit(left)
        found, own = self._ranker.ranking(block, 4 * k)
        for user, (candidates, values) in enumerate(zip(found, own, strict=True)):
            free = candidates >= 0
            ends = not free.all() or len(candidates) == left.sum()
            free &= self.counts[candidates] < self._most
            chosen = self._taken(candidates[free], k, self._selection.limits)
            if len(chosen) == k or ends:
                items, points = candidates[free][chosen], values[free][chosen]
            else:  # more have run out than there were candidates
                items, points = self._one(block, user, k)
            rows[user, : len(items)], scores[user, : len(items)] = items, points
            self.counts[items] += 1
        return rows, scores

    def _taken(self, ranking: np.ndarray, k: int, limits: tuple[Limit, ...]) -> np.ndarray:
        if not limits:
            return np.arange(min(k, len(ranking)))
        return np.flatnonzero(within_limits(ranking[None], k, limits)[0])

    def _one(self, block: Block, user: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the list of one user from all items."""
        known = self._ranker
        scores = scores_of(known.vectors, block.queries[user])
        left_out = np.concatenate(
            [block.known[block.owners == user], np.flatnonzero(self.counts >= self._most)]
        )
        first = int(first_hashes(known.vocabulary.user_ids.slice(int(block.rows[user]), 1))[0])
        items = select(scores, k, known.vocabulary.item_ids, left_out, first, self._selection)
        return items, scores[items]
