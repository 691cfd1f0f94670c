"""Hosts that share users, played by ranks of this machine: each with a cache of its own."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.config.parser import parse_config
from trainer.config.schema import Config
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.distributed.world import World
from trainer.shares.prepare import prepare_shares
from trainer.storage.user_buckets import MANIFEST, bucket_folder, manifest_text, user_buckets

USERS, ITEMS, ROWS = 80, 30, 1500
SHARED = ("--data.share", "users", "--run.choose", "false", "--device", "cpu")


def interactions(seed: int = 0) -> pa.Table:
    """Made-up interactions with repeats and ties in time; ids of users are texts, those of items numbers."""
    rng = np.random.default_rng(seed)
    users = rng.integers(USERS, size=ROWS)
    items = np.minimum(rng.geometric(0.12, ROWS), ITEMS) + users % 3
    return pa.table(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": items,
            "value": rng.integers(1, 6, ROWS).astype(np.float32),
            "timestamp": rng.integers(0, 400, ROWS),
        }
    )


def write_partitioned(folder: Path, table: pa.Table, buckets: int, kept: Sequence[int] | None = None) -> Path:
    """Write interactions partitioned by user; of the buckets, those that are kept."""
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(manifest_text(buckets))
    found = user_buckets(table["user_id"].combine_chunks(), buckets)
    for bucket in range(buckets) if kept is None else kept:
        part = folder / bucket_folder(bucket)
        part.mkdir()
        pq.write_table(table.filter(pa.array(found == bucket)), part / "part-0.parquet")
    return folder


def as_hosts(world: World, ranks_per_host: int) -> World:
    """The same ranks as if they were spread over hosts."""
    local = world.rank % ranks_per_host
    return replace(world, local_rank=local, local_size=ranks_per_host)


def configured(*options: str) -> Config:
    """A configuration for all hosts, read once: that takes longer than preparing what is so small."""
    return parse_config([*SHARED, "--data.name", "files", *options])


def on_host(world: World, config: Config, cache: Path) -> Config:
    """The same on one host, with a cache of its own; `{host}` in a path stands for its first rank."""
    host = world.rank - world.local_rank
    own = str(cache / f"{world.local_size}-{host}")
    interactions = str(config.data.interactions).replace("{host}", str(host))
    return replace(config, data=replace(config.data, cache=own, interactions=interactions))


def prepared(world: World, cache: Path, ranks_per_host: int, config: Config) -> dict[str, Any]:
    """What a host has prepared, on its first rank."""
    world = as_hosts(world, ranks_per_host)
    return facts(open_dataset(prepare_shares(on_host(world, config, cache).data, world)))


def facts(dataset: Dataset) -> dict[str, Any]:
    """What a data set holds, in terms that do not depend on how users and items are numbered."""
    users, items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    splits = {}
    for split in ("train", "validation", "test"):
        by_user = dataset.held_out(split)
        lengths, values = by_user.take(np.arange(len(users)))
        owners = np.repeat(np.arange(len(users)), lengths)
        splits[split] = {(users[u], items[i]) for u, i in zip(owners, values, strict=True)}
    return {
        "splits": splits,
        "users": users,
        "items": items,
        "popularity": dict(zip(items, dataset.item_popularity().tolist(), strict=True)),
        "report": dataset.report,
        "cuts": None if dataset.shares is None else dataset.shares.cuts.tolist(),
        "digests": None if dataset.shares is None else dataset.shares.digests,
        "lengths": dataset.counts_by_user("train").tolist(),
        "files": sorted(path.name for path in dataset.folder.parent.iterdir()),
    }


def merged(hosts: Sequence[Mapping[str, Any]]) -> dict[str, set]:
    """The union of the splits of hosts, which have no pair in common."""
    found = {}
    for split in ("train", "validation", "test"):
        parts = [host["splits"][split] for host in hosts]
        found[split] = set().union(*parts)
        assert len(found[split]) == sum(map(len, parts))
    return found


def trained(
    world: World, work: Callable[[Config], Any], cache: Path, ranks_per_host: int, config: Config
) -> Any:
    """What a training command returns in these ranks, as if they were spread over hosts."""
    world = as_hosts(world, ranks_per_host)
    with (
        mock.patch("trainer.training.train.join_world", return_value=nullcontext(world)),
        mock.patch("trainer.training.run_evaluation.join_world", return_value=nullcontext(world)),
    ):
        return work(on_host(world, config, cache))
