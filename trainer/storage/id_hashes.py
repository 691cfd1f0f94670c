"""Rows of raw ids by hashing: two of a fixed number of rows for any id, known or not.

The rows are a pure function of the id's text and of the number of rows, so that an id has the same ones in
every training, on every machine, and before anything has been trained on it. A single hash would give many
ids the same row; two ids whose pairs differ are told apart even where they share one of them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from trainer.formatting import format_count
from trainer.storage.attributes import Ragged

KEYS = ("shardtower:row:1", "shardtower:row:2")
"""Keys of the two hashes, 16 bytes each. With others, tables of earlier runs would be of no use."""
HASHES = len(KEYS)
"""Rows of an id."""
HASHED_AT_ONCE = 2**20
"""Ids that are Python strings at a time."""


@dataclass(frozen=True)
class Collisions:
    """How many ids share rows.

    Attributes:
        ids: Ids that are hashed.
        rows: Rows among which they are hashed.
        sharing_both: Ids both of whose rows are also those of another id: nothing tells these apart.
        ids_per_row: Mean number of ids that look up a row.
    """

    ids: int
    rows: int
    sharing_both: int
    ids_per_row: float


def hashed_rows(ids: pa.Array, rows: int) -> np.ndarray:
    """Return the two rows of each id, (n, 2) int32; the two of one id differ.

    Each of the `rows` (`rows` - 1) ordered pairs is equally likely: the second hash counts from the row after
    that of the first, around the table, and never as far as to that row again.

    Args:
        ids: Raw ids; integers are hashed as their text.
        rows: Rows of the table, at least 2.

    Source: SipHash-2-4 (Aumasson and Bernstein, INDOCRYPT 2012), mixed as in `pandas.util.hash_array`; two
        hashes for one vector as in Svenstrup et al., Hash Embeddings (NeurIPS 2017), without learned weights.
    """
    found = np.empty((len(ids), HASHES), np.int32)
    for start in range(0, len(ids), HASHED_AT_ONCE):
        texts = ids.slice(start, HASHED_AT_ONCE).cast(pa.string()).to_numpy(zero_copy_only=False)
        first, second = (
            pd.util.hash_array(texts.astype(object), hash_key=key, categorize=False) for key in KEYS
        )
        first %= np.uint64(rows)
        second = (first + np.uint64(1) + second % np.uint64(rows - 1)) % np.uint64(rows)
        found[start : start + len(texts)] = np.stack([first, second], axis=1)
    return found


def hashed_bags(ids: pa.Array, rows: int, reserved: np.ndarray | None = None) -> Ragged:
    """Return what each id looks up, (n + 1) bags: its two rows, and in the last bag the reserved row `rows`.

    Args:
        ids: Raw ids.
        rows: Rows among which ids are hashed; one more is reserved.
        reserved: (n,) bool, ids that look up the reserved row too; None: no id does.
    """
    pairs, has_own = hashed_rows(ids, rows), np.ones(len(ids) + 1, bool)
    has_own[-1] = False
    if reserved is not None:
        has_own[:-1] = ~reserved
    offsets = np.append(0, np.cumsum(np.where(has_own, HASHES, 1)))
    values = np.full(offsets[-1], rows, np.int32)
    values[np.repeat(has_own, np.diff(offsets))] = pairs[has_own[:-1]].ravel()
    return Ragged(offsets, values)


def collisions(bags: Ragged) -> Collisions:
    """Count the collisions of ids in bags that `hashed_bags` made; the reserved row does not count."""
    rows = int(bags.values[-1])
    pairs = np.sort(bags.take(np.flatnonzero(bags.lengths() == HASHES))[1].reshape(-1, HASHES), axis=1)
    # The sum of two rows does not tell which was first.
    _, alike = np.unique(pairs[:, 0].astype(np.int64) * rows + pairs[:, 1], return_counts=True)
    sharing = int(alike[alike > 1].sum())
    return Collisions(len(pairs), rows, sharing, HASHES * len(pairs) / rows)


def expected_collisions(ids: int, rows: int) -> Collisions:
    """Return what `collisions` can be expected to count: of n ids n (1 - (1 - 1/P)^(n - 1)) share both rows.

    P is the number of different pairs of rows.

    Args:
        ids: Number of ids.
        rows: Rows among which they are hashed.
    """
    pairs = rows * (rows - 1) / 2
    sharing = ids if pairs == 1 else -ids * np.expm1((ids - 1) * np.log1p(-1 / pairs))
    return Collisions(ids, rows, round(float(sharing)), HASHES * ids / rows)


def ids_sharing(bags: Ragged, rows: np.ndarray) -> int:
    """Return how many ids look up at least one of `rows`, in bags that `hashed_bags` made."""
    owners = np.repeat(np.arange(len(bags.offsets) - 1), bags.lengths())
    return len(np.unique(owners[np.isin(bags.values, rows)]))


def collisions_text(side: str, counts: Collisions, *, expected: bool = False) -> str:
    """Return the collisions of one side's ids, `user` or what an item is called, as a sentence."""
    sharing, mean = counts.sharing_both, counts.ids_per_row
    ids_per_row = f"{mean:,.0f}" if mean >= 10 else f"{mean:.2g}"
    return (
        f"{side} ids: {counts.ids:,} in {format_count(counts.rows, 'row')} by two hashes; "
        f"{'about ' if expected else ''}{sharing:,} {'shares' if sharing == 1 else 'share'} both rows with "
        f"another; a row has {ids_per_row} {'id' if ids_per_row == '1' else 'ids'} on average."
    )


def collisions_report(counts: Mapping[str, Collisions]) -> dict[str, Any]:
    """Return the collisions of each side as `metrics.json` holds them; empty where no ids are hashed."""
    return {"hashed": {side: asdict(each) for side, each in counts.items()}} if counts else {}
