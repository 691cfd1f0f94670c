"""Writing on a disk that is full: whatever a library raises there, the error names the place."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pytest

from trainer.atomic_write import naming, replaced
from trainer.storage import arrays

ROOT = Path(__file__).resolve().parents[1]
VALUES = np.arange(100_000)


def write_arrow(file: BinaryIO) -> None:
    with pa.ipc.new_file(file, pa.schema([("value", pa.int64())])) as writer:
        writer.write_batch(pa.record_batch({"value": VALUES}))


WRITERS: dict[str, Callable[[BinaryIO], object]] = {
    "tofile, which sets no error number": VALUES.tofile,
    "np.save": lambda file: np.save(file, VALUES),
    "np.savez": lambda file: np.savez(file, values=VALUES),
    "arrow": write_arrow,
    "bytes": lambda file: file.write(bytes(100_000)),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_an_error_with_a_number_and_the_place(write, tmp_path: Path) -> None:
    def write_there() -> None:
        with naming(tmp_path), open("/dev/full", "wb", buffering=0) as file:
            write(file)

    with pytest.raises(OSError, match="No space left") as failure:
        write_there()
    assert failure.value.errno == errno.ENOSPC
    assert failure.value.filename == str(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError("Couldn't deserialize thrift: the file is damaged"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "orders.csv"),
        OSError(errno.ENOSPC, "No space left on device", "another/file"),
    ],
)
def test_errors_of_another_kind_or_place_stay_as_they_are(error: OSError, tmp_path: Path) -> None:
    before = (error.errno, error.filename, str(error))
    with pytest.raises(OSError, match=r".") as failure, naming(tmp_path):
        raise error
    assert (failure.value.errno, failure.value.filename, str(failure.value)) == before


def test_a_file_or_folder_that_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    def fail(writing, name: str) -> None:
        with writing as beside:
            (beside / name).touch()
            raise OSError("100000 requested and 53248 written")

    for writing, name, place in (
        (replaced(tmp_path / "values.npy"), "", tmp_path / "values.npy"),
        (arrays.published(tmp_path / "data"), "users", tmp_path),
    ):
        with pytest.raises(OSError, match="No space left") as failure:
            fail(writing, name)
        assert failure.value.filename == str(place)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kilobytes", [8, 40])
def test_a_command_that_runs_out_of_room_is_one_line_and_exit_code_2(kilobytes: int, tmp_path: Path) -> None:
    # No file may be larger, which is what a disk that fills up does to one.
    options = f"prepare --data.name synthetic --data.cache {tmp_path / 'cache'}"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f {kilobytes}; exec '{sys.executable}' -m trainer {options}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {tmp_path / 'cache'}: cannot be written (")
    assert done.stderr.endswith("). Make room there, or name another folder\n")
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "cache").iterdir()) == []
