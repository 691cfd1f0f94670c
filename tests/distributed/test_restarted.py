"""Ranks that a launcher starts again go on in the run that they began, and never in another one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.launches import (
    RANKS,
    STANDALONE,
    TORCHRUN,
    end,
    environment,
    kill_all,
    process_of,
    start,
    static_meeting,
)

pytestmark = pytest.mark.distributed

TRAINING = (
    "--data.name synthetic --run.choose false --run.tensorboard false --model.dim 16 --batches.size 64 "
    "--run.save_every 4 --run.epochs 20"
)
KILLED_AT_FIRST = """
import os, signal, sys
from trainer.cli import main
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main(sys.argv[1:]))
"""


def kill_a_rank_after_a_save(training: subprocess.Popen[str], folder: Path) -> tuple[Path, str, str]:
    """Kill the second rank once its run has a checkpoint; the run, and what was written until the end."""
    try:
        run = folder / next(line for line in training.stdout if line.startswith("Run: ")).split()[1]
        assert any(line.startswith("epoch") for line in training.stdout)
        assert any(run.glob("checkpoints/*[0-9]"))
        process_of(training, 1).kill()
        return run, *end(training, seconds=180)
    finally:
        kill_all(training)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has checkpoints and no end, of an earlier launch with a static rendezvous."""
    folder = tmp_path_factory.mktemp("crashed")
    kill_a_rank_after_a_save(start(folder, TRAINING, meeting=static_meeting()), folder)
    return folder


@pytest.fixture
def older(crashed: Path, tmp_path: Path) -> Path:
    """That run, beside which another training is to begin in `tmp_path`."""
    (tmp_path / "cache").symlink_to(crashed / "cache")
    shutil.copytree(crashed / "runs", tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    return run


def files(run: Path) -> dict[Path, int]:
    """When each file of a run was written."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(RANKS, id="ranks.py", marks=pytest.mark.slow),
        pytest.param(TORCHRUN, id="torchrun, static"),
    ],
)
def test_a_training_goes_on_in_its_own_run_when_a_rank_was_killed(launcher, older, tmp_path):
    meeting = STANDALONE if launcher is RANKS else static_meeting()
    before = files(older)
    training = start(tmp_path, TRAINING, launcher=launcher, meeting=(*meeting, "--max-restarts=1"))
    run, output, errors = kill_a_rank_after_a_save(training, tmp_path)
    assert training.returncode == 0, errors[-3000:]
    assert f"Run: {run.relative_to(tmp_path)}\n" in output
    assert "\nGoing on after step " in output
    assert files(older) == before
    assert {*(tmp_path / "runs").iterdir()} == {older, run}


@pytest.mark.slow
def test_ranks_that_were_killed_before_they_had_a_run_take_no_older_one_for_theirs(older, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED_AT_FIRST)
    before = files(older)
    meeting = (*static_meeting(), "--max-restarts=1")
    training = start(tmp_path, TRAINING, "killed.py", meeting=meeting)
    output, errors = end(training, seconds=180)
    assert training.returncode == 0, errors[-3000:]
    assert "Going on" not in output
    assert files(older) == before
    assert len(os.listdir(tmp_path / "runs")) == 2


def test_where_no_id_tells_a_launch_from_others_restarts_need_a_run_folder(tmp_path):
    hosts = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    launch = {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    training = subprocess.run(
        [sys.executable, "-m", "trainer", "train", *TRAINING.split()],
        cwd=tmp_path,
        env=environment() | hosts | launch,
        capture_output=True,
        text=True,
    )
    assert training.returncode == 2
    (line,) = training.stderr.splitlines()
    assert line.startswith("error: --max-restarts 3: without a --rdzv-id, restarted ranks could take")
    assert line.endswith("Name the run folder: --run.dir DIR")
    assert os.listdir(tmp_path) == []
