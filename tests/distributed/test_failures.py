"""What two ranks under torchrun leave behind and say when a training cannot go on."""

import os
import re
import signal

import psutil
import pytest

from tests.distributed.launches import RANKS, end, start
from trainer import cli
from trainer.runs.checkpoint_store import newest_resumable

pytestmark = pytest.mark.distributed

SLOW_FIRST_RANK = """
import os, time
time.sleep(2 if os.environ["RANK"] == "0" else 0)
from trainer.cli import run_process
run_process()
"""
SLOW_PREPARING = """
import time
from trainer.training import train
def slow(*_):
    print("preparing", flush=True)
    time.sleep(60)
train.prepare_with_retained = slow
from trainer.cli import run_process
run_process()
"""
STUCK_SECOND_RANK = """
import os, time
from trainer.cli import run_process
from trainer.fitting import loop
step = loop.train_step
def stuck(*arguments):
    time.sleep(4 if os.environ["RANK"] == "1" else 0)
    return step(*arguments)
loop.train_step = stuck
run_process()
"""
BROKEN_SECOND_RANK = """
import os
from trainer.cli import run_process
from trainer.fitting import loop
step, steps = loop.train_step, iter(range(100))
def broken(*arguments):
    if next(steps) == 5 and os.environ["RANK"] == "1":
        raise KeyError("no such shard")
    return step(*arguments)
loop.train_step = broken
run_process()
"""
SILENT_ONCE = """
import os, signal
from pathlib import Path
from trainer.cli import run_process
from trainer.fitting import loop
step, kept, silent = loop.train_step, Path("run/checkpoints/step-000000004"), Path("silent")
def silent_once(*arguments):
    if os.environ["RANK"] == "1" and kept.exists() and not silent.exists():
        silent.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return step(*arguments)
loop.train_step = silent_once
run_process()
"""


def error_lines(errors):
    return [line for line in errors.splitlines() if line.startswith("error: ")]


def exit_codes(errors):
    """The exit code of every rank in torchrun's summary."""
    return {
        int(rank): int(code) for rank, code in re.findall(r"rank +: (\d+) .*\n +exitcode +: (-?\d+)", errors)
    }


def test_data_that_cannot_be_read_stop_all_ranks_with_one_line(tmp_path):
    (tmp_path / "likes.csv").write_text("user_id,item_id,value\n1,7,5\n1,8,five\n")
    output, errors = end(start(tmp_path, "--data.name files --data.format csv --data.interactions likes.csv"))
    (line,) = error_lines(errors)
    assert "likes.csv:3: value is 'five'" in line
    # Ranks that torchrun ended itself, after the first had ended, were sent SIGTERM: code -15.
    codes = exit_codes(errors)
    assert codes[0] == 2
    assert set(codes.values()) <= {2, -signal.SIGTERM}
    assert "Traceback" not in errors.partition("error: ")[0]
    assert output == ""
    assert not (tmp_path / "runs").exists()


def test_a_refused_combination_is_said_once_before_data_are_prepared(tmp_path):
    options = "--data.name synthetic --optimizer.name adam --sharding.kind column_wise"
    output, errors = end(start(tmp_path, options))
    (line,) = error_lines(errors)
    assert line.startswith("error: --optimizer.name adam: not with --sharding.kind column_wise, which")
    assert exit_codes(errors)[0] == 2
    assert output == ""
    assert list(tmp_path.iterdir()) == []


def test_the_first_rank_is_heard_though_the_others_end_before_it(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_FIRST_RANK)
    output, errors = end(start(tmp_path, "--sharding.kind diagonal", "slow.py"))
    (line,) = error_lines(errors)
    assert line.startswith("error: --sharding.kind diagonal: expected one of table_wise, row_partitioned")
    assert exit_codes(errors)[0] == 2
    assert output == ""


def test_a_rank_that_is_at_fault_alone_says_so(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(cli, "FIRST_RANK_SECONDS", 0)
    assert cli.main(["no-such-command"]) == 2
    assert capsys.readouterr().err.startswith("error: no-such-command: no such command.")


@pytest.mark.parametrize("receiver", ["launcher", "all"])
def test_an_interrupt_pauses_all_ranks(receiver, tmp_path):
    endless = "--data.name synthetic --run.dir run --run.choose false --run.epochs 1000000 --run.log_every 5"
    training = start(tmp_path, endless, launcher=RANKS)
    try:
        assert any(line.startswith("epoch") for line in training.stdout)
        ranks = psutil.Process(training.pid).children(recursive=True)
        assert len(ranks) >= 2
        # Control-C in a terminal reaches every process; a batch system may tell the launcher alone.
        send, target = (os.kill, training.pid) if receiver == "launcher" else (os.killpg, training.pid)
        send(target, signal.SIGINT)
        output, errors = end(training)
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)
    assert training.returncode == 0
    assert output.splitlines()[-1] == "Go on with: python -m trainer train --run.dir run"
    assert errors == ""
    assert not any(rank.is_running() for rank in ranks)
    assert newest_resumable(tmp_path / "run").step >= 5


def test_an_interrupt_before_the_first_step_ends_all_ranks(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_PREPARING)
    training = start(tmp_path, "--data.name synthetic", "slow.py", launcher=RANKS)
    assert any(line == "preparing\n" for line in training.stdout)
    os.kill(training.pid, signal.SIGINT)
    _, errors = end(training)
    assert training.returncode == 130
    assert errors.splitlines() == ["interrupted"]


def test_ranks_do_not_wait_for_a_silent_one_for_ever(tmp_path):
    (tmp_path / "stuck.py").write_text(STUCK_SECOND_RANK)
    options = "--data.name synthetic --run.choose false --timeout 2"
    _, errors = end(start(tmp_path, options, "stuck.py", launcher=RANKS))
    lost = r"error: rank 0 has lost the others \(Timed out waiting 2000ms for \w+ operation to complete\)"
    assert re.fullmatch(lost, error_lines(errors)[0])
    assert "Traceback" not in errors


def test_a_fault_of_one_rank_ends_all_with_its_traceback_though_the_timeout_is_long(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN_SECOND_RANK)
    options = "--data.name synthetic --run.choose false --run.dir run --timeout 1000"
    training = start(tmp_path, options, "broken.py", launcher=RANKS)
    _, errors = end(training)
    assert training.returncode == 1
    assert errors.count("Traceback") == 1
    assert "KeyError: 'no such shard'" in errors
    assert error_lines(errors) == []


@pytest.mark.slow
def test_ranks_are_started_again_after_one_has_fallen_silent(tmp_path):
    (tmp_path / "silent.py").write_text(SILENT_ONCE)
    options = "--data.name synthetic --run.choose false --run.dir run --run.save_every 4 --timeout 5"
    again = (*RANKS, "--max-restarts=1", "--shutdown-timeout=1")
    training = start(tmp_path, options, "silent.py", launcher=again)
    output, errors = end(training, seconds=240)
    assert training.returncode == 0, errors
    (line,) = error_lines(errors)
    assert line.startswith("error: rank 0 has lost the others (")
    assert "Going on after step 4 of" in output
    assert (tmp_path / "run" / "metrics.json").exists()
