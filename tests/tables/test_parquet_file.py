"""Parquet in blocks: columns of folders, old timestamps, damage."""

import datetime

import pyarrow as pa
import pytest
from pyarrow import parquet

from trainer.errors import DataError
from trainer.tables.parquet_file import ParquetFile


def test_columns_of_folders_stand_in_every_row_unless_the_file_has_its_own(tmp_path):
    parquet.write_table(pa.table({"user_id": [1, 2], "day": ["own", "own"]}), tmp_path / "x.parquet")
    file = ParquetFile(tmp_path / "x.parquet")
    file.add_constants({"day": "other", "country": "de", "none": None})
    (batch,) = file.batches(["country", "user_id", "day", "none"])
    assert batch.to_pydict() == {
        "country": ["de", "de"],
        "user_id": [1, 2],
        "day": ["own", "own"],
        "none": [None, None],
    }


def test_old_timestamps_reach_the_year_9999(tmp_path):
    # As nanoseconds in 64 bits, which end in 2262, the last day of 9999 would be one of 1816.
    last = datetime.datetime(9999, 12, 31)
    table = pa.table({"timestamp": pa.array([last], pa.timestamp("us"))})
    parquet.write_table(table, tmp_path / "x.parquet", use_deprecated_int96_timestamps=True)
    (batch,) = ParquetFile(tmp_path / "x.parquet").batches(["timestamp"])
    assert batch["timestamp"].to_pylist() == [last]


def test_a_file_damaged_in_its_middle_is_one_line(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(
        pa.table({"user_id": list(range(10_000))}), path, compression="zstd", use_dictionary=False
    )
    content = bytearray(path.read_bytes())
    content[40:4000] = b"\xff" * 3960
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.parquet: .*\. Put the whole Parquet file there$"):
        list(ParquetFile(path).batches(["user_id"]))
