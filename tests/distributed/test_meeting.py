"""Where ranks meet: on one host they need no name of it, and on several they say which one fails them."""

import os
import subprocess
import sys

import pytest

from tests.distributed.launches import RANKS, STANDALONE, TORCHRUN, end, environment, start

pytestmark = pytest.mark.distributed

SHORT = "--data.name synthetic --run.choose false --run.epochs 1 --run.tensorboard false --run.dir run"
NAMELESS = (
    "unshare",
    "--map-root-user",
    "--uts",
    "sh",
    "-c",
    'hostname no-such-host.invalid && exec "$@"',
    "-",
)
"""Runs a command on a machine whose own name does not resolve."""


def may_be_renamed() -> bool:
    try:
        return subprocess.run([*NAMELESS, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


needs_another_name = pytest.mark.skipif(not may_be_renamed(), reason="the host may not be called otherwise")


@needs_another_name
@pytest.mark.parametrize(
    ("launcher", "meeting"),
    [
        pytest.param(RANKS, STANDALONE, id="ranks.py --standalone"),
        pytest.param(
            TORCHRUN, ("--local-addr", "localhost"), id="torchrun --local-addr", marks=pytest.mark.slow
        ),
    ],
)
def test_ranks_of_a_host_whose_name_does_not_resolve_meet_at_localhost(launcher, meeting, tmp_path):
    training = start(tmp_path, SHORT, launcher=launcher, meeting=meeting, before=NAMELESS)
    output, errors = end(training, seconds=180)
    assert training.returncode == 0, errors[-3000:]
    assert "ndcg@10" in output
    assert "resolve" not in errors


@needs_another_name
def test_one_process_on_such_a_host_has_nothing_to_say_of_it(tmp_path):
    command = [*NAMELESS, sys.executable, "-m", "trainer", "train", "--data.cache", "cache", *SHORT.split()]
    training = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (training.returncode, training.stderr) == (0, "")


@pytest.mark.slow
def test_a_rank_that_does_not_know_the_first_host_says_so_in_one_line(tmp_path):
    somewhere = {"MASTER_ADDR": "no-such-host.invalid", "MASTER_PORT": "29500"}
    second = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    training = subprocess.run(
        [sys.executable, "-m", "trainer", "train", "--timeout", "1", *SHORT.split()],
        cwd=tmp_path,
        env=environment() | somewhere | second,
        capture_output=True,
        text=True,
    )
    assert training.returncode == 2
    (line,) = [line for line in training.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        "error: MASTER_ADDR no-such-host.invalid: rank 1 finds no such host. Name an address"
    )
    assert "--local-addr" in line
    assert "Traceback" not in training.stderr
    assert os.listdir(tmp_path) == []
