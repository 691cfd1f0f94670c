"""Raw ids from text, CSV and Parquet."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.errors import UserError
from trainer.ranking.id_files import read_ids

NAMES = "item", "item_id", "movie_id"


def written(folder: Path, name: str, content: str | dict) -> Path:
    path = folder / name
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        pq.write_table(pa.table(content), path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("ids.txt", "7\n 8 \n\n7\n", ["7", "8"]),
        ("ids", "a,b\nc", ["a,b", "c"]),
        ("ids.csv", "anything\n7\n8\n", ["7", "8"]),
        ("ids.csv", 'title,item_id\n"A, b",007\nC,8\n', ["007", "8"]),
        ("ids.tsv", "movie_id\tn\n7\t1\n", ["7"]),
        ("ids.parquet", {"other": [1, 2], "item": pa.array([8, 7], pa.int32())}, [8, 7]),
        ("ids.parquet", {"any": ["x", None, "x"]}, ["x"]),
    ],
)
def test_ids_are_read(tmp_path: Path, name: str, content: str | dict, expected: list) -> None:
    assert read_ids(written(tmp_path, name, content), "--allow", NAMES).to_pylist() == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.txt", "\n\n", "holds no ids"),
        ("ids.csv", "a,b\n1,2\n", "no column item or item_id or movie_id. It has: a, b. Rename"),
        ("ids.parquet", {"a": [1], "b": [2]}, "no column item or item_id or movie_id. It has: a, b. Rename"),
        ("ids.parquet", {"item": [1.5]}, "column item holds double. Ids are whole numbers or texts"),
        ("ids.parquet", "no Parquet", "cannot be read"),
        ("ids.csv", "", "cannot be read"),
    ],
)
def test_files_without_ids_are_refused(tmp_path: Path, name: str, content: str | dict, message: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(UserError) as raised:
        read_ids(path, "--deny", NAMES)
    assert str(raised.value).startswith(f"--deny {path}: {message}")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--users .*none: no such file\. Name a file of raw ids, one a line"):
        read_ids(tmp_path / "none", "--users", NAMES)
