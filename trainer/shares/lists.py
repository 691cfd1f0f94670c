"""Training items of the users of a step, of which each rank has those of its own users."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from trainer.dataset.dataset import Dataset
from trainer.distributed.world import World
from trainer.storage.attributes import Ragged
from trainer.storage.user_shares import UserShares


@dataclass(frozen=True)
class ExchangedLists(Ragged):
    """Training items by user, as if this host had those of all hosts.

    Lengths are known everywhere; items travel when they are taken, 4 bytes each.

    Attributes:
        own: Items of this host's users.
        cuts: First user of each rank, and the end of the last.
        world: All ranks.
        group: A process group of their own, since a thread may make batches in advance.
    """

    own: Ragged
    cuts: np.ndarray
    world: World
    group: Any

    @classmethod
    def of(cls, dataset: Dataset, shares: UserShares, world: World) -> "ExchangedLists":
        """Return the lists of all users, of which nothing is exchanged yet; called by every rank alike."""
        offsets = np.append(0, np.cumsum(shares.lengths["train"], dtype=np.int64))
        own, nothing = dataset.train_by_user(), np.empty(0, np.int32)
        return cls(offsets, nothing, own, shares.cuts, world, world.new_group())

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return lengths and items of users; called by every rank alike, with the same users.

        Args:
            rows: (n,) users, those of rank 0 first, then those of rank 1, and so on.
        """
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        owners = np.searchsorted(self.cuts, rows, side="right") - 1
        totals = np.bincount(owners, lengths, self.world.size).astype(np.int64)
        mine = torch.zeros(int(totals.max(initial=0)), dtype=torch.int32)
        own = self.own.take(rows[owners == self.world.rank])[1]
        mine[: len(own)] = torch.from_numpy(own)
        parts = [torch.empty_like(mine) for _ in totals]
        dist.all_gather(parts, mine, group=self.group)
        items = [part[:total] for part, total in zip(parts, totals.tolist(), strict=True)]
        return lengths, torch.cat(items).numpy()
