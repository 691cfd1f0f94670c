"""Hosts that share users, as network namespaces: each has its own part of the files, and its own cache."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.launches import RANKS, environment
from tests.launch.hosts import connected, namespaces_are_allowed
from tests.shares.hosts import interactions, write_partitioned

TRAINING = (
    *("--device", "cpu", "--data.name", "files", "--data.share", "users", "--run.choose", "false"),
    *("--data.split", "leave_last_out", "--run.tensorboard", "false", "--model.dim", "16"),
    *("--batches.size", "16", "--run.epochs", "2"),
)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_hosts_with_half_of_the_files_each_have_the_metrics_of_one_host(tmp_path: Path) -> None:
    if not namespaces_are_allowed():
        pytest.skip("network namespaces are not allowed here")
    table = interactions()
    write_partitioned(tmp_path / "all", table, 8)
    options = {}
    for host, ranks in ((1, (0, 1)), (2, (2, 3))):
        own = [bucket for bucket in range(8) if bucket % 4 in ranks]
        write_partitioned(tmp_path / f"part{host}", table, 8, own)
        options[host] = ["--data.interactions", f"part{host}", "--data.cache", f"cache{host}"]
    with connected(2) as hosts:
        started = [
            hosts.start(host, tmp_path, [*TRAINING, *options[host], "--run.dir", "several"])
            for host in options
        ]
        codes = [process.wait(timeout=180) for process in started]
        assert codes == [0, 0], (tmp_path / "host1.log").read_text()
    words = ["--standalone", "--nproc_per_node=4", "-m", "trainer", "train", *TRAINING]
    words += ["--data.interactions", "all", "--data.cache", "cache", "--run.dir", "one"]
    subprocess.run(
        [sys.executable, *RANKS, *words], cwd=tmp_path, env=environment(), check=True, capture_output=True
    )
    one, several = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "several"))
    for ranker in ("model", "popularity", "random"):
        assert several[ranker] == one[ranker]
    for name in ("users.arrow", "by_user_known_values.npy"):
        paths = [tmp_path / run / "vocabulary" / name for run in ("one", "several")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
