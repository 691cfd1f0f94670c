"""What a sharding plan predicts beside what a training really takes: memory, and step time with traffic.

    python -m tests.benchmarks.plans memory [--rows 2000000] [--dim 128] [--dtype float16] [--json FILE]
    python -m tests.benchmarks.plans steps [--root DIR] [--json FILE]

`memory` lays out two tables of 1 GB and trains a few steps on 1, 2 and 4 ranks: resident bytes that each rank
added since before they were laid out. `steps` trains on MovieLens 100K (or synthetic interactions) on 4 ranks
under four plans: every loss, the median step, and bytes through the loopback interface, which hold the
headers of TCP and nothing else if the machine is idle. Set OMP_NUM_THREADS=1.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch import nn
from torchrec import KeyedJaggedTensor
from torchrec.optim.keyed import CombinedOptimizer

from tests.distributed.ranks import run_on_ranks
from trainer.config.parser import parse_config
from trainer.config.schema import Config
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.distributed.world import World
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.loop import set_learning_rates
from trainer.fitting.step import make_loss, rate_factor, train_step
from trainer.model.towers import TwoTowers
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import Cluster, this_cpu
from trainer.planning.plan import Plan
from trainer.planning.planner import make_plan
from trainer.sharding.shard import shard
from trainer.sharding.table_values import fill_tables, normal_block
from trainer.sharding.torchrec_plan import sharding_plan

KINDS = ("table_wise", "column_wise", "row_partitioned", "data_parallel")
BATCH, WARM_STEPS, STEPS = 4096, 5, 40


def added_memory(world: World, kind: str, optimizer: str, rows: int, dim: int, dtype: str) -> dict[str, int]:
    """Bytes that the plan of two tables gives this rank, and those that became resident."""
    parts = dict.fromkeys(("user", "item"), world.size) if kind == "row_partitioned" else {}
    towers = TwoTowers({"user": rows}, {"item": rows}, dim, partitions=parts, table_dtype=dtype)
    wish = TableConstraint((kind,), BATCH)
    wishes = {"user": wish, "item": wish}
    cluster = Cluster(this_cpu(), world.size, world.size)
    plan = make_plan(towers, wishes, optimizer=optimizer, cluster=cluster)
    before = psutil.Process().memory_info().rss
    model, combined = shard(
        towers,
        sharding_plan(plan, towers, "cpu", world.local_size),
        device=world.device,
        optimizer=optimizer,
        learning_rates=dict.fromkeys(wishes, 0.1),
        dense_learning_rate=0.1,
        weight_decay=0,
    )
    fill_tables(model, lambda table, block: normal_block(0, table, block, dim, 0.1))
    generator = torch.Generator().manual_seed(world.rank)
    for _ in range(3):
        step_at_random(model, combined, rows, BATCH // world.size, generator)
    added = psutil.Process().memory_info().rss - before
    return {"planned": plan.ranks[world.rank].bytes, "measured": added}


def step_at_random(
    model: nn.Module, optimizer: CombinedOptimizer, rows: int, count: int, generator: torch.Generator
) -> None:
    """One step on `count` pairs of random rows of the user and the item table."""
    ones = torch.ones(count, dtype=torch.int32)
    queries, items = (
        KeyedJaggedTensor([name], ids, lengths=ones)
        for name, ids in zip(
            ("user", "item"), torch.randint(rows, (2, count), generator=generator), strict=True
        )
    )
    optimizer.zero_grad()
    vectors, candidates = model(queries, items)
    (vectors * candidates).sum().backward()
    optimizer.step()


def memory(rows: int, dim: int, dtype: str) -> list[dict[str, Any]]:
    """A line for each world size, sharding and optimizer."""
    cases = [(size, kind, "rowwise_adagrad") for size in (1, 2, 4) for kind in KINDS[:3]]
    dense = [(1, "table_wise", "adam"), (2, "data_parallel", "sgd")] if dtype == "float32" else []
    found = []
    for size, kind, optimizer in [*cases, *dense]:
        ranks = run_on_ranks(size, added_memory, kind, optimizer, rows, dim, dtype)
        for rank, figures in enumerate(ranks):
            ratio = figures["measured"] / figures["planned"] if figures["planned"] else None
            line = {"ranks": size, "sharding": kind, "optimizer": optimizer, "rank": rank}
            found.append(line | figures | {"ratio": ratio})
            shown = f"{ratio:.3f}" if ratio else "-"
            print(
                f"{size} ranks  {kind:<16}{optimizer:<16} rank {rank}  planned "
                f"{figures['planned'] / 1e9:6.3f} GB  measured {figures['measured'] / 1e9:6.3f} GB  {shown}",
                flush=True,
            )
    return found


def watched_steps(world: World, config: Config, folder: Path) -> tuple[list[float], list[float], float, Plan]:
    """Losses and seconds of each step, loopback bytes of one, and the plan."""
    dataset = open_dataset(folder)
    config = with_fixed_values(
        with_size_defaults(config, dataset.user_count, dataset.item_count, len(dataset.train))
    )
    parts = assemble(config, dataset, world)
    source = make_batches(config, dataset, parts)
    loss_of = make_loss(config.loss, world)
    losses, seconds, sent = [], [], 0
    for step in range(1, STEPS + 1):
        batch = source.make(step - 1, world.rank, world.size)
        set_learning_rates(parts.optimizer, rate_factor(config.optimizer, step, STEPS))
        world.sum(torch.zeros(1))  # every rank is here
        before, started = _through_loopback(), time.perf_counter()
        loss = train_step(parts.model, parts.optimizer, batch, loss_of, world)
        seconds.append(time.perf_counter() - started)
        world.sum(torch.zeros(1))
        sent += (_through_loopback() - before) * (step > WARM_STEPS)
        losses.append(float(world.sum(loss)) / batch.rows)
    return losses, seconds[WARM_STEPS:], sent / (STEPS - WARM_STEPS), parts.plan


def _through_loopback() -> int:
    return psutil.net_io_counters(pernic=True)["lo"].bytes_sent


def steps(root: str) -> list[dict[str, Any]]:
    """A line for each plan, beside one rank alone."""
    name = "ml-100k" if (Path(root) / "ml-100k").is_dir() else "synthetic"
    words = f"--data.name {name} --data.root {root} --optimizer.name adagrad --device cpu".split()
    found, reference = [], None
    for ranks, kind in [(1, "table_wise"), *((4, kind) for kind in KINDS)]:
        config = parse_config([*words, "--sharding.kind", kind])
        seen = run_on_ranks(ranks, watched_steps, config, prepare_data(config.data))
        losses, seconds, wire, plan = seen[0]
        reference = reference or losses
        apart = max(abs(one - other) for one, other in zip(losses, reference, strict=True))
        planned = sum(load.bytes_sent for load in plan.ranks)
        step = 1000 * median(seconds)
        found.append(
            {
                "ranks": ranks,
                "sharding": kind,
                "largest_difference_of_losses": apart,
                "last_loss": losses[-1],
                "step_ms": step,
                "planned_step_ms": plan.estimated_step_ms,
                "wire_bytes": wire,
                "planned_wire_bytes": planned,
            }
        )
        print(
            f"{ranks} ranks  {kind:<16} losses apart {apart:.1e}  step {step:6.2f} ms, tables planned "
            f"{plan.estimated_step_ms:6.2f}  wire {wire / 1e6:6.2f} MB, planned {planned / 1e6:6.2f}",
            flush=True,
        )
    return found


def main() -> None:
    """Run the benchmark that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["memory", "steps"])
    parser.add_argument("--rows", type=int, default=2_000_000, help="of each of the two tables")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the tables")
    parser.add_argument("--root", default="data", help="holds ml-100k")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    of_memory = options.what == "memory"
    found = memory(options.rows, options.dim, options.dtype) if of_memory else steps(options.root)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
