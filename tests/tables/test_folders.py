"""Folders hold what Spark, Hive, Delta, Hudi and Iceberg leave in them."""

import pytest

from trainer.errors import DataError
from trainer.tables.folders import part_files, partition_values


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if path.name == "_SUCCESS" or path.name.startswith("empty") else "x")


def names(folder):
    return [path.relative_to(folder).as_posix() for path in part_files(folder)]


def test_what_a_job_leaves_beside_its_part_files_is_passed_over(tmp_path):
    make(
        tmp_path,
        *("part-1.parquet", "part-0.parquet", "day=1/part-0.parquet", "empty-part"),
        *(
            "_SUCCESS",
            ".part-0.parquet.crc",
            "_temporary/0/attempt_1/part-9.parquet",
            ".staging/part-9.parquet",
        ),
        *("day=1/_started_1", "day=1/.hidden/part-9.parquet", ".DS_Store"),
    )
    assert names(tmp_path) == ["day=1/part-0.parquet", "part-0.parquet", "part-1.parquet"]


def test_a_folder_below_a_hidden_one_may_be_named(tmp_path):
    make(tmp_path / "_in" / ".here", "part-0.parquet")
    assert names(tmp_path / "_in" / ".here") == ["part-0.parquet"]


@pytest.mark.parametrize("given", [(), ("_SUCCESS",), ("empty-part",)])
def test_a_folder_without_rows_is_refused(tmp_path, given):
    make(tmp_path, *given)
    with pytest.raises(DataError, match=r"the folder holds (no file|empty files alone)"):
        part_files(tmp_path)


@pytest.mark.parametrize("target", ["nowhere", "."])
def test_a_link_that_leads_nowhere_or_in_a_circle_is_refused(tmp_path, target):
    make(tmp_path, "part-0.parquet")
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=r"link.*: is a link that leads nowhere"):
        part_files(tmp_path)


def test_a_delta_table_that_was_written_once_is_its_files(tmp_path):
    make(tmp_path, "part-0.parquet", "_delta_log/00000000000000000000.json")
    assert names(tmp_path) == ["part-0.parquet"]


@pytest.mark.parametrize(
    ("kind", "log"),
    [
        ("Delta", ["_delta_log/00000000000000000000.json", "_delta_log/00000000000000000001.json"]),
        (
            "Delta",
            ["_delta_log/00000000000000000010.checkpoint.parquet", "_delta_log/00000000000000000011.json"],
        ),
        ("Hudi", [".hoodie/hoodie.properties"]),
        ("Iceberg", ["metadata/v1.metadata.json", "data/part-0.parquet"]),
    ],
)
def test_a_table_of_several_versions_is_refused_by_its_kind(tmp_path, kind, log):
    make(tmp_path, "part-0.parquet", *log)
    with pytest.raises(DataError, match=f"is a {kind} table of several versions.*plain Parquet"):
        part_files(tmp_path)


def test_folders_of_key_and_value_are_columns(tmp_path):
    file = tmp_path / "day=2020-09-17" / "plain" / "shop=a%3Ab" / "part-0.parquet"
    assert partition_values(tmp_path, file) == {"day": "2020-09-17", "shop": "a:b"}
    assert partition_values(tmp_path, tmp_path / "day=__HIVE_DEFAULT_PARTITION__" / "x") == {"day": None}
