"""Minimum value, duplicates and k-core in Spark SQL; `trainer.dataset.clean` says what they mean."""

from dataclasses import dataclass

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from trainer.dataset.clean import all_below, no_values, none_stays
from trainer.spark.reading import PLACE

LAST = "last"
"""Column of the last row of a pair that stands several times, whose first row stays."""
OTHERS = ("value", "weight")


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
        enough = F.col("value") >= F.lit(min_value).cast("float")
        stay, largest = rows.agg(F.count_if(enough), F.max("value")).first()
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
    pair = Window.partitionBy("user_id", "item_id")
    has_order = "timestamp" in rows.columns
    by_time: list[Column] = [F.col(name) for name in ("timestamp", PLACE) if name in rows.columns]
    if keep_first and has_order:
        if keep_last_too:
            columns = [name for name in ("timestamp", PLACE, *OTHERS) if name in rows.columns]
            last = F.max(F.struct(*columns)).over(pair)
            rows = rows.withColumn(LAST, F.when(F.count("*").over(pair) > 1, last))
        ranks = by_time
    else:
        ranks = [(F.col(PLACE) >= held_out_from).desc(), *(column.desc() for column in by_time)]
    return rows.withColumn("rank", F.row_number().over(pair.orderBy(*ranks))).where("rank = 1").drop("rank")


def _core(rows: DataFrame, count: int, k: int, partitions: int) -> tuple[DataFrame, int]:
    """Return the k-core, which is the same in whatever order rows are dropped, and its number of rows."""
    while count:
        fewer = rows
        for side in ("user_id", "item_id"):
            enough = fewer.groupBy(side).count().where(F.col("count") >= k).select(side)
            fewer = fewer.join(enough, side, "left_semi")
        # Written out, so that a round does not stand on all rounds before.
        fewer = fewer.repartition(partitions, "user_id").localCheckpoint()
        before, count = count, fewer.count()
        rows.unpersist()
        rows = fewer
        if count == before:
            break
    return rows, count
