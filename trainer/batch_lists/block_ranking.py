"""The best items of a block of users, by the evaluator's product and top-k, scored as for one user.

The blocked product finds candidates, a few more than are wanted. Their scores are then summed up again as
`recommend` does for one user, and ranked by them, so that both give the same lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.dataset.vocabulary import Vocabulary
from trainer.evaluation.tie_order import TieOrder
from trainer.evaluation.tied_ranking import rank_items
from trainer.ranking.selection import Limit, within_limits
from trainer.storage.tie_hashes import first_hashes, tie_hashes

MARGIN = 8
"""Candidates beyond those wanted: sums of a product may differ in their last bits from those of one user."""
SCORED_AT_ONCE = 64
"""Users whose candidates' vectors are gathered at a time."""


@dataclass(frozen=True)
class Block:
    """A block of B users.

    Attributes:
        rows: (B,) rows of the users, ascending.
        queries: (B, D) query vectors.
        owners: Place in the block of each known item, ascending.
        known: Item rows that are left out of the list of their owner.
    """

    rows: np.ndarray
    queries: np.ndarray
    owners: np.ndarray
    known: np.ndarray

    def some(self, places: np.ndarray) -> "Block":
        """Return a block of some of its users, given by ascending places."""
        inside = np.isin(self.owners, places)
        owners = np.searchsorted(places, self.owners[inside])
        return Block(self.rows[places], self.queries[places], owners, self.known[inside])


class BlockRanker:
    """Ranks a catalogue, or what is permitted of it, for blocks of users."""

    def __init__(self, vocabulary: Vocabulary, vectors: np.ndarray, limits: Sequence[Limit]) -> None:
        """Prepare a ranking of all items.

        Args:
            vocabulary: Of the run.
            vectors: (items, D) candidate vectors.
            limits: Of attribute values in a list.
        """
        self.vocabulary, self.vectors, self._limits = vocabulary, vectors, limits
        self._hashes = tie_hashes(vocabulary.item_ids)
        self.permit(np.ones(len(vectors), bool))

    def permit(self, permitted: np.ndarray) -> None:
        """Rank some items alone from now on, (items,) bool."""
        rows = np.flatnonzero(permitted)
        rows = rows[np.argsort(self._hashes[rows], kind="stable")]
        places = np.zeros(len(permitted), np.int64)
        places[rows] = np.arange(len(rows))
        self.permitted = permitted
        self._order = TieOrder(torch.from_numpy(rows), torch.from_numpy(places), self.vocabulary)
        self._by_place = torch.from_numpy(np.asarray(self.vectors[rows], np.float32))

    def lists(self, block: Block, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best items of each user and their scores, (B, k); -1 and -inf where fewer remain.

        Raises:
            DivergedError: A score is not finite.
        """
        rows = np.full((len(block.rows), k), -1, np.int64)
        scores = np.full(rows.shape, -np.inf, np.float32)
        wanted, left = (4 * k if self._limits else k), np.arange(len(block.rows))
        while len(left):
            found, own = self.ranking(block.some(left), wanted)
            taken = within_limits(found, k, self._limits) if self._limits else found >= 0
            counts = taken.sum(1)
            users, places = np.nonzero(taken)
            ranks = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
            rows[left[users], ranks], scores[left[users], ranks] = found[users, places], own[users, places]
            # Limits may leave a list short although the ranking goes on.
            goes_on = bool(self._limits) and wanted < len(self._by_place)
            left = left[(counts < k) & (found[:, -1] >= 0)] if goes_on else left[:0]
            wanted *= 4
        return rows, scores

    def ranking(self, block: Block, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the best items of each user whatever the limits, and their scores, (B, up to `wanted`)."""
        wanted = min(wanted, len(self._by_place))
        inside = self.permitted[block.known]
        lengths = np.bincount(block.owners[inside], minlength=len(block.rows))
        exclude = torch.from_numpy(lengths), torch.from_numpy(block.known[inside].astype(np.int64))
        queries, count = torch.from_numpy(block.queries), min(wanted + MARGIN, len(self._by_place))
        found = rank_items(queries, self._by_place, count, block.rows, exclude, self._order)[0].numpy()
        scores = self._scores(block.queries, found)
        first = first_hashes(self.vocabulary.user_ids.take(block.rows))
        turned = self._hashes[np.maximum(found, 0)] - first[:, None]
        order = np.lexsort((turned, -scores), axis=1)[:, :wanted]
        return np.take_along_axis(found, order, 1), np.take_along_axis(scores, order, 1)

    def _scores(self, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the scores of items (B, K), summed as `scores_of` sums; -inf for no item."""
        scores = np.empty(items.shape, np.float32)
        for start in range(0, len(items), SCORED_AT_ONCE):
            part = slice(start, start + SCORED_AT_ONCE)
            np.einsum("bkd,bd->bk", self.vectors[items[part]], queries[part], out=scores[part])
        scores[items < 0] = -np.inf
        return scores
