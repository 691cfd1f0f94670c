"""Start-up, memory and step time of one large table, by its rows.

    python -m tests.benchmarks.scale [--rows 100000 1000000 10000000 50000000] [--ranks 1 4] [--json FILE]

Towers with a large table of users and a small one of items train on random ids, uniform and Zipf-like, with
row-wise Adagrad. Resident bytes are those that a rank added since before its tables were laid out, beside
weights and optimizer state. What a step costs above the smallest table's stands beside the time in which as
many random rows are read and written in the table with nothing else done. Set OMP_NUM_THREADS=1. Steps of a
single rank are timed by the processor's clock, which stands while others have the core.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec import KeyedJaggedTensor

from tests.distributed.ranks import run_on_ranks
from trainer.distributed.world import World
from trainer.model.towers import TwoTowers
from trainer.planning.capacity import TooLargeError
from trainer.planning.constraints import TableConstraint
from trainer.planning.hardware import Cluster, this_cpu
from trainer.planning.planner import make_plan
from trainer.sharding.model_state import whole_state
from trainer.sharding.shard import shard
from trainer.sharding.table_values import fill_tables, normal_block
from trainer.sharding.torchrec_plan import sharding_plan

DIM, BATCH, ITEMS = 64, 8192, 10_000
WARM_STEPS, STEPS = 10, 50
IDS = ("uniform", "zipf")
SPREAD = 2_654_435_761
"""A prime that spreads popular rows over the table."""


def measured(world: World, rows: int, kind: str) -> dict[str, Any]:
    """Figures of one rank: seconds of its start, its bytes, and seconds of a step by kind of ids."""
    parts = {"user": world.size} if kind == "row_partitioned" else {}
    towers = TwoTowers({"user": rows}, {"item": ITEMS}, DIM, partitions=parts)
    wishes = {name: TableConstraint(("table_wise",), BATCH) for name in ("user", "item")}
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    cluster = Cluster(this_cpu(), world.size, world.size)
    plan = make_plan(towers, wishes, optimizer="rowwise_adagrad", cluster=cluster)
    model, optimizer = shard(
        towers,
        sharding_plan(plan, towers, "cpu", world.local_size),
        device=world.device,
        optimizer="rowwise_adagrad",
        learning_rates=dict.fromkeys(wishes, 0.1),
        dense_learning_rate=0.1,
        weight_decay=0,
    )
    laid_out = time.perf_counter()
    fill_tables(model, lambda table, block: normal_block(0, table, block, DIM, 0.1))
    filled = time.perf_counter()
    peak_of_start = _peak() - before
    held = plan.ranks[world.rank].bytes
    steps = {ids: seconds_of_a_step(world, model, optimizer, rows, ids) for ids in IDS}
    return {
        "lay_out_seconds": laid_out - started,
        "fill_seconds": filled - laid_out,
        "planned": held,
        "added": psutil.Process().memory_info().rss - before,
        "peak_of_start": peak_of_start,
        "step_seconds": steps,
        "touch_seconds": {ids: touch(model, ids) for ids in IDS},
    }


def seconds_of_a_step(world: World, model: torch.nn.Module, optimizer: Any, rows: int, ids: str) -> float:
    """Median over steps, each begun by all ranks together."""
    generator, seconds = torch.Generator().manual_seed(world.rank), []
    clock = time.process_time if world.size == 1 else time.perf_counter
    for _ in range(WARM_STEPS + STEPS):
        users, items = (draw(ids, count, BATCH // world.size, generator) for count in (rows, ITEMS))
        world.sum(torch.zeros(1))
        begun = clock()
        step(model, optimizer, users, items)
        seconds.append(clock() - begun)
    return median(seconds[WARM_STEPS:])


def draw(ids: str, rows: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """Random rows, all with the same chance, or with a chance that falls with 1 / popularity rank."""
    if ids == "uniform":
        return torch.randint(rows, (count,), generator=generator)
    ranks = (rows ** torch.rand(count, generator=generator, dtype=torch.float64)).long() - 1
    return ranks * SPREAD % rows


def step(model: torch.nn.Module, optimizer: Any, users: torch.Tensor, items: torch.Tensor) -> None:
    """One step on pairs of a user and an item."""
    queries, candidates = (
        KeyedJaggedTensor([name], ids, lengths=torch.ones(len(ids), dtype=torch.int32))
        for name, ids in (("user", users), ("item", items))
    )
    optimizer.zero_grad()
    vectors, others = model(queries, candidates)
    (vectors * others).sum().backward()
    optimizer.step()


def touch(model: torch.nn.Module, ids: str) -> float:
    """Median seconds in which a step's share of random rows of this rank's users is read and written."""
    tables = [value for key, value in whole_state(model).items() if ".user" in key]
    local = [
        part.tensor for value in tables if isinstance(value, ShardedTensor) for part in value.local_shards()
    ]
    rows = sum(map(len, local))
    if not rows:
        return 0.0
    (table,) = local
    generator, seconds = torch.Generator().manual_seed(7), []
    for _ in range(WARM_STEPS + STEPS):
        chosen = draw(ids, rows, BATCH, generator)
        begun = time.process_time()
        table.index_copy_(0, chosen, table.index_select(0, chosen))
        seconds.append(time.process_time() - begun)
    return median(seconds[WARM_STEPS:])


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def scale(sizes: list[int], ranks: list[int]) -> list[dict[str, Any]]:
    """A line for each number of ranks, sharding and size."""
    found: list[dict[str, Any]] = []
    for size in ranks:
        for kind in ("table_wise", "row_partitioned") if size > 1 else ("table_wise",):
            first = None
            for rows in sizes:
                line = {"ranks": size, "sharding": kind, "rows": rows}
                try:
                    each = run_on_ranks(size, measured, rows, kind, timeout=900)
                except TooLargeError as error:
                    print(f"{size} ranks  {kind:<16}{rows:>12,} rows  {str(error)[:80]}", flush=True)
                    found.append(line | {"refused": str(error)})
                    continue
                first = first or each
                found.append(line | {"by_rank": each})
                print(show(line, each, first), flush=True)
    return found


def show(line: dict[str, Any], each: list[dict[str, Any]], first: list[dict[str, Any]]) -> str:
    """A line and, below it, what a step costs above the smallest table's."""
    fullest = max(each, key=lambda rank: rank["planned"])
    text = (
        f"{line['ranks']} ranks  {line['sharding']:<16}{line['rows']:>12,} rows  start "
        f"{max(rank['lay_out_seconds'] + rank['fill_seconds'] for rank in each):6.2f} s  fullest rank "
        f"{fullest['planned'] / 1e9:7.3f} GB planned, {fullest['added'] / fullest['planned']:.3f} times that "
        f"added, {fullest['peak_of_start'] / fullest['planned']:.3f} at most"
    )
    for ids in IDS:
        now, then = (_longest(ranks, "step_seconds", ids) for ranks in (each, first))
        more = _longest(each, "touch_seconds", ids) - _longest(first, "touch_seconds", ids)
        text += (
            f"\n    {ids:<8} step {1e3 * now:7.2f} ms, {now / then:.2f} times the smallest's, "
            f"{1e3 * (now - then):+.2f} ms; reading and writing its rows alone {1e3 * more:+.2f} ms"
        )
    return text


def _longest(each: list[dict[str, Any]], what: str, ids: str) -> float:
    return max(rank[what][ids] for rank in each)


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7, 5 * 10**7], help="of the user table"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = scale(options.rows, options.ranks)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
