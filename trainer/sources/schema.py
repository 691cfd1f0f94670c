"""What every reader returns: raw ids as in the files; nothing is joined, encoded or split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from trainer.errors import DataError


@dataclass
class BadRows:
    """Counts lines that cannot be read, or stops at the first.

    Attributes:
        policy: `error` raises at the first bad line, `skip` counts it.
        skipped: Lines skipped so far.
        remedy: What the error tells the user to do.
    """

    policy: Literal["error", "skip"] = "error"
    skipped: int = 0
    remedy: str = "Skip such lines: --data.bad_rows skip"

    def found(self, place: str, fault: str, count: int = 1) -> None:
        """Count `count` bad lines, of which `fault` describes the first.

        Args:
            place: Where it stands, as `ratings.dat:48213`.
            fault: The value and the rule, as `rating is 'five', expected a number`.
            count: Number of bad lines.

        Raises:
            DataError: The policy is `error`.
        """
        if self.policy == "error":
            raise DataError(f"{place}: {fault}. {self.remedy}")
        self.skipped += count


@dataclass
class SourceTables:
    """One data set as its reader found it.

    Attributes:
        interactions: Record batches with the columns `user_id` and `item_id` (both int64, or both/either
            string; no nulls), and, where the source has them, `value` (float32) and `timestamp` (int64
            seconds); every batch has the same schema. Can be consumed once, in file order.
        held_out: The same for a separate held-out file, or None.
        users: A row a user: `user_id`, then attributes; or None. Users without interactions may occur.
        items: A row an item: `item_id`, perhaps `title` (string), then attributes; or None. What their
            types mean says `trainer.dataset.attributes`.
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
