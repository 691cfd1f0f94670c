"""What the parts of the GPU check use of the project: trainings by commands, and a model of two tables."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchrec import KeyedJaggedTensor
from torchrec.optim.keyed import CombinedOptimizer

from trainer.cli import main
from trainer.distributed.world import World, join_world
from trainer.model.towers import TwoTowers
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import Cluster, hardware_here
from trainer.planning.plan import Plan
from trainer.planning.planner import make_plan
from trainer.sharding.model_state import local_shards, whole_state
from trainer.sharding.shard import shard
from trainer.sharding.torchrec_plan import sharding_plan

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--data.name",
    "synthetic",
    "--data.synthetic_users",
    "1500",
    "--data.synthetic_items",
    "600",
    "--data.synthetic_interactions",
    "50000",
    "--model.dim",
    "32",
    "--run.epochs",
    "4",
    "--batches.size",
    "64",
    "--run.choose",
    "false",
    "--run.tensorboard",
    "false",
    "--run.log_every",
    "10",
    "--evaluation.baselines",
    "popularity",
]
"""A training of a second or two, whose every tenth loss is recorded."""


def data_root() -> Path | None:
    """Return the folder of MovieLens data, where there is one."""
    root = Path(os.environ.get("SHARDTOWER_DATA") or ROOT.parent / "shared" / "data")
    return root if (root / "ml-100k").is_dir() else None


def train(
    folder: Path, name: str, device: str, *options: str, fresh: bool = True, base: list[str] = SMALL
) -> Path:
    """Train by the command line into `folder`/`name`, and return the run folder.

    Raises:
        RuntimeError: The training failed; the message ends with what it printed last.
    """
    run, heard = folder / name, io.StringIO()
    if fresh:
        shutil.rmtree(run, ignore_errors=True)
    words = ["train", *base, "--data.cache", str(folder / "cache"), "--device", device, "--run.dir", str(run)]
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        code = main([*words, *options])
    print(heard.getvalue()[-2000:])
    if code:
        raise RuntimeError(f"exit code {code}: {heard.getvalue().strip().splitlines()[-1][:300]}")
    return run


def last_loss(run: Path) -> float:
    """Return the last loss that a training recorded."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record][-1]


def report(run: Path) -> dict:
    """Return the report of a finished training."""
    return json.loads((run / "metrics.json").read_text())


@dataclass
class TwoTables:
    """A sharded model of a user and an item table whose vectors are their rows.

    Attributes:
        model: Takes ids of users and of items.
        tables: Values of each table on this rank.
    """

    model: nn.Module
    optimizer: CombinedOptimizer
    plan: Plan
    tables: dict[str, torch.Tensor]

    def vectors(self, users: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Look up rows, (B, dim) each."""
        return self.model(keyed("user", users), keyed("item", items))


def keyed(name: str, ids: torch.Tensor) -> KeyedJaggedTensor:
    """Return bags of one id each."""
    return KeyedJaggedTensor(
        [name], ids, lengths=torch.ones(len(ids), dtype=torch.int32, device=ids.device), stride=len(ids)
    )


@contextlib.contextmanager
def world_of(device: str) -> Iterator[World]:
    """Join a world of one."""
    with join_world(device) as world:
        yield world


def two_tables(
    world: World, users: int, items: int, dim: int, optimizer: str, kind: str, rate: float, bags: int
) -> TwoTables:
    """Make the model on the world's device, its tables with normal values made there."""
    towers = TwoTowers({"user": users}, {"item": items}, dim, similarity="dot")
    constraints = {name: TableConstraint((kind,), bags) for name in ("user", "item")}
    cluster = Cluster(hardware_here(world.device.type), world.size, world.local_size)
    plan = make_plan(towers, constraints, optimizer=optimizer, cluster=cluster)
    model, own = shard(
        towers,
        sharding_plan(plan, towers, world.device.type, world.local_size),
        device=world.device,
        optimizer=optimizer,
        learning_rates={"user": rate, "item": rate},
        dense_learning_rate=rate,
        weight_decay=0.0,
    )
    tables = {}
    with torch.no_grad():
        for key, value in whole_state(model).items():
            if "embedding_bags" in key:
                for values, _, _ in local_shards(value):
                    values.normal_(0, 0.1)
                    tables[key.split(".")[-2]] = values
    return TwoTables(model, own, plan, tables)
