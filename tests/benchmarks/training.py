"""Training speed beside what a user would pick instead, time to a quality, and what a second rank gives.

    python -m tests.benchmarks.training cells [--repeats 5] [--json FILE]
    python -m tests.benchmarks.training quality [--root DIR] [--repeats 5] [--json FILE]
    python -m tests.benchmarks.training scaling [--root DIR] [--repeats 5] [--json FILE]

`cells`: examples/s of one process and one thread, squared error of two tables' dot product, batch building
included, for every rival of `RIVALS`. `quality`: wall seconds of whole trainings that reach NDCG@10 0.42 on
MovieLens 1M, at 1 and 2 ranks, beside implicit's ALS. `scaling`: examples/s at 1 and 2 ranks of one thread.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim import RowWiseAdagrad

from tests.benchmarks.quality import quality as quality_of
from tests.benchmarks.quality import training_matrix
from tests.benchmarks.rivals import CHOSEN, als
from tests.distributed.ranks import run_on_ranks
from trainer.config import Config
from trainer.data.dataset import open_dataset
from trainer.data.prepare import prepare_data
from trainer.options import parse_config
from trainer.parallel.shard import set_learning_rates
from trainer.parallel.world import World
from trainer.training.assembly import assemble, make_batches
from trainer.training.by_size import by_size, with_fixed_values
from trainer.training.fit import make_loss, rate_factor, train_step

SIZES = {"small": (6_040, 3_706), "large": (1_000_000, 200_000)}
"""Users and items, of MovieLens 1M and of a shop."""
BATCHES = {"small": (1_024, 8_192, 65_536), "large": (1_024, 16_384, 65_536)}
DIMS = (64, 512)
EXAMPLES, FEWEST, MOST = 500_000, 8, 300
"""Examples of one repeat, in so many steps."""
RATE, SPREAD = 0.05, 0.1
QUICK = (
    "--run.choose false --model.low_rank 0 --model.dim 96 --run.epochs 6 --optimizer.name adam "
    "--optimizer.learning_rate 0.02 --optimizer.warmup 0.5"
)
"""Chosen on a validation part; as many epochs as NDCG@10 0.42 on the test part takes, see README here."""

Examples = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Users, items and values."""
Step = Callable[[Examples], object]


def interactions(tables: str, count: int) -> Examples:
    """Random pairs, each once, with ratings."""
    users, items = SIZES[tables]
    generator = np.random.default_rng(0)
    pairs = np.unique(generator.integers(0, users * items, count + count // 8))
    pairs = generator.permutation(pairs)[:count]
    ratings = generator.integers(1, 6, len(pairs)).astype(np.float32)
    return torch.from_numpy(pairs // items), torch.from_numpy(pairs % items), torch.from_numpy(ratings)


def batches_of(examples: Examples, size: int) -> Iterator[Examples]:
    """Whole batches in an order drawn anew for each epoch, without end."""
    while True:
        order = torch.randperm(len(examples[0]))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield examples[0][rows], examples[1][rows], examples[2][rows]


def squared_error(users: torch.Tensor, items: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of dot products and values."""
    return ((users * items).sum(1) - values).pow(2).mean()


def fbgemm(tables: str, dim: int, batch: int) -> Step:
    """FBGEMM's table-batched embedding with row-wise Adagrad and no framework: the limit of one process."""
    sides = []
    for rows in SIZES[tables]:
        side = SplitTableBatchedEmbeddingBagsCodegen(
            [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=RATE,
            eps=1e-8,
            pooling_mode=PoolingMode.SUM,
        )
        side.split_embedding_weights()[0].normal_(0, SPREAD)
        sides.append(side)
    offsets = torch.arange(batch + 1)

    def step(examples: Examples) -> None:
        users, items, values = examples
        squared_error(sides[0](users, offsets), sides[1](items, offsets), values).backward()

    return step


def embedding(
    tables: str, dim: int, batch: int, sparse: bool, optimizer: Callable[..., torch.optim.Optimizer]
) -> Step:
    """`nn.Embedding` with an optimizer of torch's."""
    sides = nn.ModuleList(nn.Embedding(rows, dim, sparse=sparse) for rows in SIZES[tables])
    for side in sides.parameters():
        nn.init.normal_(side, 0, SPREAD)
    own = optimizer(sides.parameters(), lr=RATE)

    def step(examples: Examples) -> None:
        users, items, values = examples
        own.zero_grad()
        squared_error(sides[0](users), sides[1](items), values).backward()
        own.step()

    return step


def torchrec(tables: str, dim: int, batch: int) -> Step:
    """The loop of TorchRec's retrieval example: a collection a tower, sharded, fused row-wise Adagrad."""
    names = ("user", "item")
    towers = nn.ModuleDict(
        {
            name: EmbeddingBagCollection(
                tables=[
                    EmbeddingBagConfig(
                        name=name, num_embeddings=rows, embedding_dim=dim, feature_names=[name]
                    )
                ],
                device=torch.device("meta"),
            )
            for name, rows in zip(names, SIZES[tables], strict=True)
        }
    )
    apply_optimizer_in_backward(RowWiseAdagrad, towers.parameters(), {"lr": RATE, "eps": 1e-8})
    model = DistributedModelParallel(towers, device=torch.device("cpu"))
    lengths = torch.ones(batch, dtype=torch.int32)

    def step(examples: Examples) -> None:
        model.fused_optimizer.zero_grad()
        pooled = [
            model.module[name](KeyedJaggedTensor([name], ids, lengths=lengths)).wait()[name]
            for name, ids in zip(names, examples[:2], strict=True)
        ]
        squared_error(pooled[0], pooled[1], examples[2]).backward()
        model.fused_optimizer.step()

    return step


RIVALS: dict[str, Callable[[str, int, int], Step]] = {
    "FBGEMM, row-wise Adagrad": fbgemm,
    "sparse Adagrad": partial(embedding, sparse=True, optimizer=torch.optim.Adagrad),
    "dense Adagrad": partial(embedding, sparse=False, optimizer=torch.optim.Adagrad),
    "dense Adam": partial(embedding, sparse=False, optimizer=torch.optim.Adam),
    "dense Adam, fused": partial(embedding, sparse=False, optimizer=partial(torch.optim.Adam, fused=True)),
    "TorchRec's example": torchrec,
}
KINDS = ("table_wise", "row_partitioned", "data_parallel")
OURS = {"Shardtower, row-wise Adagrad": "rowwise_adagrad", "Shardtower, Adam": "adam"}


def steps_of(batch: int) -> int:
    """Steps of one repeat."""
    return min(max(EXAMPLES // batch, FEWEST), MOST)


def speed(step: Callable[[], object], batch: int, repeats: int) -> float:
    """Median examples/s."""
    for _ in range(3):
        step()
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(steps_of(batch)):
            step()
        rates.append(steps_of(batch) * batch / (time.perf_counter() - started))
    return median(rates)


def rival_speed(name: str, tables: str, dim: int, batch: int, repeats: int) -> float:
    """Examples/s of a rival's loop."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    step, source = RIVALS[name](tables, dim, batch), batches_of(interactions(tables, EXAMPLES), batch)
    return speed(lambda: step(next(source)), batch, repeats)


def our_speed(world: World, config: Config, folder: Path, repeats: int) -> float:
    """Examples/s of our steps over all ranks, batch building included."""
    torch.set_num_threads(1)
    dataset = open_dataset(folder)
    config = with_fixed_values(by_size(config, dataset.user_count, dataset.item_count, len(dataset.train)))
    parts = assemble(config, dataset, world)
    source, loss_of = make_batches(config, dataset, parts), make_loss(config)
    whole = len(source.rows_of_step(0))
    numbers = iter(range(10**9))

    def step() -> None:
        number = next(numbers)
        batch = source.make(number, world.rank, world.size)
        set_learning_rates(parts.optimizer, rate_factor(config, number + 1, 10**6))
        train_step(parts.model, parts.optimizer, batch, loss_of, world, config.optimizer.clip_gradients)

    rows = speed(step, whole, repeats)
    return rows * source.train.items.size / source.row_count


def pointwise(folder: Path, tables: str, dim: int, batch: int, *options: str) -> tuple[Config, Path]:
    """A configuration of squared errors on random interactions, and their prepared form."""
    file = folder / f"{tables}.parquet"
    if not file.exists():
        users, items, values = (column.numpy() for column in interactions(tables, EXAMPLES))
        pq.write_table(pa.table({"user_id": users, "item_id": items, "value": values}), file)
    words = (
        f"--data.name files --data.format parquet --data.interactions {file} --data.cache {folder} "
        f"--data.test_size 0.01 --batches.rows interaction --batches.size {batch} --model.dim {dim} "
        "--model.similarity dot --model.item_bias false --loss.name mse --optimizer.schedule constant "
        "--optimizer.warmup 0 --device cpu"
    )
    config = parse_config([*words.split(), *options])
    return config, prepare_data(config.data)


def cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each size of tables, width and batch."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for tables, dim in ((tables, dim) for tables in SIZES for dim in DIMS):
            for batch in BATCHES[tables]:
                line = {"tables": tables, "dim": dim, "batch": batch}
                line |= cell(Path(folder), tables, dim, batch, options.repeats)
                found.append(line)
                print(cell_words(line), flush=True)
    return found


def cell(folder: Path, tables: str, dim: int, batch: int, repeats: int) -> dict[str, float]:
    """Examples/s by rival and of ours, and the ratio of the best of ours to the best of them."""
    speeds = {}
    # A dense optimizer moves every row at every step: with large tables nobody would pick it.
    for name in (name for name in RIVALS if tables == "small" or "dense" not in name):
        # In a world of ours it would keep the memory that it frees.
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            speeds[name] = process.submit(rival_speed, name, tables, dim, batch, repeats).result()
    for title, optimizer in OURS.items():
        if tables == "small" or optimizer != "adam":
            config, prepared = pointwise(folder, tables, dim, batch, "--optimizer.name", optimizer)
            speeds[title] = run_on_ranks(1, our_speed, config, prepared, repeats, timeout=600)[0]
    ours, theirs = (max(speeds[name] for name in names if name in speeds) for names in (OURS, RIVALS))
    return speeds | {"ratio": ours / theirs}


def cell_words(line: dict[str, Any]) -> str:
    """A cell in words, thousands of examples a second."""
    speeds = "; ".join(f"{name} {line[name] / 1e3:,.0f}" for name in (*RIVALS, *OURS) if name in line)
    return f"{line['tables']} x {line['dim']}, {line['batch']:,}: {speeds}; ratio {line['ratio']:.2f}"


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each case: examples/s of one rank, and of two by plan; a thread a rank."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for case, config, prepared in scaling_cases(Path(folder), options.root):
            line: dict[str, Any] = {"case": case}
            for ranks, kind in ((1, "table_wise"), *((2, kind) for kind in KINDS)):
                planned = replace(config, sharding=replace(config.sharding, kind=kind))
                title = "one rank" if ranks == 1 else f"two, {kind}"
                line[title] = run_on_ranks(ranks, our_speed, planned, prepared, options.repeats, timeout=600)[
                    0
                ]
            found.append(line)
            speeds = ", ".join(f"{name} {line[name] / 1e3:,.0f}" for name in line if name != "case")
            best = max(value for name, value in line.items() if name.startswith("two"))
            print(f"{case}: {speeds}; ratio {best / line['one rank']:.2f}", flush=True)
    return found


def scaling_cases(folder: Path, root: str) -> Iterator[tuple[str, Config, Path]]:
    """Squared errors with a global batch of 16,384, and our recipe on MovieLens 1M."""
    for dim in (64, 128):
        for optimizer in ("rowwise_adagrad", "adagrad", "adam"):
            options = ("--optimizer.name", optimizer)
            yield f"{dim} dims, {optimizer}", *pointwise(folder, "small", dim, 16_384, *options)
    if (Path(root) / "ml-1m").is_dir():
        config = parse_config(f"--data.name ml-1m --data.root {root} --device cpu".split())
        yield "softmax on ml-1m, 256 dims, adam", config, prepare_data(config.data)


def quality(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for implicit's ALS and for ours at 1 and 2 ranks: NDCG@10 and median seconds of training."""
    words = f"--data.name ml-1m --data.root {options.root} --device cpu".split()
    dataset = open_dataset(prepare_data(parse_config(words).data))
    settings, matrix, seconds = CHOSEN["ml-1m"]["als"], training_matrix(dataset), []
    for _ in range(options.repeats):
        started = time.perf_counter()
        vectors = als(matrix, 42, **settings)
        seconds.append(time.perf_counter() - started)
    found = [{"who": f"implicit's ALS {settings}", **quality_of(vectors, dataset, "test")}]
    found[0]["seconds"] = median(seconds)
    for ranks in (1, 2):
        for kind in ("table_wise", "data_parallel"):
            runs = [our_run(ranks, [*words, *QUICK.split(), "--sharding.kind", kind]) for _ in seconds]
            figures = {"ndcg@10": runs[0]["model"]["ndcg@10"]}
            figures["seconds"] = median(run["seconds"]["train"] for run in runs)
            found.append({"who": f"Shardtower, {ranks} ranks, {kind}", **figures})
    for line in found:
        print(f"{line['who']}: ndcg@10 {line['ndcg@10']:.4f} in {line['seconds']:.2f} s", flush=True)
    return found


def our_run(ranks: int, options: list[str]) -> dict[str, Any]:
    """What a run says of itself; a thread a rank."""
    launcher = ["launch/ranks.py", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, *launcher, "-m", "trainer", *options, "--run.dir", str(run)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return json.loads((run / "metrics.json").read_text())


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cells", "quality", "scaling"))
    parser.add_argument("--root", default="data", help="folder with ml-1m")
    parser.add_argument("--repeats", type=int, default=5, help="repeats, of which the median counts")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    found = {"cells": cells, "quality": quality, "scaling": scaling}[options.what](options)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, options.what: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
