"""An export is the same whatever trained the run and whatever exports it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import exports
from tests.distributed.launches import STANDALONE, TORCHRUN, end, environment, start
from tests.worlds import QUICK

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
ROWS = ("--sharding.kind", "row_partitioned")


def exported(folder: Path, name: str, *launcher: str) -> dict[str, bytes]:
    """Files of an export by a launch of its own."""
    command = [sys.executable, *launcher, "-m", "trainer", "export", "run", name, "--dtype", "int8"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of the exact ranking") == 1  # one rank prints
    return {path.name: path.read_bytes() for path in (folder / name).iterdir()}


def test_a_run_of_4_ranks_with_partitioned_rows_is_exported_alike_by_4_ranks_and_by_1(tmp_path: Path) -> None:
    options = [*QUICK, *exports.options(tmp_path), *exports.ATTRIBUTES, *ROWS, "--run.dir", "run"]
    training = start(tmp_path, options, ranks=4)
    _, errors = end(training, 120)
    assert training.returncode == 0, errors
    by_four = exported(tmp_path, "four", *TORCHRUN, *STANDALONE, "--nproc_per_node=4")
    assert by_four == exported(tmp_path, "one")
