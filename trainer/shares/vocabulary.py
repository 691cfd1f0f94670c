"""Ids of all hosts: one catalogue, and users numbered share by share."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.dataset.encode import Encoded
from trainer.dataset.write_splits import by_appearance
from trainer.errors import DataError
from trainer.shares.hosts import Hosts
from trainer.shares.source import Buckets
from trainer.storage.columns import Stored, blocks

Cuts: TypeAlias = np.ndarray
"""(shares + 1,) int64: share s has the users `cuts[s]` to below `cuts[s + 1]`."""


def with_common_ids(encoded: Encoded, hosts: Hosts) -> Encoded:
    """Return interactions with the items of all hosts, by raw id, in place of this host's by appearance.

    Ids are texts everywhere if they are on one host: a host may have seen whole numbers alone.

    Raises:
        DataError: Hosts have other columns.
    """
    first, *others = hosts.exchange([*encoded.columns])
    for other in others:
        if sorted(other) != sorted(first):
            raise DataError(
                f"--data.interactions: one host has the columns {', '.join(first)}, another "
                f"{', '.join(other)}. Give all hosts files with the same columns"
            )
    types = hosts.exchange({column: str(ids.type) for column, ids in encoded.ids.items()})
    ids = {
        column: found.cast(pa.string()) if "string" in {each[column] for each in types} else found
        for column, found in encoded.ids.items()
    }
    items = sorted_union(hosts.exchange(ids["item_id"]))
    codes = pc.index_in(ids["item_id"], value_set=items).to_numpy().astype(np.int32)
    column = encoded.columns["item_id"]
    target = column.path.with_name("common_item_id")
    with target.open("wb") as file:
        for _, block in blocks(column):
            codes[block].tofile(file)
    column.path.unlink()
    columns = encoded.columns | {"item_id": Stored(target, np.int32, column.rows)}
    return replace(encoded, columns=columns, ids=ids | {"item_id": items})


def sorted_union(ids: Iterable[pa.Array]) -> pa.Array:
    """Return the ids that stand in any of the arrays, each once: numbers by size, texts by their bytes."""
    found = pc.unique(pa.chunked_array([*ids]))
    return found.take(pc.sort_indices(found))


class CommonNumbers:
    """Numbers the ids that are used on any host.

    Attributes:
        cuts: Users of each share, once they are numbered.
    """

    def __init__(self, hosts: Hosts, buckets: Buckets, own: range) -> None:
        """Number nothing yet.

        Args:
            hosts: All hosts.
            buckets: Buckets of all users.
            own: Shares of this host.
        """
        self._hosts, self._buckets, self._own = hosts, buckets, own
        self.cuts: Cuts = np.zeros(buckets.shares + 1, np.int64)

    def number(self, ids: pa.Array, column: str, used: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """Return ids by their rows and the row of each, as `by_appearance` does."""
        if column == "item_id":  # in one order on all hosts already
            return by_appearance(ids, column, self._hosts.sum(used) > 0)
        return self._number_users(ids, used)

    def _number_users(self, ids: pa.Array, used: np.ndarray) -> tuple[pa.Array, np.ndarray]:
        """Number users by share, then by raw id; those of other hosts have no id here."""
        shares = np.where(used, self._buckets.shares_of(ids), self._buckets.shares)
        places = np.empty(len(ids), np.int64)
        places[pc.sort_indices(ids).to_numpy()] = np.arange(len(ids))
        order = np.lexsort((places, shares))[: np.count_nonzero(used)]
        counts = np.bincount(shares[order], minlength=self._buckets.shares)
        self.cuts[1:] = np.cumsum(self._hosts.sum(counts))
        first, last = self.cuts[self._own.start], self.cuts[self._own.stop]
        rows = np.full(len(ids), -1, np.int32)
        rows[order] = np.arange(first, last)
        before, after = (pa.nulls(int(count), ids.type) for count in (first, self.cuts[-1] - last))
        return pa.concat_arrays([before, ids.take(pa.array(order)), after]), rows
