"""Columns on disk: blocks and groups of users give what whole arrays would."""

from pathlib import Path

import numpy as np
import pytest

from trainer.storage import columns
from trainer.storage.columns import (
    Stored,
    blocks,
    grouped_by_user,
    saved,
    stable_order,
    stored,
    write_items_by_user,
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK_ROWS", 7)
    monkeypatch.setattr(columns, "GROUP_ROWS", 10)


def on_disk(folder: Path, name: str, values: np.ndarray) -> Stored:
    np.save(folder / f"{name}.npy", values)
    return stored(folder / f"{name}.npy")


def test_blocks_of_several_columns_are_the_columns(tmp_path: Path) -> None:
    numbers, halves = np.arange(30, dtype=np.int32), np.arange(30, dtype=np.float32) / 2
    found = list(blocks(on_disk(tmp_path, "numbers", numbers), on_disk(tmp_path, "halves", halves)))
    assert [(rows.start, rows.stop) for rows, _, _ in found] == [
        (0, 7),
        (7, 14),
        (14, 21),
        (21, 28),
        (28, 30),
    ]
    np.testing.assert_array_equal(np.concatenate([each for _, each, _ in found]), numbers)
    np.testing.assert_array_equal(np.concatenate([each for _, _, each in found]), halves)


def test_single_rows_are_taken_from_any_block(tmp_path: Path) -> None:
    column = on_disk(tmp_path, "squares", np.arange(30, dtype=np.int64) ** 2)
    assert column.take(np.array([0, 6, 7, 29])).tolist() == [0, 36, 49, 841]
    assert column.take(np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize("rows", [0, 1, 12])
def test_a_column_written_in_pieces_is_the_file_that_numpy_saves(tmp_path: Path, rows: int) -> None:
    values = np.arange(rows, dtype=np.float32)
    np.save(tmp_path / "whole.npy", values)
    with saved(tmp_path / "pieces.npy", np.float32, rows) as file:
        for piece in np.array_split(values, 3):
            piece.tofile(file)
    assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_rows_of_a_group_of_users_come_together_in_file_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 40, 90, 0, 30 and 140 rows: cut behind users 1 and 4, who cross 100 and 200 rows.
    monkeypatch.setattr(columns, "GROUP_ROWS", 100)
    users = np.repeat(np.arange(5, dtype=np.int32), [40, 90, 0, 30, 140])
    users = np.random.default_rng(0).permutation(users)
    rows = np.arange(len(users))
    pieces = zip(np.array_split(users, 4), np.array_split(rows, 4), strict=True)
    found = list(grouped_by_user(pieces, np.bincount(users), tmp_path))
    assert [first for first, _ in found] == [0, 2]
    for (_, (of_user, row)), expected in zip(found, (users < 2, users >= 2), strict=True):
        assert row.tolist() == rows[expected].tolist()
        assert of_user.tolist() == users[expected].tolist()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("group_rows", [10, 1000])
@pytest.mark.parametrize("item_count", [50, 2**30], ids=["keys of 32 bits", "keys of 64 bits"])
def test_items_stand_by_user_in_ascending_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item_count: int, group_rows: int
) -> None:
    monkeypatch.setattr(columns, "GROUP_ROWS", group_rows)
    generator = np.random.default_rng(1)
    users = generator.integers(0, 8, 60).astype(np.int32)
    users[users == 3] = 4  # user 3 has nothing, and so has user 8
    items = generator.integers(0, item_count, 60).astype(np.int32)
    halves = [
        (on_disk(tmp_path, f"u{n}", users[n::2]), on_disk(tmp_path, f"i{n}", items[n::2])) for n in (0, 1)
    ]
    write_items_by_user(tmp_path, "all", halves, 9, item_count)
    offsets, values = (np.load(tmp_path / f"all_{name}.npy") for name in ("offsets", "values"))
    assert (offsets.dtype, values.dtype) == (np.int64, np.int32)
    expected = [sorted(items[users == user].tolist()) for user in range(9)]
    assert [part.tolist() for part in np.split(values, offsets[1:-1])] == expected


def test_no_interactions_leave_every_user_empty(tmp_path: Path) -> None:
    nothing = on_disk(tmp_path, "nothing", np.zeros(0, np.int32))
    write_items_by_user(tmp_path, "none", [(nothing, nothing)], 3, 5)
    assert np.load(tmp_path / "none_offsets.npy").tolist() == [0, 0, 0, 0]
    assert len(np.load(tmp_path / "none_values.npy")) == 0


@pytest.mark.parametrize("largest", [1, 100, 2**40, 2**62])
def test_the_stable_order_is_that_of_numpy(largest: int) -> None:
    # The two largest take the packed way and numpy's: with 1,000 places, 53 bits are left.
    keys = np.random.default_rng(0).integers(-largest, largest, 1000)
    keys[500:] = keys[:500]
    np.testing.assert_array_equal(stable_order(keys), np.argsort(keys, kind="stable"))
    assert stable_order(np.zeros(0, np.int32)).tolist() == []
