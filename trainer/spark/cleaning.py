"""Minimum value, duplicates and k-core in Spark; `trainer.dataset.clean` says what they mean."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, types
from pyspark.sql import functions as sql

from trainer.dataset.clean import all_below, no_values, none_stays
from trainer.spark.partitions import codes, mapped
from trainer.spark.reading import PLACE
from trainer.storage.pairs import first_and_last_of_each_pair, last_of_each_pair, repeated_pairs

LAST = "last"
"""Column of the last row of a pair that stands several times, whose first row stays."""
OF_LAST = ("value", "timestamp", "weight", PLACE)
"""Its columns, where they are there."""


@dataclass(frozen=True)
class Cleaned:
    """Rows that stay.

    Attributes:
        rows: Each (user, item) pair once; partitioned by user.
        count: Number of rows.
        dropped: Rows that each rule dropped.
    """

    rows: DataFrame
    count: int
    dropped: dict[str, int]


def clean(
    rows: DataFrame,
    name: str,
    read: int,
    held_out_from: int,
    *,
    min_value: float | None,
    k_core: int,
    keep_first: bool,
    keep_last_too: bool,
    partitions: int,
) -> Cleaned:
    """Return the rows that stay, and how many each rule dropped.

    Args:
        rows: All rows.
        name: Name of the data set, for messages.
        read: Number of rows.
        held_out_from: First place of the held-out files.
        min_value: Smallest value that stays; None: all do.
        k_core: Least interactions of a user and of an item.
        keep_first: Of a pair that stands several times, keep the first row in time and not the last.
        keep_last_too: With `keep_first`, add the last row as the column LAST.
        partitions: Number of partitions of the result.

    Raises:
        DataError: Nothing stays, or there is a `min_value` and no values.
    """
    remaining = read
    dropped: dict[str, int] = {}
    if min_value is not None:
        if "value" not in rows.columns:
            raise no_values(name, min_value)
        enough = sql.col("value") >= sql.lit(min_value).cast("float")
        stay, largest = rows.agg(sql.count_if(enough), sql.max("value")).collect()[0]
        if largest < min_value:
            raise all_below(name, min_value, read, largest)
        rows = rows.where(enough)
        remaining = stay
        if not stay:
            raise none_stays(name, f"--data.min_value {min_value}", read)
    dropped["below_min_value"] = read - remaining
    rows = _without_duplicates(
        rows.repartition(partitions, "user_id"), held_out_from, keep_first, keep_last_too
    ).persist(StorageLevel.DISK_ONLY)
    before, remaining = remaining, rows.count()
    dropped["duplicates"] = before - remaining
    before = remaining
    if k_core > 1:
        rows, remaining = _core(rows, remaining, k_core, partitions)
    dropped["outside_k_core"] = before - remaining
    if not remaining:
        raise none_stays(name, f"--data.k_core {k_core}", before)
    return Cleaned(rows, remaining, dropped)


def _without_duplicates(
    rows: DataFrame, held_out_from: int, keep_first: bool, keep_last_too: bool
) -> DataFrame:
    """Return each (user, item) pair once; all rows of a user are in one partition."""
    keep_first = keep_first and "timestamp" in rows.columns
    fields = rows.schema.fields
    if keep_first and keep_last_too:
        last = types.StructType([field for field in fields if field.name in OF_LAST])
        fields = [*fields, types.StructField(LAST, last)]

    def work(table: pa.Table) -> pa.Table:
        return once(table, held_out_from, keep_first, keep_last_too)

    return mapped(rows, work, types.StructType(fields))


def once(table: pa.Table, held_out_from: int, keep_first: bool, keep_last_too: bool) -> pa.Table:
    """Return one row of each (user, item) pair, as `trainer.dataset.clean` chooses it.

    Args:
        table: All rows of some users, in file order.
        held_out_from: First place of the held-out files.
        keep_first: See `clean`; there are timestamps then.
        keep_last_too: See `clean`.
    """
    users, _ = codes(table["user_id"])
    items, count = codes(table["item_id"])
    pairs = users * count + items
    repeated = repeated_pairs(pairs)
    stays = np.ones(len(table), bool)
    lasts = np.full(len(table), -1)
    timestamps = table["timestamp"].to_numpy()[repeated] if "timestamp" in table.column_names else None
    if keep_first and timestamps is not None and len(repeated):
        ends = first_and_last_of_each_pair(pairs[repeated], timestamps)
        stays[repeated] = False
        stays[repeated[ends.first]] = True
        lasts[repeated[ends.first]] = repeated[ends.last]
    elif len(repeated):
        held_out = table[PLACE].to_numpy()[repeated] >= held_out_from
        stays[repeated] = last_of_each_pair(pairs[repeated], timestamps, held_out)
    kept = table.filter(pa.array(stays))
    if not (keep_first and keep_last_too):
        return kept
    chosen = lasts[stays]
    rows, alone = pa.array(np.maximum(chosen, 0)), pa.array(chosen < 0)
    names = [name for name in table.column_names if name in OF_LAST]
    values = [table[name].combine_chunks().take(rows) for name in names]
    return kept.append_column(LAST, pa.StructArray.from_arrays(values, names, mask=alone))


def _core(rows: DataFrame, count: int, k: int, partitions: int) -> tuple[DataFrame, int]:
    """Return the k-core, which is the same in whatever order rows are dropped, and its number of rows."""
    while count:
        fewer = rows
        for side in ("user_id", "item_id"):
            enough = fewer.groupBy(side).count().where(sql.col("count") >= k).select(side)
            fewer = fewer.join(enough, side, "left_semi")
        # Written out, so that a round does not stand on all rounds before.
        fewer = fewer.repartition(partitions, "user_id").localCheckpoint()
        before, count = count, fewer.count()
        rows.unpersist()
        rows = fewer
        if count == before:
            break
    return rows, count
