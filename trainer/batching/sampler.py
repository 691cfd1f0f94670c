"""Batches: how a step is cut from a training part, and a rank's part from the step.

A batch is a pure function of (seed, step, rank, world size). The rows of a step and its candidate set do not
depend on the world size; each rank takes its contiguous part of both, or those whose table rows it has. It
scores its rows with the candidates of all ranks, or its candidates with the rows of all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torchrec import KeyedJaggedTensor

from trainer.batching.batch import Batch
from trainer.batching.candidates import Candidates, catalogue, in_batch, of_rows, sampled
from trainer.batching.history_dropout import Bags, History, split_history
from trainer.batching.tower_inputs import USER_HISTORY, Inputs, keyed_jagged
from trainer.dataset.attributes import Ragged
from trainer.dataset.dataset import Dataset, Interactions

Share: TypeAlias = slice | np.ndarray
"""A rank's rows of a step, or positions of them."""
ORDER, SAMPLES, HIDDEN, RESERVED = 1, 2, 3, 4
"""First words of seeds: streams of different purposes never coincide."""


@dataclass(frozen=True)
class BatchPlan:
    """How steps are cut from a training part.

    Attributes:
        rows: `user` (a user with all positives) or `interaction`.
        size: rows of a step over all ranks.
        seed: of order and samples.
        candidates: `catalogue`, `in_batch` or `sampled`; `own` scores row i's item alone (losses on values).
        samples: draws of `sampled`.
        popularity_power: an item's share of the draws goes with its training interactions to this power (0:
            all alike); an item without any is never drawn.
        logq: give candidates their log probability.
        mask_known: a user's other training items are seen pairs.
        user_weight_power: weight of a user row = training items ** power, scaled to 1 on average.
        history_dropout: chance that an item is hidden from the history, if there is one. Then the positives
            of a user row are the hidden items alone, and the item of an interaction row is always hidden.
        item_id_dropout: chance that a candidate looks up the reserved rows, of id and bias, in place of its
            own.
        rows_gathered: a rank scores its part of the candidates for the rows of all ranks; otherwise all
            candidates for its rows.
        user_block, item_block: rank r takes the rows whose users, and looks up the candidates that, are in
            the r-th block of so many table rows; 0: contiguous shares, wherever their table rows are.
    """

    rows: Literal["user", "interaction"]
    size: int
    seed: int
    candidates: Literal["catalogue", "in_batch", "sampled", "own"]
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


class Batches:
    """The steps of a training part."""

    def __init__(self, dataset: Dataset, plan: BatchPlan, user_inputs: Inputs, item_inputs: Inputs) -> None:
        self.plan, self.user_inputs, self.item_inputs = plan, user_inputs, item_inputs
        self.item_name, self.item_count = dataset.item_name, dataset.item_count
        self.train: Interactions = dataset.train
        self.train_by_user: Ragged = dataset.train_by_user()
        counts = self.train_by_user.lengths()
        by_user = plan.rows == "user"
        # Users without training interactions make no row.
        self.row_users = np.flatnonzero(counts) if by_user else None
        self.row_count = len(self.row_users) if self.row_users is not None else len(self.train)
        # Rows that hold each item: a row holds it once at most.
        self.holders = np.bincount(self.train.items, minlength=dataset.item_count)
        if plan.candidates == "catalogue":
            self.catalogue = catalogue(self.holders)
        if plan.candidates == "sampled":
            # An item that no row holds is never drawn: never a positive, it would only be pushed down.
            weight = np.where(self.holders > 0, self.holders.astype(np.float64) ** plan.popularity_power, 0)
            self.draw_share = weight / weight.sum()
            self.summed_share = np.cumsum(self.draw_share)
        self.order: tuple[int, np.ndarray] | None = None
        weights = counts[self.row_users].astype(np.float64) ** plan.user_weight_power if by_user else None
        self.user_weights = None
        if weights is not None:
            self.user_weights = np.zeros(len(counts), np.float32)
            self.user_weights[self.row_users] = weights / weights.mean()

    @property
    def steps_per_epoch(self) -> int:
        """Steps that visit every row once; the last one may be smaller."""
        return -(-self.row_count // self.plan.size)

    def rows_of_step(self, step: int) -> np.ndarray:
        """Users or interactions of a step over all ranks, in an order drawn anew for each epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self._order(epoch)[place * self.plan.size : (place + 1) * self.plan.size]
        return rows if self.row_users is None else self.row_users[rows]

    def _order(self, epoch: int) -> np.ndarray:
        """All row numbers, (row_count,), in the order of an epoch."""
        if self.order is None or self.order[0] != epoch:
            self.order = None  # an order is as long as the data: one makes room before the next is drawn
            rows = np.arange(self.row_count, dtype=np.int32 if self.row_count < 2**31 else np.int64)
            np.random.default_rng([ORDER, self.plan.seed, epoch]).shuffle(rows)
            self.order = epoch, rows
        return self.order[1]

    def make(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """One rank's batch of a step."""
        rows = self.rows_of_step(step)
        if self.plan.candidates == "own" and not self.plan.item_block:
            return self._make_pointwise(step, rows, self._share(rows, rank, world_size), rank)
        rows, share, query_counts = self._parted(rows, rank, world_size)
        scored = slice(0, len(rows)) if query_counts else share
        users, lengths, items, all_items = self._positives(rows, scored)
        candidates = self._candidates(step, rows, all_items)
        count = len(candidates.items)
        cuts = self._cuts(candidates.items, world_size)
        own = slice(cuts[rank], cuts[rank + 1])
        history = self._history(step, rows, scored)
        if history is not None and self.plan.rows == "user":
            lengths, items = history.hidden
        if not lengths.all():
            without = rows[scored][lengths == 0][0]
            raise ValueError(f"step {step}: {self.plan.rows} row {without} has no positive")
        log_q = candidates.log_q if self.plan.logq else None
        of_share = None
        if query_counts:
            of_share, log_q = own, None if log_q is None else log_q[own]
            history = self._history(step, rows, share)
        positives = _pairs(lengths, candidates.positions(items)[0], of_share)
        seen = self._seen(users, candidates, of_share) if self._masks_more() else positives
        return Batch(
            queries=self._queries(users[share] if query_counts else users, history),
            candidates=self._looked_up(step, candidates.items[own], own, count),
            positives=positives,
            positive_counts=torch.from_numpy(lengths.astype(np.int64)),
            seen=seen,
            log_q=None if log_q is None else torch.from_numpy(log_q),
            weights=self._weights(users),
            values=self._values(rows[share]),
            query_counts=query_counts,
            candidate_counts=[] if query_counts else np.diff(cuts).tolist(),
            rows=len(rows),
            interactions=self._interactions(rows),
            query_part=rank if self.plan.user_block else None,
            candidate_part=rank if self.plan.item_block else None,
        )

    def _make_pointwise(self, step: int, rows: np.ndarray, share: Share, rank: int) -> Batch:
        mine = rows[share]
        nothing = torch.zeros(2, 0, dtype=torch.int64)
        return Batch(
            queries=self._queries(self.train.users[mine], self._history(step, rows, share)),
            candidates=self._looked_up(step, self.train.items[mine], share, len(rows)),
            positives=nothing,
            positive_counts=torch.zeros(len(mine), dtype=torch.int64),
            seen=nothing,
            log_q=None,
            weights=torch.ones(len(mine)),
            values=self._values(mine),
            query_counts=[],
            candidate_counts=[],
            rows=len(rows),
            interactions=len(rows),
            query_part=rank if self.plan.user_block else None,
        )

    def _share(self, rows: np.ndarray, rank: int, world_size: int) -> Share:
        """Which of a step's rows are this rank's."""
        block = self.plan.user_block
        if not block:
            return slice(len(rows) * rank // world_size, len(rows) * (rank + 1) // world_size)
        users = rows if self.row_users is not None else self.train.users[rows]
        return np.flatnonzero((users >= rank * block) & (users < (rank + 1) * block))

    def _parted(self, rows: np.ndarray, rank: int, world_size: int) -> tuple[np.ndarray, Share, list[int]]:
        """A step's rows, which of them are this rank's, and, where they are gathered, how many each rank has.

        Where they are gathered, they stand in the order of the ranks.
        """
        if not self.plan.rows_gathered or world_size == 1:
            return rows, self._share(rows, rank, world_size), []
        parts = [rows[self._share(rows, each, world_size)] for each in range(world_size)]
        counts = [len(part) for part in parts]
        return np.concatenate(parts), slice(sum(counts[:rank]), sum(counts[: rank + 1])), counts

    def _cuts(self, candidates: np.ndarray, world_size: int) -> np.ndarray:
        """Where in the candidate set each rank's share begins, and the end of the last."""
        parts = np.arange(world_size + 1)
        if self.plan.item_block:
            return np.searchsorted(candidates, parts * self.plan.item_block)
        return len(candidates) * parts // world_size

    def _values(self, rows: np.ndarray) -> torch.Tensor | None:
        """Values of the interactions in `rows`, where a loss is on values."""
        if self.plan.candidates != "own" or self.train.values is None:
            return None
        return torch.from_numpy(self.train.values[rows])

    def _positives(
        self, rows: np.ndarray, share: Share
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Users of a rank's share of rows, positives of each, their items, and the items of all rows."""
        if self.plan.rows == "user":
            mine = rows[share]
            lengths, items = self.train_by_user.take(mine)
            of_catalogue = self.plan.candidates == "catalogue"  # whatever the step's items are
            all_items = items if of_catalogue or len(mine) == len(rows) else self.train_by_user.take(rows)[1]
            return mine, lengths, items, all_items
        all_items = self.train.items[rows]
        items = all_items[share]
        return self.train.users[rows[share]], np.ones(len(items), np.int64), items, all_items

    def _interactions(self, rows: np.ndarray) -> int:
        """Interactions of a step's rows."""
        if self.plan.rows == "interaction":
            return len(rows)
        return int((self.train_by_user.offsets[rows + 1] - self.train_by_user.offsets[rows]).sum())

    def _candidates(self, step: int, rows: np.ndarray, items: np.ndarray) -> Candidates:
        if self.plan.candidates == "catalogue":
            return self.catalogue
        if self.plan.candidates == "own":
            return of_rows(items, self.item_count)
        if self.plan.candidates == "in_batch":
            return in_batch(items, self.holders, len(rows), self.row_count)
        generator = np.random.default_rng([SAMPLES, self.plan.seed, step])
        return sampled(
            items,
            self.holders,
            len(rows),
            self.row_count,
            self.draw_share,
            self.summed_share,
            self.plan.samples,
            generator,
        )

    def _history(self, step: int, rows: np.ndarray, share: Share) -> History | None:
        """Histories of the rows in `share`, or None where the query tower looks up none."""
        if USER_HISTORY not in self.user_inputs:
            return None
        assert isinstance(share, slice), "tables of histories are not cut by users"
        own = self.train.items[rows[share]] if self.plan.rows == "interaction" else None
        users = rows if own is None else self.train.users[rows]
        history = self.train_by_user.take(users[share])
        # A rank skips the draws of the rows before its own: all ranks together draw what one would.
        before = users[: share.start]
        skipped = int((self.train_by_user.offsets[before + 1] - self.train_by_user.offsets[before]).sum())
        stream = np.random.PCG64([HIDDEN, self.plan.seed, step]).advance(skipped)
        draws = np.random.Generator(stream).random(len(history[1]))
        return split_history(history, self.plan.history_dropout, draws, own)

    def _queries(self, users: np.ndarray, history: History | None) -> KeyedJaggedTensor:
        shown = None if history is None else {USER_HISTORY: history.shown}
        return keyed_jagged(self.user_inputs, users, shown)

    def _looked_up(self, step: int, mine: np.ndarray, share: Share, count: int) -> KeyedJaggedTensor:
        """Features of this rank's share of `count` candidates, some with the reserved id and its bias."""
        if not self.plan.item_id_dropout:
            return keyed_jagged(self.item_inputs, mine)
        draws = np.random.default_rng([RESERVED, self.plan.seed, step]).random(count)[share]
        ids = np.where(draws < self.plan.item_id_dropout, self.item_count, mine)
        bags: Bags = np.ones(len(mine), np.int64), ids
        # A bias of their own would tell what nobody knows of a new item: its popularity.
        reserved = {self.item_name: bags, f"{self.item_name}_bias": bags}
        return keyed_jagged(self.item_inputs, mine, reserved)

    def _masks_more(self) -> bool:
        """Whether rows have seen items that are no positives."""
        masks = self.plan.mask_known and self.plan.candidates != "own"
        return masks and (self.plan.rows == "interaction" or USER_HISTORY in self.user_inputs)

    def _seen(self, users: np.ndarray, candidates: Candidates, share: slice | None) -> torch.Tensor:
        lengths, items = self.train_by_user.take(users)
        positions, present = candidates.positions(items)
        return _pairs(lengths, np.where(present, positions, -1), share or slice(0, len(candidates.items)))

    def _weights(self, users: np.ndarray) -> torch.Tensor:
        if self.user_weights is None:
            return torch.ones(len(users))
        return torch.from_numpy(self.user_weights[users])


def batches(source: Batches, steps: int, rank: int, world_size: int, start: int = 0) -> Iterator[Batch]:
    """One rank's batches from step `start` to the last, on the CPU."""
    for step in range(start, steps):
        yield source.make(step, rank, world_size)


def _pairs(lengths: np.ndarray, columns: np.ndarray, share: slice | None = None) -> torch.Tensor:
    """Pairs of row and column, (2, P); of those in a share of the columns, counted from its first.

    Args: lengths: of each row's columns.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    if share is not None:
        kept = np.flatnonzero((columns >= share.start) & (columns < share.stop))
        rows, columns = rows[kept], columns[kept] - share.start
    return torch.from_numpy(np.stack([rows, columns.astype(np.int64)]))
