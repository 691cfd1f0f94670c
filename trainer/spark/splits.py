"""Which split each row belongs to: the very rows that `trainer.dataset.split` chooses.

A random split shuffles the numbers of all rows, as scikit-learn does. Each draw depends on all before, so the
driver shuffles (6 bytes a row, as in `prepare`), and tasks read the splits of their rows. The draws of
`per_user` are made where they are needed, and rules by time need none.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, types
from pyspark.sql import functions as sql

from trainer.dataset.split import (
    BY_TIME,
    PARTS,
    TEST,
    TRAIN,
    VALIDATION,
    Rule,
    check_counts,
    last_of_each_user,
    split_rows,
    validation_rule,
)
from trainer.spark.cleaning import LAST
from trainer.spark.partitions import codes, mapped, stretches
from trainer.spark.reading import PLACE
from trainer.storage.draws import draws, share_by_draws

PART, DRAW = "part", "draw"
CHUNK_BITS = 20
"""Places of a chunk: rows that stand together in the files, which one task has in memory at once."""
BUCKETS = 4096
"""Buckets of a histogram by which a cut is found."""


def chunk() -> Column:
    """Return the number of a row's chunk; chunks are numbered in file order."""
    return sql.shiftright(sql.col(PLACE), CHUNK_BITS).alias("chunk")


def first_numbers(rows: DataFrame) -> dict[int, int]:
    """Return the number of the first of these rows in each chunk, if they are numbered in file order."""
    counts = sorted(rows.groupBy(chunk()).count().collect())
    numbers = np.cumsum([0, *(count for _, count in counts)])
    return {key: int(number) for (key, _), number in zip(counts, numbers, strict=False)}


def is_by_number(rule: Rule, has_order: bool) -> bool:
    """Return whether the split of a row follows from its number among all rows."""
    return rule in ("random", "given") or (rule == "none" and not has_order)


def split_by_number(
    file: Path, count: int, held_out: int, rule: Rule, settings: dict[str, Any]
) -> np.ndarray:
    """Write the split of each row, int8, in file order; return the rows of each split.

    Args:
        file: Is written.
        count: Number of rows.
        held_out: Rows of the held-out files, which are the last.
        rule: A rule of `is_by_number`.
        settings: Of the preparation.

    Raises:
        DataError: A split would be empty.
    """
    is_held_out = np.arange(count) >= count - held_out
    sizes = settings["test_size"], settings["validation_size"]
    seeds = settings["split_seed"], settings.get("validation_seed")
    parts = split_rows(rule, np.zeros(count, np.int8), None, is_held_out, *sizes, *seeds)
    parts.tofile(file)
    return np.bincount(parts, minlength=len(PARTS))


def with_parts(
    rows: DataFrame, count: int, rule: Rule, has_order: bool, settings: dict[str, Any], partitions: int
) -> DataFrame:
    """Return the rows with their split, PART, under a rule that is not by number.

    Args:
        rows: Rows that stay, partitioned by user.
        count: Number of rows.
        rule: Rule of the test split.
        has_order: Whether there are timestamps.
        settings: Of the preparation.
        partitions: Number of partitions.
    """
    test, validation = settings["test_size"], settings["validation_size"]
    seed = settings["split_seed"]
    rows = rows.withColumn(PART, sql.lit(TRAIN).cast("byte"))
    if rule != "none":
        rows = _cut(rows, count, rule, TEST, test, seed, partitions)
    if validation:
        rest = count
        if validation_rule(rule, has_order) == "temporal":  # the one rule that needs the number of rows
            rest = rows.where(sql.col(PART) == TRAIN).count()
        seed = settings.get("validation_seed", seed)
        rows = _cut(rows, rest, validation_rule(rule, has_order), VALIDATION, validation, seed, partitions)
    return rows


def check_parts(rule: Rule, has_order: bool, sizes: np.ndarray, with_validation: bool) -> None:
    """Refuse empty splits.

    Args:
        rule: Rule of the test split.
        has_order: Whether there are timestamps.
        sizes: Rows of each split.
        with_validation: Whether a validation split was cut.

    Raises:
        DataError: A split is empty.
    """
    if rule != "none":
        check_counts(rule, rule, np.array([sizes[TRAIN] + sizes[VALIDATION], 0, sizes[TEST]]), TEST)
    if with_validation:
        check_counts(rule, validation_rule(rule, has_order), sizes, VALIDATION)


def _cut(
    rows: DataFrame, count: int, rule: Rule, part: int, share: float, seed: int, partitions: int
) -> DataFrame:
    """Return the rows, of which those of TRAIN that the rule chooses have become `part`."""
    training = sql.col(PART) == TRAIN
    if rule == "temporal":
        chosen = training & _is_latest(rows.where(training), math.ceil(share * count))
        return rows.withColumn(PART, sql.when(chosen, sql.lit(part).cast("byte")).otherwise(sql.col(PART)))
    schema = rows.schema
    if rule == "per_user":
        rows = _with_draws(rows, training, seed, partitions).repartition(partitions, "user_id")
    return mapped(rows, lambda table: cut_by_user(table, part, share), schema)


def cut_by_user(table: pa.Table, part: int, share: float) -> pa.Table:
    """Return all rows of some users, of which the last of TRAIN, or a share of them by draws, is `part`."""
    parts = table[PART].to_numpy().copy()
    training = np.flatnonzero(parts == TRAIN)
    users = codes(table["user_id"])[0][training].astype(np.int32)
    if DRAW in table.column_names:
        drawn = table[DRAW].to_numpy()[training].astype(np.uint32)
        chosen = share_by_draws(users, drawn, share)
        table = table.drop_columns(DRAW)
    else:
        chosen = last_of_each_user(users, table["timestamp"].to_numpy()[training])
    parts[training[chosen]] = part
    return table.set_column(table.column_names.index(PART), PART, pa.array(parts, pa.int8()))


def _is_latest(rows: DataFrame, count: int) -> Column:
    """Return whether a row is one of the `count` latest; of rows of one second the last in file order."""
    second, later = kth_largest(rows, "timestamp", count)
    place, _ = kth_largest(rows.where(sql.col("timestamp") == second), PLACE, count - later)
    in_second = (sql.col("timestamp") == second) & (sql.col(PLACE) >= place)
    return (sql.col("timestamp") > second) | in_second


def kth_largest(rows: DataFrame, column: str, k: int) -> tuple[int, int]:
    """Return the k-th largest value of an integer column, and how many values are larger.

    Histograms of ever smaller ranges find it, so that nothing is sorted.
    """
    low, high = rows.agg(sql.min(column), sql.max(column)).first() or (0, 0)
    larger = 0
    while low < high:
        width = -(-(high - low + 1) // BUCKETS)
        inside = rows.where(sql.col(column).between(low, high))
        bucket = sql.expr(f"({column} - {low}L) div {width}L").alias("bucket")
        for number, count in sorted(inside.groupBy(bucket).count().collect(), reverse=True):
            if larger + count >= k:
                low, high = low + number * width, min(high, low + (number + 1) * width - 1)
                break
            larger += count
    return low, larger


def _with_draws(rows: DataFrame, training: Column, seed: int, partitions: int) -> DataFrame:
    """Return the rows; those of TRAIN have a draw by their number among them."""
    firsts = first_numbers(rows.where(training))
    schema = types.StructType([*rows.schema.fields, types.StructField(DRAW, types.LongType())])

    def work(table: pa.Table) -> pa.Table:
        trains, drawn = table[PART].to_numpy() == TRAIN, np.zeros(len(table), np.int64)
        for number, at in stretches(table[PLACE].to_numpy() >> CHUNK_BITS):
            if many := int(np.count_nonzero(trains[at])):
                drawn[at][trains[at]] = draws(firsts[number], many, seed)
        return table.append_column(DRAW, pa.array(drawn))

    return mapped(by_chunk(rows, partitions), work, schema)


def by_chunk(rows: DataFrame, partitions: int) -> DataFrame:
    """Return the rows in partitions of whole chunks."""
    return rows.repartition(partitions, chunk())


def repeats_of(rows: DataFrame, rule: Rule) -> DataFrame:
    """Return the rows in the time of the test split that repeat a pair from before it, as rows of it.

    Args:
        rows: With PART, and LAST where a pair stands several times.
        rule: A rule of `BY_TIME`; see `split.repeated_in_test`.
    """
    assert rule in BY_TIME
    moment, is_test = sql.struct("timestamp", PLACE), sql.col(PART) == TEST
    candidates = rows.where(sql.col(LAST).isNotNull() & ~is_test)
    if rule == "temporal":
        (first,) = rows.where(is_test).agg(sql.min(moment)).first() or ((),)
        begins = sql.struct(*(sql.lit(number).cast("long") for number in first))
    else:
        tests = rows.where(is_test).select("user_id", moment.alias("begins"))  # one of each user
        candidates, begins = candidates.join(tests, "user_id"), sql.col("begins")
    late = sql.struct(f"{LAST}.timestamp", f"{LAST}.{PLACE}") > begins
    found = candidates.where(late)
    names = rows.schema[LAST].dataType.fieldNames()  # pyrefly: ignore[missing-attribute]
    return found.select(
        *(
            sql.col(f"{LAST}.{name}" if name in names else name)
            for name in rows.columns
            if name not in (LAST, PART)
        ),
        sql.lit(TEST).cast("byte").alias(PART),
    )
