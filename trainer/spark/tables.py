"""Tables before and after: a table of Spark as a folder of Parquet, and interactions partitioned by user."""

import shutil
from pathlib import Path

import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession, types
from pyspark.sql import functions as sql

from trainer.config.schema import DataConfig
from trainer.dataset.prepare import rule_of
from trainer.errors import ConfigError
from trainer.formatting import format_count
from trainer.sources.configured import read_source
from trainer.spark.cleaning import LAST
from trainer.spark.job import Job
from trainer.spark.partitions import mapped
from trainer.spark.reading import PLACE
from trainer.storage import arrays
from trainer.storage.user_buckets import COLUMN, MANIFEST, manifest_text, user_buckets


def write_table(spark: SparkSession, table: str, data: DataConfig) -> None:
    """Write a table that Spark reads as the folder of interactions, whole or not at all.

    Args:
        spark: The session.
        table: Its name in SQL.
        data: Names the folder: `data.interactions`.

    Raises:
        ConfigError: There is no such table, or the folder is there already.
    """
    if data.name != "files" or data.interactions is None:
        raise ConfigError(
            "--table: needs a folder for its rows: --data.name files --data.interactions FOLDER"
        )
    folder = _new("--data.interactions", Path(data.interactions))
    try:
        rows = spark.sql(f"SELECT * FROM {table}")
    except AnalysisException as error:
        reason = " ".join(str(error).splitlines()[0].split())
        raise ConfigError(f"--table {table}: {reason}. Name a table that Spark reads") from None
    with arrays.published(folder) as temporary:
        rows.write.mode("overwrite").parquet(temporary.as_uri())


def write_buckets(spark: SparkSession, data: DataConfig, count: int, folder: Path) -> str:
    """Write cleaned interactions partitioned by a hash of the raw user id, whole or not at all.

    Of a pair that stands several times there is the row that `prepare` keeps under these options and, in
    splits by time, the last one too, so that repeats can be told.

    Args:
        spark: The session.
        data: Data section of the configuration.
        count: Number of buckets.
        folder: Must not be there yet.

    Returns:
        A sentence on what was written.

    Raises:
        UserError: An option, or the data, cannot be used.
    """
    if data.held_out:
        raise ConfigError("--user-buckets: buckets hold no held-out files. Leave --data.held_out out")
    folder, rule = _new("--out", folder), rule_of(data)
    settings = {"min_value": data.min_value, "k_core": data.k_core, "order": data.order}
    with arrays.published(folder) as temporary:
        raw = temporary.with_name(f"{temporary.name}-rows")
        shutil.rmtree(raw, ignore_errors=True)
        try:
            job = Job(spark, raw, read_source(data), data, data.name, settings, rule)
            rows = _with_last(job.cleaned().rows)
            schema = types.StructType([*rows.schema.fields, types.StructField(COLUMN, types.IntegerType())])

            def with_bucket(table: pa.Table) -> pa.Table:
                ids = table["user_id"].combine_chunks().dictionary_encode()
                ids = ids.chunk(0) if isinstance(ids, pa.ChunkedArray) else ids
                buckets = user_buckets(ids.dictionary, count)[ids.indices.to_numpy()]
                return table.append_column(COLUMN, pa.array(buckets, pa.int32()))

            placed = mapped(rows, with_bucket, schema).repartition(max(count, job.partitions), COLUMN)
            ordered = placed.sortWithinPartitions(COLUMN, PLACE).select(*job.columns, COLUMN)
            ordered.write.mode("overwrite").partitionBy(COLUMN).parquet(temporary.as_uri())
            written = spark.read.parquet(temporary.as_uri()).count()
            spark.catalog.clearCache()
        finally:
            shutil.rmtree(raw, ignore_errors=True)
        (temporary / MANIFEST).write_text(manifest_text(count), encoding="utf-8")
    return f"{folder}: {format_count(written, 'interaction')} in {format_count(count, 'bucket')} of users"


def _with_last(rows: DataFrame) -> DataFrame:
    """Return the rows, each followed by the last one of its pair where the pair stands several times."""
    if LAST not in rows.columns:
        return rows
    names = rows.schema[LAST].dataType.fieldNames()  # pyrefly: ignore[missing-attribute]
    kept = rows.drop(LAST)
    again = rows.where(sql.col(LAST).isNotNull()).select(
        *(sql.col(f"{LAST}.{name}" if name in names else name) for name in kept.columns)
    )
    return kept.unionByName(again)


def _new(option: str, folder: Path) -> Path:
    if folder.exists():
        raise ConfigError(f"{option} {folder}: is there already. Name a new folder, or remove this one")
    return folder.absolute()
