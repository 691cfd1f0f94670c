"""Batches whose rows are positions of ordered histories: what did a user do next, after all that came before?

A step is a number of stretches, see `trainer.histories.stretches`, of which each rank has a share; all items
of the step's stretches are among its candidates, so that the vectors of histories are those of candidates,
which are looked up and exchanged anyway.
"""

import numpy as np
import torch

from trainer.batching import seeds
from trainer.batching.batch import Batch
from trainer.batching.candidates import Candidates, pairs
from trainer.batching.sampler import Batches, BatchPlan, Share
from trainer.batching.tower_inputs import Inputs, dense_values, keyed_jagged
from trainer.dataset.dataset import Dataset
from trainer.histories.slots import Slots, make_slots
from trainer.histories.stretches import Stretches, StretchRows

DRAWS = 2**16
"""Different values of a draw: small integers take a fraction of the time of floating-point numbers."""
MASKED_PLACES = 100
"""Places before and after a row, at least, whose items are no negatives of it."""


class NextBatches(Batches):
    """The steps of a training split in which a row is a position of a user's ordered history.

    Attributes:
        stretches: Stretches of which steps are made.
    """

    def __init__(self, dataset: Dataset, plan: BatchPlan, user_inputs: Inputs, item_inputs: Inputs) -> None:
        """Prepare what all steps share; arguments as in `Batches`."""
        super().__init__(dataset, plan, user_inputs, item_inputs)
        trained = self.train_by_user.lengths() > 0
        self.stretches = Stretches(dataset.sequences("validation"), trained, plan.history_length)
        with_items = self.stretches.stretches_with_items(dataset.item_count)
        self._count_rows(dataset, len(self.stretches), with_items)
        self._of_place = None if self.row_weights is None else self._by_place()

    def make(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Make one rank's batch of a step."""
        chosen = self.row_order.of_step(step).astype(np.int64)
        mine = chosen[self._share(chosen, rank, world_size)]
        rows = self.stretches.rows(mine)
        users, items = self.stretches.users[mine], self.stretches.items[rows.places].astype(np.int64)
        candidates = self.candidate_sets.of_step(step, len(chosen), self.stretches.items_of(chosen))
        cuts = self._cuts(candidates.items, world_size)
        looked_up = slice(cuts[rank], cuts[rank + 1])
        positives = pairs(np.ones(len(items), np.int64), candidates.positions(items)[0])
        log_q = candidates.log_q if self.plan.logq else None
        return Batch(
            queries=keyed_jagged(self.user_inputs, users),
            candidates=self._looked_up(step, candidates.items[looked_up], looked_up, len(candidates.items)),
            positives=positives,
            positive_counts=torch.ones(len(items), dtype=torch.int64),
            seen=self._masked(mine, rows, candidates, positives),
            log_q=None if log_q is None else torch.from_numpy(log_q),
            weights=self._weights_of(rows),
            values=None,
            query_counts=[],
            candidate_counts=np.diff(cuts).tolist(),
            rows=self.stretches.row_count(chosen),
            interactions=self.stretches.row_count(chosen),
            query_partition=rank if self.plan.user_block else None,
            candidate_partition=rank if self.plan.item_block else None,
            query_values=dense_values(self.user_inputs, users),
            candidate_values=dense_values(self.item_inputs, candidates.items[looked_up]),
            slots=self._slots(step, chosen, mine, rows, candidates),
        )

    def _share(self, rows: np.ndarray, rank: int, world_size: int) -> Share:
        """Return which of a step's stretches are a rank's."""
        block = self.plan.user_block
        if not block:
            return slice(len(rows) * rank // world_size, len(rows) * (rank + 1) // world_size)
        return np.flatnonzero(self.stretches.users[rows] // block == rank)

    def _slots(
        self, step: int, chosen: np.ndarray, mine: np.ndarray, rows: StretchRows, candidates: Candidates
    ) -> Slots:
        """Return the ordered histories of this rank's rows."""
        lengths, places = self.stretches.shown(mine)
        times = self.stretches.times
        return make_slots(
            lengths,
            candidates.positions(self.stretches.items[places])[0],
            None if times is None else times[places],
            stretches=rows.stretches,
            before=rows.before,
            factors=self._factors(step, chosen, mine) if self.plan.vector_dropout else None,
        )

    def _factors(self, step: int, chosen: np.ndarray, mine: np.ndarray) -> np.ndarray:
        """Draw what vector dropout leaves of this rank's slots, (slots, width)."""
        # Every rank draws for all of the step's stretches, and takes what is its own.
        lengths, places = self.stretches.shown(chosen)
        generator = seeds.generator(seeds.HISTORY, self.plan.seed, step)
        draws = generator.integers(0, DRAWS, (len(places), self.plan.vector_width), np.uint16)
        own = draws[np.repeat(np.isin(chosen, mine, assume_unique=True), lengths)]
        dropped = round(self.plan.vector_dropout * DRAWS)
        return np.where(own < dropped, np.float32(0), np.float32(DRAWS / (DRAWS - dropped)))

    def _masked(
        self, mine: np.ndarray, rows: StretchRows, candidates: Candidates, positives: torch.Tensor
    ) -> torch.Tensor:
        """Return the pairs of row and candidate that are no negatives: positives, and items near them.

        A user's items that come later are no accidental negatives, and those that came before are left out of
        what is ranked. Of all items of a user there would be as many pairs as the square of their number.
        """
        if not self.plan.mask_known:
            return positives
        lengths, items = self.stretches.near(mine, rows, max(self.plan.history_length, MASKED_PLACES))
        positions, present = candidates.positions(items)
        return pairs(lengths, np.where(present, positions, -1), slice(0, len(candidates.items)))

    def _weights_of(self, rows: StretchRows) -> torch.Tensor:
        if self._of_place is None or self.row_weights is None:
            return torch.ones(len(rows.places))
        return torch.from_numpy(self.row_weights[self._of_place[rows.places]])

    def _by_place(self) -> np.ndarray:
        """Return the training interaction of each place in the ordered histories, (places,) int64."""
        places = self.stretches.rows(np.arange(len(self.stretches)))
        users, items = self.stretches.users[places.stretches], self.stretches.items[places.places]
        found = np.empty(len(self.stretches.items), np.int64)
        # A user has an item once at most.
        found[places.places[np.lexsort((items, users))]] = np.lexsort((self.train.items, self.train.users))
        return found
