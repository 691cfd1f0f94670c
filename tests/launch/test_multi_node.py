"""Trainings on several hosts, which are network namespaces with addresses of their own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import trainer
from tests.distributed.launches import RANKS, environment
from tests.launch.hosts import ROOT, SCRIPT, connected, kill, namespaces_are_allowed

TRAINING = (
    *("--device", "cpu", "--data.name", "synthetic", "--data.cache", "cache", "--run.choose", "false"),
    *("--run.tensorboard", "false", "--model.dim", "16", "--batches.size", "64"),
)


@pytest.fixture(scope="module")
def allowed() -> None:
    if not namespaces_are_allowed():
        pytest.skip("network namespaces are not allowed here")


def figures(run: Path) -> dict:
    """What a training measured, without its place and times."""
    report = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in report.items() if name not in ("run", "seconds")}


def wait_until(reached: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("count", [2, 3])
def test_several_hosts_with_one_run_folder_have_the_metrics_of_one_host(count: int, tmp_path: Path) -> None:
    options = [*TRAINING, "--run.epochs", "1", "--run.dir"]
    with connected(count) as hosts:
        started = [hosts.start(host, tmp_path, [*options, "several"]) for host in range(1, count + 1)]
        codes = [process.wait(timeout=180) for process in started]
        assert codes == [0] * count, (tmp_path / "host1.log").read_text()
    one_host = ["--standalone", f"--nproc_per_node={2 * count}", "-m", "trainer", "train", *options, "one"]
    subprocess.run(
        [sys.executable, *RANKS, *one_host], cwd=tmp_path, env=environment(), check=True, capture_output=True
    )
    assert figures(tmp_path / "several") == figures(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("allowed")
def test_a_training_goes_on_when_a_host_that_was_cut_off_is_back(tmp_path: Path) -> None:
    options = [
        *TRAINING,
        "--run.epochs",
        "10",
        "--run.save_every",
        "20",
        "--timeout",
        "15",
        "--run.dir",
        "run",
    ]
    with connected(2) as hosts:
        first, second = hosts.start(1, tmp_path, options), hosts.start(2, tmp_path, options)
        wait_until(lambda: any((tmp_path / "run").glob("checkpoints/*[0-9]")))
        hosts.cut_off(2)
        kill(second)
        time.sleep(5)
        assert first.poll() is None
        hosts.bring_back(2)
        second = hosts.start(2, tmp_path, options)
        codes = first.wait(timeout=180), second.wait(timeout=60)
    output = (tmp_path / "host1.log").read_text() + (tmp_path / "host2.log").read_text()
    assert codes == (0, 0), output
    assert "Going on after step " in output
    assert (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    ("host", "words"), [(1, "not all hosts have met in time"), (2, "nothing answers there")]
)
def test_hosts_that_wait_for_one_that_never_comes_end_in_time_with_one_line(
    host: int, words: str, tmp_path: Path
) -> None:
    with connected(2) as hosts:
        waiting = hosts.start(host, tmp_path, [*TRAINING, "--run.dir", "run"], SHARDTOWER_JOIN_SECONDS="6")
        assert waiting.wait(timeout=60) == 1
    (line,) = (tmp_path / f"host{host}.log").read_text().splitlines()
    assert line.startswith(f"error: --rdzv-endpoint 10.77.0.1:29400: {words}")
    assert os.listdir(tmp_path) == [f"host{host}.log"]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SHARDTOWER_NODES", "two", "a number of hosts, or MIN:MAX"),
        ("SHARDTOWER_NODES", "3:2", "a number of hosts, or MIN:MAX"),
        ("SHARDTOWER_ENDPOINT", "10.0.0.1", "HOST:PORT of the first host"),
        ("SHARDTOWER_RANKS", "0", "a number from 1"),
        ("SHARDTOWER_RESTARTS", "-1", "a number from 0"),
        ("SHARDTOWER_JOIN_SECONDS", "1m", "a number of seconds from 1"),
    ],
)
def test_a_wrong_variable_is_one_line_and_exit_code_2(variable: str, value: str, expected: str) -> None:
    usual = {"SHARDTOWER_NODES": "2", "SHARDTOWER_ENDPOINT": "10.0.0.1:29400", "SHARDTOWER_PYTHON": "false"}
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=os.environ | usual | {variable: value}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == f"multi_node: {variable} is '{value}', expected {expected}\n"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("allowed")
def test_a_host_with_other_code_or_a_folder_of_its_own_is_named_before_the_first_step(tmp_path: Path) -> None:
    """Restarts are allowed, and the hosts end all the same."""
    code, own = tmp_path / "code", tmp_path / "own"
    shutil.copytree(ROOT / "trainer", code / "trainer")
    (code / "trainer" / "errors.py").open("a").write("# changed\n")
    own.mkdir()
    options = [*TRAINING, "--run.epochs", "1", "--run.dir", "run"]
    with connected(2) as hosts:
        started = [hosts.start(1, tmp_path, options), hosts.start(2, own, options, PYTHONPATH=str(code))]
        assert [process.wait(timeout=120) for process in started] == [2, 2]
        started = [hosts.start(1, tmp_path, options), hosts.start(2, own, options)]
        assert [process.wait(timeout=120) for process in started] == [2, 2]
    first, second = ((folder / f"host{n}.log").read_text() for n, folder in ((1, tmp_path), (2, own)))
    version, folder = (line for line in first.splitlines() if line.startswith("error: "))
    assert version.startswith(f"error: shardtower {trainer.__version__}, code: ")
    assert " on host1 (rank 0), " in version
    assert " on host2 (rank 2). Install the same on all hosts" in version
    assert folder.startswith("error: --run.dir run: host2 (rank 2) does not see what host1 (rank 0) writes")
    assert [line for line in second.splitlines() if line.startswith("error: ")] == [version, folder]
    assert not (tmp_path / "run").exists()
