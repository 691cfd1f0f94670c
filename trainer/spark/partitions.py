"""Functions of Arrow tables over the partitions of a Spark DataFrame, in Python workers.

Spark moves rows to where they belong; what is done with them there is numpy, and mostly the functions that
`prepare` uses too. A partition has about a million rows, which are in memory at once.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

from trainer.spark.reading import PLACE


def mapped(rows: DataFrame, function: Callable[[pa.Table], pa.Table], schema: StructType | str) -> DataFrame:
    """Return what the function makes of the rows of each partition, which it gets in file order.

    Args:
        rows: With PLACE.
        function: Is not called for an empty partition.
        schema: Of the result, in Spark's types.
    """

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        filled = [batch for batch in batches if len(batch)]
        if filled:
            table = pa.Table.from_batches(filled).combine_chunks()
            yield from function(table.take(np.argsort(table[PLACE].to_numpy()))).to_batches()

    return rows.mapInArrow(work, schema)


def stretches(keys: np.ndarray) -> Iterator[tuple[int, slice]]:
    """Yield each key and where it stands, of (n,) integers whose equal values stand together."""
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    for start, end in zip(starts, np.append(starts[1:], len(keys)), strict=True):
        yield int(keys[start]), slice(int(start), int(end))


def codes(column: pa.ChunkedArray) -> tuple[np.ndarray, int]:
    """Return (n,) int64 numbers of the ids in a column, equal where ids are, and how many ids there are."""
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    return encoded.indices.to_numpy().astype(np.int64), len(encoded.dictionary)
