"""Batches: how a training split is cut into steps, and a step into the shares of ranks.

A batch is a pure function of (seed, step, rank, world size). The rows of a step and its candidate set do not
depend on the world size; each rank takes a contiguous share of both, or those whose table rows it holds. It
scores its rows with the candidates of all ranks, or its candidates with the rows of all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torchrec import KeyedJaggedTensor

from trainer.batching.batch import Batch
from trainer.batching.candidates import CandidateKind, Candidates, CandidateSets, inside, pairs
from trainer.batching.dropout import Bags, History, draw_history, drop_item_ids
from trainer.batching.interaction_weights import InteractionWeights, Negatives
from trainer.batching.row_order import RowOrder
from trainer.batching.tower_inputs import USER_HISTORY, Inputs, dense_values, keyed_jagged
from trainer.dataset.dataset import Dataset, Interactions
from trainer.storage.attributes import Ragged

Share: TypeAlias = slice | np.ndarray
"""Which of a step's rows are a rank's."""


@dataclass(frozen=True)
class BatchPlan:
    """How steps are cut from a training split.

    Attributes:
        rows: What a row is: a `user` with all positives, an `interaction`, or what a user did `next` after
            all that came before.
        size: Rows of a step over all ranks; for `next` stretches, see `trainer.histories.stretches`.
        seed: Seed of all random draws.
        candidates: Kind of the candidate sets; `own` is for pointwise losses.
        samples: Draws of `sampled`.
        popularity_power: An item is drawn in proportion to its training interactions to this power (0: all
            alike); an item without any is never drawn.
        logq: Whether candidates have their log probability.
        mask_known: Whether a user's other training items are seen pairs; for `next` those that are near, see
            `trainer.batching.next_rows`.
        user_weight_power: A user row weighs its training items to this power, scaled to 1 on average.
        history_dropout: Chance that an item is hidden from the history, if there is one. Then the positives
            of a user row are the hidden items alone, and the item of an interaction row is always hidden.
        item_id_dropout: Chance that a candidate looks up the reserved rows of id and bias instead of its own.
        rows_gathered: Whether a rank scores its candidates for the rows of all ranks; otherwise it scores its
            rows with the candidates of all ranks.
        user_block: Table rows of a rank's users: rank r takes the rows whose users are in the r-th block of
            this size; 0: a contiguous share of the rows.
        item_block: The same for the candidates that a rank looks up.
        history_length: Most positions of a stretch, and most items before them, for `next`.
        vector_dropout: Chance that a value of an item's vector is dropped from the histories of a stretch.
        vector_width: Width of these vectors.
    """

    rows: Literal["user", "interaction", "next"]
    size: int
    seed: int
    candidates: CandidateKind
    samples: int = 1024
    popularity_power: float = 0.0
    logq: bool = True
    mask_known: bool = True
    user_weight_power: float = 0.0
    history_dropout: float = 0.5
    item_id_dropout: float = 0.0
    rows_gathered: bool = False
    user_block: int = 0
    item_block: int = 0
    history_length: int = 50
    vector_dropout: float = 0.0
    vector_width: int = 0


class Batches:
    """The steps of a training split."""

    def __init__(
        self,
        dataset: Dataset,
        plan: BatchPlan,
        user_inputs: Inputs,
        item_inputs: Inputs,
        train_by_user: Ragged | None = None,
    ) -> None:
        """Prepare what all steps share.

        Args:
            dataset: Prepared data.
            plan: How its training split is cut.
            user_inputs: Features of the query tower.
            item_inputs: Features of the candidate tower.
            train_by_user: Training items of the users of all hosts; None: this host has them all.
        """
        self.plan, self.user_inputs, self.item_inputs = plan, user_inputs, item_inputs
        self.item_name, self.item_count = dataset.item_name, dataset.item_count
        kind = "user" if plan.rows == "user" else "interaction"
        self.interaction_weights = InteractionWeights(dataset, kind, plan.candidates == "own")
        self.train: Interactions = self.interaction_weights.train
        self.train_by_user: Ragged = dataset.train_by_user() if train_by_user is None else train_by_user
        self._shares = dataset.shares
        # Users without training interactions make no row.
        self.row_users = np.flatnonzero(dataset.counts_by_user("train")) if plan.rows == "user" else None
        self.row_count = len(self.train) if self.row_users is None else len(self.row_users)
        self._count_rows(
            dataset, self.row_count, self.interaction_weights.rows_with_items(dataset.item_count)
        )
        self.row_weights = self.interaction_weights.of_rows(plan.user_weight_power)

    def _count_rows(self, dataset: Dataset, row_count: int, rows_with_items: np.ndarray) -> None:
        """Set the order of the rows and the candidate sets, which depend on the rows that have an item."""
        plan, self.row_count = self.plan, row_count
        self.row_order = RowOrder(row_count, plan.size, plan.seed)
        self.candidate_sets = CandidateSets(
            plan.candidates,
            rows_with_items,
            row_count,
            samples=plan.samples,
            popularity_power=plan.popularity_power,
            seed=plan.seed,
            popularity=dataset.item_popularity(),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps that visit every row once; the last one may be smaller."""
        return self.row_order.steps_per_epoch

    def rows_of_step(self, step: int) -> np.ndarray:
        """Return the users or interactions of a step over all ranks, in an order drawn for each epoch."""
        rows = self.row_order.of_step(step)
        return rows if self.row_users is None else self.row_users[rows]

    def make(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Make one rank's batch of a step."""
        rows = self.rows_of_step(step)
        if self.plan.candidates == "own" and not self.plan.item_block:
            return self._make_pointwise(step, rows, self._share(rows, rank, world_size), rank)
        rows, share, query_counts = self._share_and_counts(rows, rank, world_size)
        scored = slice(0, len(rows)) if query_counts else share
        users, lengths, items, all_items = self._positives(rows, scored)
        weighing = self.interaction_weights
        negatives = weighing.of_negatives(users)
        all_items = self._with_negatives(rows, scored, all_items, negatives)
        candidates = self.candidate_sets.of_step(step, len(rows), all_items)
        cuts = self._cuts(candidates.items, world_size)
        looked_up = slice(cuts[rank], cuts[rank + 1])
        history = self._history(step, rows, scored)
        if history is not None and self.plan.rows == "user":
            lengths, items = history.hidden
        if not lengths.all():
            without = rows[scored][lengths == 0][0]
            raise ValueError(f"step {step}: {self.plan.rows} row {without} has no positive")
        log_q = candidates.log_q if self.plan.logq else None
        columns = None  # scored candidates; None: all
        if query_counts:
            columns, log_q = looked_up, None if log_q is None else log_q[looked_up]
            history = self._history(step, rows, share)
        positive_weights = weighing.of_positives(rows[scored], users, lengths, items)
        totals = weighing.totals(lengths, positive_weights, negatives)
        positions = candidates.positions(items)[0]
        positives = pairs(lengths, positions, columns)
        seen = self._seen(users, candidates, columns) if self._masks_more() else positives
        queried, items = users[share] if query_counts else users, candidates.items[looked_up]
        return Batch(
            queries=self._queries(queried, history),
            candidates=self._looked_up(step, items, looked_up, len(candidates.items)),
            positives=positives,
            positive_counts=torch.from_numpy(totals),
            seen=seen,
            log_q=None if log_q is None else torch.from_numpy(log_q),
            weights=self._weights(rows[scored]),
            values=self._values(rows[share]),
            query_counts=query_counts,
            candidate_counts=[] if query_counts else np.diff(cuts).tolist(),
            rows=len(rows),
            interactions=self._interactions(rows),
            query_partition=rank if self.plan.user_block else None,
            candidate_partition=rank if self.plan.item_block else None,
            positive_weights=inside(positions, positive_weights, columns),
            **self._negatives(negatives, candidates, columns),
            query_values=dense_values(self.user_inputs, queried),
            candidate_values=dense_values(self.item_inputs, items),
        )

    def _make_pointwise(self, step: int, rows: np.ndarray, share: Share, rank: int) -> Batch:
        """Make a batch in which row i's candidate is candidate i."""
        mine = rows[share]
        no_pairs = torch.zeros(2, 0, dtype=torch.int64)
        return Batch(
            queries=self._queries(self.train.users[mine], self._history(step, rows, share)),
            candidates=self._looked_up(step, self.train.items[mine], share, len(rows)),
            positives=no_pairs,
            positive_counts=torch.zeros(len(mine), dtype=torch.int64),
            seen=no_pairs,
            log_q=None,
            weights=self._weights(mine),
            values=self._values(mine),
            query_counts=[],
            candidate_counts=[],
            rows=len(rows),
            interactions=len(rows),
            query_partition=rank if self.plan.user_block else None,
            query_values=dense_values(self.user_inputs, self.train.users[mine]),
            candidate_values=dense_values(self.item_inputs, self.train.items[mine]),
        )

    def _share(self, rows: np.ndarray, rank: int, world_size: int) -> Share:
        """Return which of a step's rows are a rank's."""
        if self._shares is not None:
            own = self._shares.users_of(rank, world_size)
            return np.flatnonzero((rows >= own.start) & (rows < own.stop))
        block = self.plan.user_block
        if not block:
            return slice(len(rows) * rank // world_size, len(rows) * (rank + 1) // world_size)
        users = rows if self.row_users is not None else self.train.users[rows]
        return np.flatnonzero((users >= rank * block) & (users < (rank + 1) * block))

    def _share_and_counts(
        self, rows: np.ndarray, rank: int, world_size: int
    ) -> tuple[np.ndarray, Share, list[int]]:
        """Return a step's rows, which of them are a rank's, and how many each rank has if they are gathered.

        Gathered rows are in the order of the ranks.
        """
        if not self.plan.rows_gathered or world_size == 1:
            return rows, self._share(rows, rank, world_size), []
        by_rank = [rows[self._share(rows, each, world_size)] for each in range(world_size)]
        counts = [len(share) for share in by_rank]
        return np.concatenate(by_rank), slice(sum(counts[:rank]), sum(counts[: rank + 1])), counts

    def _cuts(self, candidates: np.ndarray, world_size: int) -> np.ndarray:
        """Return where each rank's share of the candidate set begins, and the end of the last."""
        ranks = np.arange(world_size + 1)
        if self.plan.item_block:
            return np.searchsorted(candidates, ranks * self.plan.item_block)
        return len(candidates) * ranks // world_size

    def _positives(
        self, rows: np.ndarray, share: Share
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return users of a share of the rows, positives of each, their items, and the items of all rows."""
        mine = rows[share]
        if self.plan.rows == "interaction":
            all_items = self.train.items[rows]
            return self.train.users[mine], np.ones(len(mine), np.int64), all_items[share], all_items
        lengths, items = self.train_by_user.take(mine)
        # The catalogue is the same whatever the step's items are.
        enough = self.plan.candidates == "catalogue" or len(mine) == len(rows)
        return mine, lengths, items, items if enough else self.train_by_user.take(rows)[1]

    def _values(self, rows: np.ndarray) -> torch.Tensor | None:
        """Return the values of the interactions in `rows` if the loss is pointwise."""
        if self.plan.candidates != "own" or self.train.values is None:
            return None
        return torch.from_numpy(self.train.values[rows])

    def _interactions(self, rows: np.ndarray) -> int:
        """Return the number of interactions in a step's rows."""
        if self.plan.rows == "interaction":
            return len(rows)
        return int((self.train_by_user.offsets[rows + 1] - self.train_by_user.offsets[rows]).sum())

    def _history(self, step: int, rows: np.ndarray, share: Share) -> History | None:
        """Return the histories of the rows in `share`, or None if the query tower looks up none."""
        if USER_HISTORY not in self.user_inputs:
            return None
        assert isinstance(share, slice), "tables of histories are not cut by users"
        by_interaction = self.plan.rows == "interaction"
        return draw_history(
            self.train_by_user,
            self.train.users[rows] if by_interaction else rows,
            share,
            self.train.items[rows[share]] if by_interaction else None,
            chance=self.plan.history_dropout,
            seed=self.plan.seed,
            step=step,
        )

    def _queries(self, users: np.ndarray, history: History | None) -> KeyedJaggedTensor:
        shown = None if history is None else {USER_HISTORY: history.shown}
        return keyed_jagged(self.user_inputs, users, shown)

    def _looked_up(self, step: int, items: np.ndarray, share: Share, count: int) -> KeyedJaggedTensor:
        """Return the features of a rank's share of `count` candidates, with some ids dropped."""
        if not self.plan.item_id_dropout:
            return keyed_jagged(self.item_inputs, items)
        ids = drop_item_ids(
            items,
            share,
            count=count,
            reserved=self.item_count,
            chance=self.plan.item_id_dropout,
            seed=self.plan.seed,
            step=step,
        )
        bags: Bags = np.ones(len(items), np.int64), ids
        # Its own bias would reveal its popularity, which is unknown for a new item.
        column = self.item_inputs[self.item_name]
        own = column.take(ids) if isinstance(column, Ragged) else bags  # hashed: the last bag is reserved
        dropped = {self.item_name: own, f"{self.item_name}_bias": bags}
        return keyed_jagged(self.item_inputs, items, dropped)

    def _masks_more(self) -> bool:
        """Return whether rows have seen items that are no positives."""
        masks = self.plan.mask_known and self.plan.candidates != "own"
        return masks and (self.plan.rows == "interaction" or USER_HISTORY in self.user_inputs)

    def _seen(self, users: np.ndarray, candidates: Candidates, columns: slice | None) -> torch.Tensor:
        lengths, items = self.train_by_user.take(users)
        positions, present = candidates.positions(items)
        return pairs(lengths, np.where(present, positions, -1), columns or slice(0, len(candidates.items)))

    def _with_negatives(
        self, rows: np.ndarray, share: Share, items: np.ndarray, negatives: Negatives | None
    ) -> np.ndarray:
        """Return the items of a step's positives and of its explicit negatives, of which some are given."""
        # The catalogue holds them all.
        if negatives is None or self.plan.candidates == "catalogue":
            return items
        if len(rows[share]) < len(rows):
            users = rows if self.row_users is not None else self.train.users[rows]
            negatives = self.interaction_weights.of_negatives(users)
            assert negatives is not None
        return np.concatenate([items, negatives.items])

    def _negatives(
        self, negatives: Negatives | None, candidates: Candidates, columns: slice | None
    ) -> dict[str, Any]:
        if negatives is None:
            return {}
        positions = candidates.positions(negatives.items)[0]
        return {
            "negatives": pairs(negatives.lengths, positions, columns),
            "negative_weights": inside(positions, negatives.weights, columns),
        }

    def _weights(self, rows: np.ndarray) -> torch.Tensor:
        if self.row_weights is None:
            return torch.ones(len(rows))
        return torch.from_numpy(self.row_weights[rows])


def batches(source: Batches, steps: int, rank: int, world_size: int, start: int = 0) -> Iterator[Batch]:
    """Yield one rank's batches from step `start` to the last, on the CPU."""
    for step in range(start, steps):
        yield source.make(step, rank, world_size)
