"""What the launcher says where a signal ends a rank: which one, what it means, and how to go on."""

import importlib.util
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tests.distributed.launches import RANKS, end, environment, kill_all, process_of, start

pytestmark = pytest.mark.distributed

ENDLESS = (
    *("--data.name", "synthetic", "--run.choose", "false", "--run.tensorboard", "false", "--model.dim", "16"),
    *("--batches.size", "64", "--run.log_every", "5", "--run.epochs", "1000000"),
)
BY_MEMORY = "error: rank 1 was killed by signal 9 (SIGKILL): the system sends it when memory runs out"
KILLED_FIRST = """
import os, sys, time
if os.environ["RANK"] == "1":
    os.kill(os.getpid(), int(sys.argv[-1]))
time.sleep(0.5)
sys.exit(1)
"""


def kill(
    training: subprocess.Popen[str], rank: int, awaited: Callable[[], Any] = lambda: True
) -> tuple[str, str]:
    """Kill a rank once a training has records and what is awaited is there; what it wrote until its end."""
    try:
        assert any(line.startswith("epoch") and awaited() for line in training.stdout)
        process_of(training, rank).kill()
        return end(training)
    finally:
        kill_all(training)


def first_line(command: str, folder: Path, start_of_line: str) -> str:
    """The first line of the kind that a shell command prints, which is ended then."""
    shell = subprocess.Popen(
        command,
        shell=True,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        return next(line for line in shell.stdout if line.startswith(start_of_line))
    finally:
        kill_all(shell)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(["--run.dir", "it's a run"], id="--run.dir"),
        pytest.param([], id="runs/", marks=pytest.mark.slow),
    ],
)
def test_a_killed_rank_is_named_with_a_command_that_goes_on_where_it_is_printed(given, tmp_path):
    training = start(tmp_path, [*ENDLESS, "--run.save_every", "20", *given], launcher=RANKS)
    _, errors = kill(training, 1, lambda: any(tmp_path.rglob("step-*0/state.json")))
    assert training.returncode == 128 + signal.SIGKILL
    (line,) = errors.splitlines()
    words, command = line.split(". Go on with: ")
    assert words == BY_MEMORY
    assert " --nproc_per_node=2 -m trainer train --run.dir " in command
    assert first_line(command, tmp_path, "Going on").startswith("Going on after step ")


def test_where_nothing_was_saved_it_says_how_to_save(tmp_path):
    training = start(tmp_path, ENDLESS, launcher=RANKS)
    _, errors = kill(training, 1)
    assert training.returncode == 128 + signal.SIGKILL
    words = "Nothing was saved to go on from; --run.save_every 500 saves after every 500 steps"
    assert errors == f"{BY_MEMORY}. {words}\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, BY_MEMORY),
        (
            signal.SIGSEGV,
            "error: rank 1 was killed by signal 11 (SIGSEGV): native code has used memory that is",
        ),
        (signal.SIGUSR1, "error: rank 1 was killed by signal 10 (SIGUSR1)\n"),
    ],
)
def test_ranks_that_train_nothing_are_named_too(number, words, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED_FIRST)
    training = start(tmp_path, str(number.value), "killed.py", launcher=RANKS, ranks=3)
    _, errors = end(training)
    assert errors.startswith(words)
    assert errors.count("\n") == 1
    assert training.returncode == 128 + number


def test_of_ranks_that_end_at_once_the_killed_one_is_the_first():
    launcher = launcher_module()
    failures = {
        rank: ProcessFailure(local_rank=rank, pid=rank, exitcode=code, error_file="none")
        for rank, code in enumerate((1, -signal.SIGABRT, -signal.SIGKILL, -signal.SIGTERM))
    }
    for failure in failures.values():
        failure.timestamp = 7
    assert launcher.first_failure(failures)[0] == 2
    # Ranks that do not end when they are told to are killed by torchrun, later.
    failures[2].timestamp = 37
    assert launcher.first_failure(failures)[0] == 0


def launcher_module():
    """launch/ranks.py, imported."""
    spec = importlib.util.spec_from_file_location("launcher", RANKS[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_rank_that_is_killed_when_the_training_is_over_takes_nothing_from_it(tmp_path):
    (tmp_path / "note").write_text(str(tmp_path / "my run"))
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "metrics.json").touch()
    words = launcher_module().next_words(tmp_path / "note", [])
    assert words == f"The training was over; its run is '{tmp_path}/my run'"


def test_a_rank_that_is_killed_while_settings_are_chosen_leaves_trials_to_go_on_from(tmp_path):
    run = tmp_path / "my run"
    (tmp_path / "note").write_text(str(run))
    (run / "tuning").mkdir(parents=True)
    assert launcher_module().next_words(tmp_path / "note", []).startswith("Nothing was saved")
    (run / "tuning" / "trials.json").touch()
    words = launcher_module().next_words(tmp_path / "note", [])
    assert words.startswith("Go on with: ")
    assert words.endswith(f"train --run.dir '{run}'")
