"""Hosts that share users and have no common disk: interactions and run folder lie in an object store."""

import json
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest
import s3fs

from tests.distributed.ranks import run_on_ranks
from tests.shares.hosts import as_hosts, configured, interactions, on_host, write_partitioned
from tests.stores import BUCKET, as_client, cache_of, s3_server, variables_of_client
from trainer.config.resume import resumed_config
from trainer.config.schema import Config
from trainer.dataset.vocabulary import open_vocabulary
from trainer.distributed.world import World
from trainer.object_storage.copies import open_place
from trainer.training.train import train

OPTIONS = (
    *("--data.split", "leave_last_out", "--model.dim", "8", "--batches.size", "16", "--run.epochs", "2"),
    *("--run.tensorboard", "false", "--evaluation.k", "5"),
)
pytestmark = pytest.mark.distributed


def train_both(world: World, local: Config, stored: Config, root: Path, client: dict[str, str]) -> list[str]:
    """Train on one host from a file, and on two from a store; the folders that the last host fetched."""
    with mock.patch("trainer.training.train.join_world", return_value=nullcontext(world)):
        train(on_host(world, local, root / "cache"))
    caches = root / f"host-{world.rank}"
    host = mock.patch("trainer.training.train.join_world", return_value=nullcontext(as_hosts(world, 1)))
    with host, as_client(client | cache_of(caches)):
        train(resumed_config(stored, []))
    return sorted({path.parent.name for path in caches.rglob("part-*.parquet")})


def test_hosts_fetch_their_own_users_and_leave_a_whole_run(tmp_path: Path) -> None:
    table = interactions()
    pq.write_table(table, tmp_path / "plain.parquet")
    local = configured(*OPTIONS, "--data.interactions", str(tmp_path / "plain.parquet"))
    local = replace(local, run=replace(local.run, dir=str(tmp_path / "local")))
    with s3_server():
        folder = write_partitioned(tmp_path / "log", table, buckets=4)
        s3fs.S3FileSystem().put(str(folder), f"{BUCKET}/log", recursive=True)
        data = replace(local.data, interactions=f"s3://{BUCKET}/log")
        stored = replace(local, data=data, run=replace(local.run, dir=f"s3://{BUCKET}/run"))
        work = train_both, local, stored, tmp_path, variables_of_client()
        fetched = run_on_ranks(2, *work, timeout=120)
        with mock.patch.dict(os.environ, cache_of(tmp_path / "reader")):
            run = open_place(f"s3://{BUCKET}/run")
    assert fetched == [["user_bucket=0", "user_bucket=2"], ["user_bucket=1", "user_bucket=3"]]
    reports = [json.loads((each / "metrics.json").read_text()) for each in (run, tmp_path / "local")]
    assert reports[0]["model"] == reports[1]["model"]
    found, expected = open_vocabulary(run), open_vocabulary(tmp_path / "local")
    assert found.user_ids.equals(expected.user_ids)
    assert found.seen.values.tolist() == expected.seen.values.tolist()
