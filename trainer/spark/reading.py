"""Files of interactions -> checked, typed rows in Parquet, one task a file.

The tasks read with the readers of `trainer.sources`, so that text, times, ids and bad rows are understood as
`prepare` understands them. Each row gets a place, which grows in file order over all files:
`file << ROW_BITS | row`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from trainer.config.schema import DataConfig
from trainer.dataset.encode import check_batch, refuse_none, rounds, with_weight
from trainer.errors import DataError
from trainer.sources.configured import read_source
from trainer.sources.files import FileBatches
from trainer.sources.formats import Table
from trainer.sources.schema import SourceTables
from trainer.tables.bad_rows import BadRows
from trainer.tables.checked import checked
from trainer.tables.column_rules import Column

ROW_BITS = 40
"""Bits of a place that count the rows of one file."""
PLACE = "place"


@dataclass(frozen=True)
class Unit:
    """What one task reads.

    Attributes:
        number: From 0 up, in file order.
        held_out: Whether it is a held-out file.
        open: Returns the rows, and where bad ones among them are counted.
    """

    number: int
    held_out: bool
    open: Callable[[], tuple[Iterator[pa.RecordBatch], BadRows]]


@dataclass
class Summary:
    """What a task has read.

    Attributes:
        rows: Rows of a weight above 0.
        weightless: Rows of weight 0.
        schema: Of the rows; None where there are none.
        skipped: Bad rows.
        remarks: See `BadRows.remarks`.
        error: Why the file cannot be used.
    """

    rows: int = 0
    weightless: int = 0
    schema: pa.Schema | None = None
    skipped: int = 0
    remarks: dict[str, list[Path]] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Staged:
    """All rows, typed, in a folder of Parquet.

    Attributes:
        folder: A file a unit, with the columns of the source and PLACE.
        schema: Columns of the source.
        rows: Number of rows.
        weightless: Rows left out because their weight is 0; None: there are no weights.
        held_out_from: First place of the held-out files.
    """

    folder: Path
    schema: pa.Schema
    rows: int
    weightless: int | None
    held_out_from: int


def units_of(source: SourceTables, data: DataConfig) -> list[Unit]:
    """Return a unit a file, in file order, or one unit for a source that is read as a whole."""
    units: list[Unit] = []
    for held_out, batches in ((False, source.interactions), (True, source.held_out)):
        if isinstance(batches, FileBatches):
            opens: list[Callable] = [
                partial(_open_file, table.reopen, columns, source.bad_rows.policy)
                for table, columns in batches.files
            ]
        else:
            opens = [] if batches is None else [partial(_open_whole, data)]
        units += [Unit(number, held_out, each) for number, each in enumerate(opens, len(units))]
    return units


def _open_file(
    reopen: Callable[[], Table], columns: list[Column], policy: str
) -> tuple[Iterator[pa.RecordBatch], BadRows]:
    bad = BadRows(policy)  # pyrefly: ignore[bad-argument-type]
    return checked(reopen().rows, columns, bad), bad


def _open_whole(data: DataConfig) -> tuple[Iterator[pa.RecordBatch], BadRows]:
    source = read_source(data)
    source.bad_rows.skipped = 0  # those of attributes, which the driver has counted
    return source.interactions, source.bad_rows


def stage(units: list[Unit], source: SourceTables, name: str, folder: Path, run: Callable) -> Staged:
    """Read all units into `folder`.

    Args:
        units: In file order.
        source: Its bad rows are counted.
        name: Name of the data set, for messages.
        folder: An empty folder that all tasks see.
        run: Calls a function with each unit, on the executors, and returns the results in order.

    Raises:
        DataError: A file cannot be used: the first one in file order.
    """
    summaries: list[Summary] = run(partial(read_unit, folder=folder, name=name), units)
    schema: pa.Schema | None = None
    for summary in summaries:
        if summary.error:
            raise DataError(summary.error)
        source.bad_rows.skipped += summary.skipped
        for remark, files in summary.remarks.items():
            for file in files:
                source.bad_rows.note(file, remark)
        if summary.schema is not None:
            schema = schema or summary.schema
            check_batch(pa.RecordBatch.from_pylist([], summary.schema), schema, name)
    rows, weightless = (sum(getattr(each, what) for each in summaries) for what in ("rows", "weightless"))
    refuse_none(name, rows, weightless)
    assert schema is not None
    held_out_from = sum(not unit.held_out for unit in units) << ROW_BITS
    return Staged(folder, schema, rows, weightless if "weight" in schema.names else None, held_out_from)


def read_unit(unit: Unit, folder: Path, name: str) -> Summary:
    """Write the rows of one unit, whole or not at all: a task may be started again, or twice."""
    path, summary = folder / f"{unit.number:06}.parquet", Summary()
    beside = path.with_name(f"_{path.name}.{os.getpid()}")  # readers pass over names that begin with _
    writer = None
    try:
        batches, bad = unit.open()
        for _, read in rounds(SourceTables(batches), name):
            table = with_weight(read)
            summary.weightless += len(read) - len(table)
            summary.schema = table.schema
            if len(table):
                first = (unit.number << ROW_BITS) + summary.rows
                table = table.append_column(PLACE, pa.array(np.arange(first, first + len(table))))
                writer = writer or parquet.ParquetWriter(beside, table.schema, compression="lz4")
                writer.write_table(table)
                summary.rows += len(table)
        summary.skipped, summary.remarks = bad.skipped, bad.remarks
    except DataError as error:
        return Summary(error=str(error))
    finally:
        if writer is not None:
            writer.close()
    if writer is not None:
        os.replace(beside, path)
    return summary
