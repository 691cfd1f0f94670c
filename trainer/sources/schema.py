"""What every reader returns: raw ids as in the files; nothing is joined, encoded or split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from trainer.tables.bad_rows import BadRows


@dataclass
class SourceTables:
    """One data set as its reader found it.

    Attributes:
        interactions: Record batches with the columns `user_id` and `item_id` (both int64, or both/either
            string; no nulls), and, where the source has them, `value` (float32), `timestamp` (int64
            seconds) and `weight` (float32 from 0 up); every batch has the same schema. Can be consumed once,
            in file order.
        held_out: The same for a separate held-out file, or None.
        impressions: The same for pairs that were shown and not taken, or None; they have no values, and ids
            of types of their own.
        users: A row a user: `user_id`, then attributes; or None. Users without interactions may occur.
        items: A row an item: `item_id`, perhaps `title` (string), then attributes; or None. What their
            types mean says `trainer.storage.attributes`.
        item_name: What an item is called in the tables and texts of this data set: `movie` or `item`.
        bad_rows: Filled while the interactions are consumed.
        vectors: Dense vectors in files of their own, by side (`user`, `item`) and name: tables with the
            columns `id` and `vector`.
        remarks: What was guessed of an attribute, or why it is left out, by side and name.
    """

    interactions: Iterator[pa.RecordBatch]
    held_out: Iterator[pa.RecordBatch] | None = None
    users: pa.Table | None = None
    items: pa.Table | None = None
    item_name: str = "item"
    bad_rows: BadRows = field(default_factory=BadRows)
    vectors: Mapping[str, Mapping[str, pa.Table]] = field(default_factory=dict)
    remarks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    impressions: Iterator[pa.RecordBatch] | None = None
