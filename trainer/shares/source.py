"""A source of which a host keeps the rows of its own users."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from trainer.config.schema import DataConfig
from trainer.errors import DataError
from trainer.sources.configured import buckets_on_disk
from trainer.sources.schema import SourceTables
from trainer.storage.user_buckets import HASH, user_buckets


@dataclass(frozen=True)
class Buckets:
    """The buckets of users, dealt to the shares in turn: share s has those that are s modulo `shares`.

    Attributes:
        count: Number of buckets.
        shares: Number of shares.
        partitioned: Whether the interactions are partitioned by bucket, so that others are never opened.
    """

    count: int
    shares: int
    partitioned: bool

    def of(self, shares: Collection[int]) -> list[int]:
        """Return the buckets of some shares, ascending."""
        return [bucket for bucket in range(self.count) if bucket % self.shares in shares]

    def shares_of(self, ids: pa.Array) -> np.ndarray:
        """Return the share of each raw id, (n,) int32."""
        return user_buckets(ids, self.count) % self.shares


def buckets_of(data: DataConfig, shares: int) -> Buckets:
    """Return the buckets of a source: those of a partitioned folder, else one a share.

    Raises:
        DataError: The folder is partitioned by another hash, or into too few buckets.
    """
    found, folder = buckets_on_disk(data), data.interactions
    if found is None:
        return Buckets(shares, shares, partitioned=False)
    count, name = found
    if name != HASH:
        raise DataError(
            f"{folder}: is partitioned by {name}, expected {HASH}. Partition it anew, or read a copy "
            "without _user_buckets.json, all of it on each host"
        )
    if count < shares:
        raise DataError(
            f"{folder}: is partitioned into {count} buckets of users, expected at least {shares}, one a "
            f"rank. Partition it into more, for instance {4 * shares}, or start fewer ranks"
        )
    return Buckets(count, shares, partitioned=True)


def own_rows(source: SourceTables, buckets: Buckets, shares: Collection[int], name: str) -> SourceTables:
    """Return a source with the interactions of the users of some shares, and without attributes of users.

    Args:
        source: The whole source, or the files of these shares' buckets.
        buckets: Buckets of all users.
        shares: The shares.
        name: Name of the data set, for messages.
    """
    wanted = np.isin(np.arange(buckets.shares), [*shares])

    def kept(batches: Iterator[pa.RecordBatch], partitioned: bool) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            column = batch.column("user_id").dictionary_encode()
            stays = wanted[buckets.shares_of(column.dictionary)][column.indices.to_numpy()]
            if partitioned and not stays.all():
                user = batch.column("user_id")[int(np.flatnonzero(~stays)[0])].as_py()
                raise DataError(
                    f"{name}: user {user!r} is in a folder of another bucket than by {HASH}. Partition "
                    "--data.interactions anew"
                )
            yield batch.filter(pa.array(stays))

    return replace(
        source,
        interactions=kept(source.interactions, buckets.partitioned),
        held_out=None if source.held_out is None else kept(source.held_out, False),
        users=None,
    )
