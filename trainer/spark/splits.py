"""Which split each row belongs to: the very rows that `trainer.dataset.split` chooses.

A random split shuffles the numbers of all rows, as scikit-learn does. Each draw depends on all before, so the
driver shuffles (6 bytes a row, as in `prepare`), and tasks read the splits of their rows. The draws of
`per_user` are made where they are needed, and rules by time need none.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from trainer.dataset.split import (
    BY_TIME,
    PARTS,
    TEST,
    TRAIN,
    VALIDATION,
    Rule,
    check_counts,
    draws,
    split_rows,
    validation_rule,
)
from trainer.spark.cleaning import LAST
from trainer.spark.reading import PLACE

PART, DRAW = "part", "draw"
CHUNK_BITS = 20
"""Places of a chunk: rows that stand together in the files, which one task has in memory at once."""
BUCKETS = 4096
"""Buckets of a histogram by which a cut is found."""


def chunk() -> Column:
    """Return the number of a row's chunk; chunks are numbered in file order."""
    return F.shiftright(F.col(PLACE), CHUNK_BITS).alias("chunk")


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
    rows: DataFrame, count: int, rule: Rule, has_order: bool, settings: dict[str, Any]
) -> DataFrame:
    """Return the rows with their split, PART, under a rule that is not by number.

    Args:
        rows: Rows that stay, with `user`, `user_id` (both name the user) and, by time, `timestamp`.
        count: Number of rows.
        rule: Rule of the test split.
        has_order: Whether there are timestamps.
        settings: Of the preparation.
    """
    test, validation = settings["test_size"], settings["validation_size"]
    seed = settings["split_seed"]
    rows = rows.withColumn(PART, F.lit(TRAIN).cast("byte"))
    if rule != "none":
        rows = _cut(rows, count, rule, TEST, test, seed)
    if validation:
        rest = count
        if validation_rule(rule, has_order) == "temporal":  # the one rule that needs the number of rows
            rest = rows.where(F.col(PART) == TRAIN).count()
        seed = settings.get("validation_seed", seed)
        rows = _cut(rows, rest, validation_rule(rule, has_order), VALIDATION, validation, seed)
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


def _cut(rows: DataFrame, count: int, rule: Rule, part: int, share: float, seed: int) -> DataFrame:
    """Return the rows, of which those of TRAIN that the rule chooses have become `part`."""
    training = F.col(PART) == TRAIN
    if rule == "leave_last_out":
        # Rows of other splits come last, so that they change no rank.
        latest = [training.desc(), F.col("timestamp").desc(), F.col(PLACE).desc()]
        user = Window.partitionBy("user_id")
        rank, many = F.row_number().over(user.orderBy(*latest)), F.count_if(training).over(user)
        chosen = training & (rank == 1) & (many > 1)
    elif rule == "temporal":
        chosen = training & _is_latest(rows.where(training), math.ceil(share * count))
    else:
        assert rule == "per_user"
        rows = _with_draws(rows, training, seed)
        user = Window.partitionBy("user")
        rank = F.row_number().over(user.orderBy(training.desc(), DRAW, PLACE))
        many = F.count_if(training).over(user)
        chosen = training & (rank <= F.least(F.floor(F.lit(share) * many + 0.5), many - 1))
    cut = rows.withColumn("chosen", chosen)
    new = F.when(F.col("chosen"), F.lit(part).cast("byte")).otherwise(F.col(PART))
    return cut.withColumn(PART, new).drop("chosen", DRAW)


def _is_latest(rows: DataFrame, count: int) -> Column:
    """Return whether a row is one of the `count` latest; of rows of one second the last in file order."""
    second, later = kth_largest(rows, "timestamp", count)
    place, _ = kth_largest(rows.where(F.col("timestamp") == second), PLACE, count - later)
    in_second = (F.col("timestamp") == second) & (F.col(PLACE) >= place)
    return (F.col("timestamp") > second) | in_second


def kth_largest(rows: DataFrame, column: str, k: int) -> tuple[int, int]:
    """Return the k-th largest value of an integer column, and how many values are larger.

    Histograms of ever smaller ranges find it, so that nothing is sorted.
    """
    low, high = rows.agg(F.min(column), F.max(column)).first() or (0, 0)
    larger = 0
    while low < high:
        width = -(-(high - low + 1) // BUCKETS)
        inside = rows.where(F.col(column).between(low, high))
        bucket = F.expr(f"({column} - {low}L) div {width}L").alias("bucket")
        for number, count in sorted(inside.groupBy(bucket).count().collect(), reverse=True):
            if larger + count >= k:
                low, high = low + number * width, min(high, low + (number + 1) * width - 1)
                break
            larger += count
    return low, larger


def _with_draws(rows: DataFrame, training: Column, seed: int) -> DataFrame:
    """Return the rows; those of TRAIN have a draw by their number among them."""
    firsts = first_numbers(rows.where(training))
    schema = T.StructType([*rows.schema.fields, T.StructField(DRAW, T.LongType())])
    return rows.groupBy(chunk()).applyInArrow(lambda key, table: _draw(key, table, firsts, seed), schema)


def _draw(key: tuple[pa.Scalar], table: pa.Table, firsts: dict[int, int], seed: int) -> pa.Table:
    table = table.sort_by(PLACE)
    training = np.flatnonzero(table[PART].to_numpy() == TRAIN)
    found = np.zeros(len(table), np.int64)
    if len(training):
        found[training] = draws(firsts[key[0].as_py()], len(training), seed)
    return table.append_column(DRAW, pa.array(found))


def repeats_of(rows: DataFrame, rule: Rule) -> DataFrame:
    """Return the rows in the time of the test split that repeat a pair from before it, as rows of it.

    Args:
        rows: With PART, and LAST where a pair stands several times.
        rule: A rule of `BY_TIME`; see `split.repeated_in_test`.
    """
    assert rule in BY_TIME
    moment, is_test = F.struct("timestamp", PLACE), F.col(PART) == TEST
    if rule == "temporal":
        (first,) = rows.where(is_test).agg(F.min(moment)).first() or ((),)
        begins = F.struct(*(F.lit(number).cast("long") for number in first))
    else:
        begins = F.min(F.when(is_test, moment)).over(Window.partitionBy("user_id"))
    late = F.struct(f"{LAST}.timestamp", f"{LAST}.{PLACE}") > begins
    found = rows.withColumn("late", late & ~is_test).where(F.col(LAST).isNotNull() & F.col("late"))
    names = [field.name for field in rows.schema[LAST].dataType.fields]  # pyrefly: ignore
    return found.select(
        *(F.col(f"{LAST}.{name}").alias(name) if name in names else F.col(name) for name in _kept(rows) if name != PART),
        F.lit(TEST).cast("byte").alias(PART),
    )


def _kept(rows: DataFrame) -> Iterator[str]:
    return (name for name in rows.columns if name != LAST)
