"""Folders of arrays: one process at a time makes one, and the lock leaves nothing behind."""

import multiprocessing
from pathlib import Path

import pytest

from trainer.storage.arrays import locked


def enter_often(folder: Path, times: int) -> None:
    """Enter the block again and again; in it, a file that may stand only once."""
    for _ in range(times):
        with locked(folder):
            alone = folder.with_suffix(".alone")
            alone.touch(exist_ok=False)
            alone.unlink()


def test_processes_that_wait_for_a_lock_whose_file_is_removed_still_enter_one_at_a_time(
    tmp_path: Path,
) -> None:
    processes = [
        multiprocessing.get_context("fork").Process(target=enter_often, args=(tmp_path / "data", 25))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_leaves_no_lock(tmp_path: Path) -> None:
    def fail() -> None:
        with locked(tmp_path / "data"):
            assert [path.name for path in tmp_path.iterdir()] == ["data.lock"]
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        fail()
    assert list(tmp_path.iterdir()) == []
