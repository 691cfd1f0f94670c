"""What a host knows of all users where it holds the interactions of its own alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.storage.arrays import map_array

COUNTED = ("train", "validation", "test")


@dataclass(frozen=True)
class UserShares:
    """Users in shares, one a rank of the training, and counts over all of them.

    Users are numbered share by share, and by raw id within one, so that the numbers depend on the number of
    shares and not on the number of hosts.

    Attributes:
        cuts: (shares + 1,) int64; share s has the users `cuts[s]` to below `cuts[s + 1]`.
        lengths: (users + 1,) int32 interactions of each user by split; the last is 0, of unknown users.
        item_counts: (items,) int64 training interactions of each item.
        digests: SHA-256 of each split, over the digests of its shares.
    """

    cuts: np.ndarray
    lengths: dict[str, np.ndarray]
    item_counts: np.ndarray
    digests: dict[str, str]

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def users_of(self, rank: int, world_size: int) -> slice:
        """Return the users of a rank: those of one share in the training, in an evaluation of several."""
        first, last = (len(self) * each // world_size for each in (rank, rank + 1))
        return slice(int(self.cuts[first]), int(self.cuts[last]))

    def count(self, split: str) -> int:
        """Return the interactions of a split over all hosts."""
        return int(self.lengths[split].sum(dtype=np.int64))

    @property
    def block(self) -> int:
        """Rows of each share in the table of users: as many as the largest has users, and a spare one."""
        return int(np.diff(self.cuts).max()) + 1

    @property
    def table_rows(self) -> int:
        """Rows of the table of users; the last, a spare one, is that of unknown users."""
        return len(self) * self.block

    def rows_in_table(self) -> np.ndarray:
        """Return the row of each user in the table, and last that of unknown users, (users + 1,) int32."""
        rows = np.arange(self.cuts[-1] + 1)
        shares = np.searchsorted(self.cuts, rows[:-1], side="right") - 1
        rows[:-1] += shares * self.block - self.cuts[shares]
        rows[-1] = self.table_rows - 1
        return rows.astype(np.int32)


def write_user_shares(folder: Path, shares: UserShares) -> dict[str, Any]:
    """Write the arrays into the folder of a prepared data set; return what its `meta.json` is to say."""
    np.save(folder / "share_cuts.npy", shares.cuts)
    np.save(folder / "share_item_counts.npy", shares.item_counts)
    for split, lengths in shares.lengths.items():
        np.save(folder / f"share_{split}_lengths.npy", lengths)
    return {"user_shares": shares.digests}


def map_user_shares(folder: Path, meta: dict[str, Any]) -> UserShares | None:
    """Return what `write_user_shares` wrote, memory-mapped; None where a host has all users."""
    if "user_shares" not in meta:
        return None

    def mapped(name: str) -> np.ndarray:
        found = map_array(folder, f"share_{name}")
        assert found is not None, "meta.json names the file"
        return found

    lengths = {split: mapped(f"{split}_lengths") for split in COUNTED}
    return UserShares(mapped("cuts"), lengths, mapped("item_counts"), meta["user_shares"])
