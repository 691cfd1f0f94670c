"""The Spark job writes what `prepare` writes, byte for byte."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from tests.spark.session import interactions, needs_spark, session
from trainer.config.schema import DataConfig
from trainer.dataset.prepare import prepare_data
from trainer.errors import DataError

pytestmark = [pytest.mark.slow, *needs_spark()]
spark = pytest.fixture(scope="module")(session)

ROOT = Path(os.environ.get("SHARDTOWER_DATA", "data"))
SPLITS: list[dict[str, Any]] = [
    {"split": "random"},
    {"split": "random", "validation_size": 0.25},
    {"split": "per_user", "test_size": 0.3},
    {"split": "per_user", "validation_size": 0.25, "split_seed": 7},
    {"split": "temporal"},
    {"split": "temporal", "validation_size": 0.25, "repeats": "keep"},
    {"split": "leave_last_out"},
    {"split": "leave_last_out", "validation_size": 0.1, "repeats": "keep"},
    {"split": "none"},
    {"split": "none", "validation_size": 0.1},
]
CLEANING: list[dict[str, Any]] = [
    {"min_value": 3},
    {"k_core": 6, "split": "leave_last_out"},
    {"min_value": 2, "k_core": 5, "split": "temporal", "repeats": "keep", "validation_size": 0.2},
    {"weight_column": "weight"},
    {"weight_column": "weight", "split": "leave_last_out", "repeats": "keep"},
    {"timestamp_column": None, "value_column": None, "split": "none", "validation_size": 0.2},
    {"order": "file", "split": "leave_last_out", "validation_size": 0.2},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three part files, of which the middle one is text."""
    path, table = tmp_path_factory.mktemp("parts"), interactions(900)
    pa.parquet.write_table(table.slice(0, 300), path / "part-0.parquet")
    pa.csv.write_csv(table.slice(300, 250), path / "part-1.csv")
    pa.parquet.write_table(table.slice(550), path / "part-2.parquet")
    return path


@pytest.mark.parametrize("options", [*SPLITS, *CLEANING], ids=str)
def test_folders_are_equal(spark: Any, folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    check_equal(spark, DataConfig(name="files", interactions=str(folder), **options), tmp_path)


@pytest.mark.parametrize("options", [{}, {"validation_size": 0.3}, {"split": "none"}], ids=str)
def test_a_held_out_file_is_the_test_split(
    spark: Any, folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    held_out = tmp_path / "held_out.parquet"
    pa.parquet.write_table(interactions(200, seed=1), held_out)
    data = DataConfig(name="files", interactions=str(folder), held_out=str(held_out), **options)
    check_equal(spark, data, tmp_path)


def test_many_chunks_and_groups_fit_together(
    spark: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.spark.splits.CHUNK_BITS", 5)
    monkeypatch.setattr("trainer.spark.job.GROUP_ROWS", 50)
    monkeypatch.setattr("trainer.spark.splits.BUCKETS", 4)
    for number, options in enumerate(SPLITS):
        data = DataConfig(name="files", interactions=str(folder), **options)
        check_equal(spark, data, tmp_path / str(number))


def test_attributes_are_written_too(spark: Any, folder: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item_id,title,genre\n" + "".join(f"{item},T{item},{item % 3}\n" for item in range(20)))
    data = DataConfig(name="files", interactions=str(folder), items=str(items), k_core=4)
    check_equal(spark, data, tmp_path)


def test_bad_rows_are_skipped_and_counted_alike(spark: Any, folder: Path, tmp_path: Path) -> None:
    data = DataConfig(name="files", interactions=str(with_bad_row(folder, tmp_path)), bad_rows="skip")
    check_equal(spark, data, tmp_path)


def test_a_bad_row_is_the_same_error(spark: Any, folder: Path, tmp_path: Path) -> None:
    data = DataConfig(name="files", interactions=str(with_bad_row(folder, tmp_path)))
    assert "part-1.csv:12: value is 'five'" in check_same_error(spark, data, tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_value": 9}, "the largest value is 5"),
        ({"k_core": 500}, "--data.k_core 500 drops all"),
        ({"split": "temporal", "timestamp_column": None}, "needs timestamps"),
        ({"split": "per_user", "test_size": 0.001}, "leaves no test interactions"),
        ({"split": "temporal", "test_size": 0.9999}, "leaves no train interactions"),
    ],
)
def test_settings_that_leave_nothing_are_the_same_error(
    spark: Any, folder: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    data = DataConfig(name="files", interactions=str(folder), **options)
    assert words in check_same_error(spark, data, tmp_path)


@pytest.mark.real_data
@pytest.mark.skipif(not (ROOT / "ml-100k" / "u.data").exists(), reason="ml-100k is not at hand")
@pytest.mark.parametrize("options", [{}, {"split": "leave_last_out", "k_core": 9}], ids=str)
def test_ml_100k_is_equal(spark: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    check_equal(spark, DataConfig(root=str(ROOT), **options), tmp_path)


def with_bad_row(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "bad")
    path = tmp_path / "bad" / "part-1.csv"
    lines = path.read_text().splitlines()
    fields = lines[11].split(",")
    lines[11] = ",".join([*fields[:2], "five", *fields[3:]])
    path.write_text("\n".join(lines) + "\n")
    return tmp_path / "bad"


def check_equal(spark: Any, data: DataConfig, tmp_path: Path) -> None:
    ours, expected = prepared(spark, data, tmp_path / "spark"), prepared(None, data, tmp_path / "one")
    assert ours.name == expected.name  # so that `train` finds it
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    for name in names:
        if name == "meta.json":
            assert json.loads((ours / name).read_text()) == json.loads((expected / name).read_text())
        else:
            assert (ours / name).read_bytes() == (expected / name).read_bytes(), name


def check_same_error(spark: Any, data: DataConfig, tmp_path: Path) -> str:
    """The message, which both give; neither leaves anything behind."""
    messages = []
    for each in (spark, None):
        with pytest.raises(DataError) as caught:
            prepared(each, data, tmp_path / "cache")
        messages.append(str(caught.value))
        assert list((tmp_path / "cache").iterdir()) == []
    assert messages[0] == messages[1]
    return messages[0]


def prepared(spark: Any, data: DataConfig, cache: Path) -> Path:
    from trainer.spark.job import prepare_with

    data = replace(data, cache=str(cache))
    return prepare_data(data) if spark is None else prepare_with(spark, data)
