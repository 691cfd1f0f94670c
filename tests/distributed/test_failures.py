"""What two ranks under torchrun leave behind and say when a training cannot go on."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = "-m torch.distributed.run --standalone --nproc_per_node=2 -m trainer train --device cpu".split()


def start(tmp_path, *options):
    """A training on two ranks, in a process group of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *TORCHRUN, "--data.cache", str(tmp_path / "cache"), *options],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(training):
    """What a training wrote until it ended by itself; one that does not end is an error and is killed."""
    try:
        return training.communicate(timeout=60)
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)


def exit_codes(errors):
    """The exit code of every rank in torchrun's summary."""
    return {
        int(rank): int(code) for rank, code in re.findall(r"rank +: (\d+) .*\n +exitcode +: (-?\d+)", errors)
    }


def test_data_that_cannot_be_read_stop_all_ranks_with_one_line(tmp_path):
    (tmp_path / "likes.csv").write_text("user_id,item_id,value\n1,7,5\n1,8,five\n")
    options = "--data.name files --data.format csv --data.interactions likes.csv".split()
    output, errors = end(start(tmp_path, *options))
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert "likes.csv:3: value is 'five'" in lines[0]
    # Ranks that torchrun ended itself, after the first had ended, were sent SIGTERM: code -15.
    codes = exit_codes(errors)
    assert codes[0] == 2
    assert set(codes.values()) <= {2, -signal.SIGTERM}
    assert "Traceback" not in errors.partition("error: ")[0]
    assert output == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "--optimizer.name adam --sharding.kind column_wise",
            "--optimizer.name adam: not with --sharding.kind column_wise on CPU",
        ),
        ("--sharding.kind row_wise", "--sharding.kind row_wise: expected one of table_wise, column_wise"),
    ],
)
def test_refused_combinations_are_said_once_before_anything_starts(options, words, tmp_path):
    output, errors = end(start(tmp_path, "--data.name", "synthetic", *options.split()))
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert lines[0].startswith(f"error: {words}")
    assert exit_codes(errors)[0] == 2
    assert output == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("receiver", ["torchrun", "all"])
def test_an_interrupt_ends_all_ranks(receiver, tmp_path):
    options = "--data.name synthetic --run.epochs 1000000 --run.dir run --run.log_every 5".split()
    training = start(tmp_path, *options)
    try:
        assert any(line.startswith("epoch") for line in training.stdout)
        ranks = psutil.Process(training.pid).children(recursive=True)
        assert len(ranks) >= 2
        # Control-C in a terminal reaches every process; a batch system may tell torchrun alone.
        send, target = (os.kill, training.pid) if receiver == "torchrun" else (os.killpg, training.pid)
        send(target, signal.SIGINT)
        _, errors = end(training)
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)
    assert errors.splitlines().count("interrupted") == 1
    assert "KeyboardInterrupt" not in errors
    assert not any(rank.is_running() for rank in ranks)
