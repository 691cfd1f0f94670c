"""Tables of Spark as folders of Parquet, and interactions partitioned by user."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.spark.session import interactions, needs_spark, session
from trainer.config.schema import DataConfig
from trainer.errors import ConfigError
from trainer.sources.configured import source_of
from trainer.storage.user_buckets import MANIFEST, manifest_text, user_buckets

pytestmark = [pytest.mark.slow, *needs_spark()]
spark = pytest.fixture(scope="module")(session)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(interactions(500), path)
    return DataConfig(name="files", interactions=str(path))


def rows_of(data: DataConfig, buckets: list[int] | None = None) -> pa.Table:
    make_source, _ = source_of(data, buckets)
    return pa.Table.from_batches(make_source().interactions)


def test_buckets_hold_each_pair_once_and_users_where_their_hash_says(
    spark: Any, data: DataConfig, tmp_path: Path
) -> None:
    from trainer.spark.tables import write_buckets

    text = write_buckets(spark, data, 4, tmp_path / "buckets")
    assert (tmp_path / "buckets" / MANIFEST).read_text() == manifest_text(4)
    partitioned = DataConfig(name="files", interactions=str(tmp_path / "buckets"))
    found, read = rows_of(partitioned), rows_of(data)
    latest = {}
    for row in read.to_pylist():
        pair = row["user_id"], row["item_id"]
        if pair not in latest or latest[pair]["timestamp"] <= row["timestamp"]:
            latest[pair] = row
    assert text.endswith(f"buckets: {len(latest)} interactions in 4 buckets of users")
    assert {tuple(row.items()) for row in found.to_pylist()} == {tuple(r.items()) for r in latest.values()}
    for bucket in range(4):
        assert set(user_buckets(rows_of(partitioned, [bucket])["user_id"].combine_chunks(), 4)) == {bucket}


def test_buckets_keep_repeats_for_splits_by_time(spark: Any, data: DataConfig, tmp_path: Path) -> None:
    from trainer.spark.tables import write_buckets

    data = DataConfig(name="files", interactions=data.interactions, split="temporal")
    write_buckets(spark, data, 2, tmp_path / "buckets")
    found = rows_of(DataConfig(name="files", interactions=str(tmp_path / "buckets"))).to_pandas()
    read = rows_of(data).to_pandas().groupby(["user_id", "item_id"])["timestamp"]
    times = found.groupby(["user_id", "item_id"])["timestamp"]
    assert times.min().equals(read.min())
    assert times.max().equals(read.max())
    assert times.count().equals(np.minimum(read.count(), 2))


def test_a_table_becomes_a_folder_of_interactions(spark: Any, data: DataConfig, tmp_path: Path) -> None:
    from trainer.spark.tables import write_table

    folder = tmp_path / "table"
    copy = DataConfig(name="files", interactions=str(folder))
    write_table(spark, f"parquet.`{data.interactions}`", copy)
    assert rows_of(copy).equals(rows_of(data))
    with pytest.raises(ConfigError, match=r"table: is there already. Name a new folder"):
        write_table(spark, f"parquet.`{data.interactions}`", copy)
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match=r"--table no_such: \[TABLE_OR_VIEW_NOT_FOUND\]"):
        write_table(spark, "no_such", copy)
    assert not folder.exists()
