"""Parquet as blocks of raw columns."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
from pyarrow import parquet

from trainer.errors import DataError
from trainer.tables.delimited import with_constants
from trainer.tables.recognise import UNREADABLE, reason

BUFFER_BYTES = 1 << 20  # of a column that are read at a time


class ParquetFile:
    """Rows of a Parquet file.

    Raises:
        DataError: It cannot be read.
    """

    malformed: ClassVar[list[int]] = []  # no row of Parquet has a wrong number of fields
    malformed_fault = separator_remedy = ""
    encoding_fault = "which is no utf-8 text"
    encoding_remedy = "Write the column as text"
    decimal_comma = breaks_lines = False

    def __init__(self, path: Path):
        self.path = path
        try:
            # By default a file keeps all that it has read, and reads a column of a row group at once.
            # Old timestamps of 96 bits reach beyond what 64 bits of nanoseconds hold: 9999 would become 1816.
            self.file = parquet.ParquetFile(
                path, pre_buffer=False, buffer_size=BUFFER_BYTES, coerce_int96_timestamp_unit="us"
            )
        except UNREADABLE as error:
            raise DataError(f"{path}: {reason(error)}. Put the whole Parquet file there") from None
        self.names: list[str] = list(self.file.schema_arrow.names)
        self.constants: dict[str, str | None] = {}

    def add_constants(self, constants: Mapping[str, str | None]) -> None:
        """Add columns that folders such as `day=2020-09-17` give all rows; the file's own come first."""
        self.constants = {name: value for name, value in constants.items() if name not in self.names}
        self.names += self.constants

    def remarks(self) -> list[str]:
        """Return nothing: no rows of Parquet are left out."""
        return []

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of a column."""
        is_constant = name in self.constants
        return pa.string() if is_constant else self.file.schema_arrow.field(self.names.index(name)).type

    def batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Return the columns `names` in file order.

        Raises:
            DataError: The file is damaged.
        """
        own = [name for name in names if name not in self.constants]
        try:
            for batch in self.file.iter_batches(columns=own):
                yield with_constants(batch, names, self.constants) if self.constants else batch
        except UNREADABLE as error:
            raise DataError(f"{self.path}: {reason(error)}. Put the whole Parquet file there") from None

    def position(self, row: int) -> int:
        """Return the number, from 1, of row `row`, from 0."""
        return row + 1
