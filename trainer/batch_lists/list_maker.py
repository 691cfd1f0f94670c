"""The lists of blocks of users of one run, as columns."""

from typing import Any

import numpy as np
import pyarrow as pa

from trainer.batch_lists.block_queries import KnownItems, Queries
from trainer.batch_lists.block_ranking import Block, BlockRanker
from trainer.batch_lists.cap import Cap
from trainer.batch_lists.ranks import on_first
from trainer.distributed.world import World
from trainer.errors import DivergedError, diverged
from trainer.ranking.selection import Selection
from trainer.serving.ordered_history import has_ordered_histories
from trainer.serving.served_run import ServedRun
from trainer.serving.vector_cache import open_vectors
from trainer.storage.attributes import Ragged
from trainer.storage.raw_ids import rows_of

TEST = "test"
"""Column that marks items of the test split."""


class ListMaker:
    """Makes the lists of blocks of users."""

    def __init__(
        self,
        served: ServedRun,
        world: World,
        selection: Selection,
        held_out: Ragged | None,
        k: int,
        keep_seen: bool,
        mark: str | None,
        cap: int | None,
    ) -> None:
        self._served, self._k, self._marked = served, k, held_out if mark else None
        vocabulary = served.vocabulary
        ordered = mark is None and has_ordered_histories(served.saved)

        def vectors() -> Any:
            if not ordered and (cached := open_vectors(served.run, served.saved)):
                return cached.users, cached.items, ()
            from trainer.serving.embed import all_vectors

            return all_vectors(served.run, served.saved, from_towers=ordered)

        if world.size > 1 and not ordered:  # the first computes the cache that all others open
            on_first(world, lambda: vectors() and None)
        cached, items, tower_pairs = vectors()
        self._queries = Queries(vocabulary, cached, tower_pairs, ordered)
        self._known = KnownItems.of_run(vocabulary, held_out, keep_seen, mark is not None)
        self._ranker = BlockRanker(vocabulary, items, selection.limits)
        permitted = np.ones(len(items), bool)
        permitted[selection.left_out] = False
        self._ranker.permit(permitted)
        self.cap = None if cap is None else Cap(self._ranker, cap, selection)

    def columns(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """Return the lists of some users, column by column.

        Raises:
            DivergedError: A score is not finite.
        """
        vocabulary = self._served.vocabulary
        block = Block(rows, self._queries.of(rows), *self._known.of(rows))
        try:
            items, scores = (self.cap or self._ranker).lists(block, self._k)
        except DivergedError:
            raise diverged(str(self._served.run), "scores are NaN or infinite") from None
        there = items >= 0
        counts, flat = there.sum(1), items[there]
        users = np.repeat(rows, counts)
        ranks = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
        columns = {
            "user": vocabulary.user_ids.take(pa.array(users)),
            "rank": pa.array(ranks, pa.int32()),
            "item": vocabulary.item_ids.take(pa.array(flat)),
            "score": pa.array(scores[there], pa.float32()),
        }
        if self._marked is not None:
            lengths, held_out = self._marked.take(rows)
            count = len(vocabulary.item_ids)
            columns[TEST] = pa.array(
                np.isin(users * count + flat, np.repeat(rows, lengths) * count + held_out)
            )
        return columns

    def count(self, items: pa.Array) -> None:
        """Count the items of lists that were there before, where there is a cap."""
        if self.cap is not None:
            rows = rows_of(self._served.vocabulary.item_ids, items).to_numpy()
            self.cap.counts += np.bincount(rows, minlength=len(self.cap.counts))
