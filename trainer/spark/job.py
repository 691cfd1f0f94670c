"""The prepared form of data that one host cannot read in a night, as `trainer.dataset.build` writes it.

Stages: read (a task a file), clean, number ids, split, write columns in file order, write items by user. The
driver holds the ids of users and items and, for random splits, 6 bytes an interaction; never interactions.
"""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as sql

from trainer.config.schema import DataConfig
from trainer.dataset.build import FILE_ORDER, Rows, complete, counted
from trainer.dataset.encode import COLUMNS, id_notes
from trainer.dataset.prepare import prepare_data
from trainer.dataset.split import BY_TIME, PARTS, Rule, check_order
from trainer.errors import DataError
from trainer.sources.schema import SourceTables
from trainer.spark import splits
from trainer.spark.cleaning import LAST, Cleaned, clean
from trainer.spark.partitions import mapped
from trainer.spark.reading import PLACE, stage, units_of
from trainer.spark.splits import (
    PART,
    check_parts,
    chunk,
    first_numbers,
    is_by_number,
    repeats_of,
    split_by_number,
    with_parts,
)
from trainer.spark.writing import GROUP, ByUserWriter, ColumnWriter, make_columns

PARTITION_ROWS = 1 << 20
"""Rows of a partition while rows are cleaned and joined."""
GROUP_ROWS = 1 << 21
"""Rows of a group of users, which one task has in memory at once."""


def prepare_with(spark: SparkSession, data: DataConfig) -> Path:
    """Return the folder of the prepared data, which the job writes if it does not exist yet.

    Raises:
        UserError: An option, or the data, cannot be used.
    """
    return prepare_data(data, build_with=partial(build, data, spark))


def build(
    data: DataConfig,
    spark: SparkSession,
    folder: Path,
    source: SourceTables,
    key: str,
    name: str,
    settings: dict[str, Any],
) -> None:
    """Write a prepared data set; see `trainer.dataset.build.prepare`.

    Args:
        data: Where the source is, for tasks.
        spark: The session.
        folder: An empty folder that all executors see.
        source: Its attributes are used; its interactions are read by tasks.
        key: Of the prepared data.
        name: Name of the data set.
        settings: Of the preparation.

    Raises:
        DataError: The settings do not suit the source or leave nothing.
    """
    if settings["split"] == "given" and source.held_out is None:
        raise DataError(f"{name}: --data.split given needs a file of held-out interactions: --data.held_out")
    rule: Rule = settings["split"] if source.held_out is None or settings["split"] == "none" else "given"
    raw = folder / "raw"
    job = Job(spark, raw, source, data, name, settings, rule)
    prepared = job.prepare(folder, source)
    shutil.rmtree(raw)
    complete(folder, source, key, name, settings, prepared)


class Job:
    """Rows of a source -> cleaned rows -> the arrays of the prepared form.

    Attributes:
        spark: The session.
        raw: Folder of files that are gone in the end, which all executors see.
        staged: All rows.
        name: Name of the data set.
        settings: Of the preparation.
        rule: Rule of the test split.
        has_order: Whether it is known which interaction of a user came before another.
        has_times: Whether it is known in which second.
        columns: Columns of the prepared form.
        partitions: Number of partitions while rows are cleaned and joined.
    """

    def __init__(
        self,
        spark: SparkSession,
        raw: Path,
        source: SourceTables,
        data: DataConfig,
        name: str,
        settings: dict[str, Any],
        rule: Rule,
    ):
        def run(function: Callable, units: list) -> list:
            return spark.sparkContext.parallelize(units, len(units)).map(function).collect()

        raw = raw.absolute()
        (raw / "rows").mkdir(parents=True)
        self.spark, self.raw, self.name = spark, raw, name
        self.staged = stage(units_of(source, data), source, name, raw / "rows", run)
        self.settings, self.rule = settings, rule
        names, file_order = self.staged.schema.names, settings["order"] == "file"
        self.has_order = file_order or "timestamp" in names
        self.has_times = self.has_order and not file_order
        self.columns = [
            column for column in COLUMNS if column in names and (column != "timestamp" or self.has_times)
        ]
        self.partitions = max(spark.sparkContext.defaultParallelism, -(-self.staged.rows // PARTITION_ROWS))
        spark.conf.set("spark.sql.shuffle.partitions", str(self.partitions))

    def rows(self) -> DataFrame:
        """Return all rows."""
        rows = self.spark.read.parquet(self.staged.folder.as_uri())
        if self.has_order and not self.has_times:  # places tell the order
            rows = rows.withColumn("timestamp", sql.col(PLACE))
        return rows

    def cleaned(self) -> Cleaned:
        """Return the rows that stay."""
        return clean(
            self.rows(),
            self.name,
            self.staged.rows,
            self.staged.held_out_from,
            min_value=self.settings["min_value"],
            k_core=self.settings["k_core"],
            keep_first=self.rule in (*BY_TIME, "none"),
            keep_last_too=self.rule in BY_TIME,
            partitions=self.partitions,
        )

    def prepare(self, folder: Path, source: SourceTables) -> Rows:
        """Write all arrays; return what is to be said of them."""
        self.folder = folder
        cleaned = self.cleaned()
        check_order(self.rule, self.has_order)
        kept = cleaned.rows
        ids, used = {}, {}
        for side in ("user", "item"):
            ids[side], used[side] = self._ids(self.rows(), cleaned, side)
            kept = kept.join(self._numbers(used[side], side), f"{side}_id")
        notes = id_notes({f"{side}_id": found for side, found in ids.items()})
        notes += [FILE_ORDER] if self.settings["order"] == "file" else []
        counts = cleaned.count, len(used["user"]), len(used["item"])
        sizes, repeated = self._write(cleaned.rows, kept.drop("item_id"), *counts)
        self.spark.catalog.clearCache()
        dropped = dict(cleaned.dropped)
        dropped["duplicates"] -= int(sizes.sum()) - cleaned.count
        read, weightless = self.staged.rows, self.staged.weightless
        report = counted(source, read, weightless, repeated, dropped, self.rule, sizes.tolist())
        return Rows(used["user"], used["item"], self.rule, self.has_order, report, notes)

    def _ids(self, rows: DataFrame, cleaned: Cleaned, side: str) -> tuple[pa.Array, pa.Array]:
        """Return all raw ids in order of first appearance, and those among them that stay."""
        column = f"{side}_id"
        firsts = rows.groupBy(column).agg(sql.min(PLACE).alias("first"))
        all_stay = not (cleaned.dropped["below_min_value"] or cleaned.dropped["outside_k_core"])
        if not all_stay:
            stay = cleaned.rows.select(column).distinct().withColumn("stays", sql.lit(True))
            firsts = firsts.join(stay, column, "left")
        found = firsts.toArrow().sort_by("first")
        ids = found[column].cast(self.staged.schema.field(column).type).combine_chunks()
        if isinstance(ids, pa.ChunkedArray):
            ids = pa.concat_arrays(ids.chunks)
        return ids, ids if all_stay else ids.filter(found["stays"].is_valid().combine_chunks())

    def _numbers(self, ids: pa.Array, side: str) -> DataFrame:
        """Return a table of raw ids and their rows in the vocabulary, `user` or `item`."""
        path = self.raw / f"{side}s.parquet"
        numbers = pa.array(np.arange(len(ids), dtype=np.int32))
        parquet.write_table(pa.table({f"{side}_id": ids, side: numbers}), path, row_group_size=PARTITION_ROWS)
        return self.spark.read.parquet(path.as_uri())

    def _write(
        self, kept: DataFrame, rows: DataFrame, count: int, users: int, items: int
    ) -> tuple[np.ndarray, Mapping[str, int]]:
        """Split the rows and write all arrays.

        Args:
            kept: Rows that stay.
            rows: The same with rows of the vocabulary.
            count: Number of rows.
            users: Number of users.
            items: Number of items.

        Returns:
            The rows of each split; and `repeats_kept` or `repeats_dropped`, where the rule goes by time.
        """
        repeated: dict[str, int] = {}
        parts = None
        if is_by_number(self.rule, self.has_order):
            file = self.raw / "parts"
            held_out = kept.where(sql.col(PLACE) >= self.staged.held_out_from).count()
            sizes = split_by_number(file, count, held_out, self.rule, self.settings)
            parts = file, first_numbers(kept)
            firsts = _firsts_of_chunks(*parts)
        else:
            rows, firsts, sizes, repeated = self._split(rows, count)
        groups = max(1, min(users, int(sizes.sum()) // GROUP_ROWS))
        make_columns(self.folder, self.columns, sizes.tolist())
        writer = ColumnWriter(self.folder, self.columns, firsts, parts, users, groups, splits.CHUNK_BITS)
        order = "timestamp long, " if self.has_order else ""
        schema = f"{PLACE} long, user int, item int, {order}{PART} byte, {GROUP} int"
        written = mapped(splits.by_chunk(rows, self.partitions), writer, schema)
        written = written.persist(StorageLevel.DISK_ONLY)
        before, _ = _firsts(written.groupBy(GROUP, PART).count())
        by_user = ByUserWriter(
            self.folder, users, items, groups, before, self.has_order, self.has_times, bool(sizes[1])
        )
        by_user.make_files(sizes)
        mapped(written.repartition(self.partitions, GROUP), by_user, "rows long").collect()
        by_user.copy_offsets()
        return sizes, repeated

    def _split(
        self, rows: DataFrame, count: int
    ) -> tuple[DataFrame, dict[int, np.ndarray], np.ndarray, dict[str, int]]:
        """Split by user or by time; return the rows, where chunks begin, and as `_write` does."""
        rows = with_parts(rows, count, self.rule, self.has_order, self.settings, self.partitions)
        rows = rows.persist(StorageLevel.DISK_ONLY)
        firsts, sizes = _firsts(rows.groupBy(chunk(), PART).count())
        check_parts(self.rule, self.has_order, sizes, bool(self.settings["validation_size"]))
        if self.rule not in BY_TIME:
            return rows, firsts, sizes, {}
        keep = self.settings["repeats"] == "keep"
        again = repeats_of(rows, self.rule)
        repeated = {"repeats_kept" if keep else "repeats_dropped": again.count()}
        rows = rows.drop(LAST)
        if keep:
            rows = rows.unionByName(again)
            firsts, sizes = _firsts(rows.groupBy(chunk(), PART).count())
        return rows, firsts, sizes, repeated


def _firsts(counts: DataFrame) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Return the rows of all chunks or groups before each one in each split, and those of all.

    Args:
        counts: Rows of each chunk or group and split.
    """
    found: dict[int, np.ndarray] = {}
    for key, part, count in counts.collect():
        found.setdefault(key, np.zeros(len(PARTS), np.int64))[part] = count
    return _before(found)


def _firsts_of_chunks(file: Path, numbers: Mapping[int, int]) -> dict[int, np.ndarray]:
    """Return the same of chunks, from the split of each row and the number of each chunk's first row."""
    parts = np.memmap(file, np.int8, "r")
    ends = [*list(numbers.values())[1:], len(parts)]
    found = {
        key: np.bincount(parts[first:end], minlength=len(PARTS))
        for (key, first), end in zip(numbers.items(), ends, strict=True)
    }
    return _before(found)[0]


def _before(counts: Mapping[int, np.ndarray]) -> tuple[dict[int, np.ndarray], np.ndarray]:
    total, before = np.zeros(len(PARTS), np.int64), {}
    for key in sorted(counts):
        before[key] = total.copy()
        total += counts[key]
    return before, total
