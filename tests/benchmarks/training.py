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
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from tests.benchmarks.loops import RIVALS, SIZES, batches_of, interactions
from tests.benchmarks.quality import quality as quality_of
from tests.benchmarks.quality import training_matrix
from tests.benchmarks.rivals import CHOSEN, als
from tests.benchmarks.turns import Contender, answer, in_turns, ratio
from tests.distributed.ranks import run_on_ranks
from trainer.config.parser import parse_config
from trainer.config.schema import Config
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.distributed.world import World
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.step import make_loss, rate_factor, train_step
from trainer.sharding.optimizers import set_learning_rates

BATCHES = {"small": (1_024, 8_192, 65_536), "large": (1_024, 16_384, 65_536)}
DIMS = (64, 512)
EXAMPLES = 500_000
"""Interactions of `cells` and `scaling`."""
HOUR_SECONDS = 3_600
QUICK = (
    "--run.choose false --model.low_rank 0 --model.dim 76 --run.epochs 5 --optimizer.name adam "
    "--batches.size 512 --optimizer.learning_rate 0.08 --optimizer.betas 0.3,0.9 --optimizer.warmup 0.5"
)
"""Chosen on a validation part; as many epochs as NDCG@10 0.42 on the test part takes, see README here."""

ALS = {
    "implicit's ALS": CHOSEN["ml-1m"]["als"],
    "the same, stopped early": CHOSEN["ml-1m"]["als"] | {"iterations": 6},
}
"""As chosen on a validation part, and with the fewest iterations that pass 0.42 on the test part."""
KINDS = ("table_wise", "row_partitioned", "data_parallel")
OURS = {"Shardtower, row-wise Adagrad": "rowwise_adagrad", "Shardtower, Adam": "adam"}


def be_rival(pipe: Connection, name: str, tables: str, dim: int, batch: int) -> None:
    """A rival's loop, told by a pipe."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    step, source = RIVALS[name](tables, dim, batch), batches_of(interactions(tables, EXAMPLES), batch)
    answer(pipe, lambda: step(next(source)), batch)


def run_rival(name: str, tables: str, dim: int, batch: int, pipes: list[Connection]) -> None:
    """A rival in a process of its own; in a world of ours it would keep the memory that it frees."""
    process = get_context("spawn").Process(target=be_rival, args=(pipes[0], name, tables, dim, batch))
    process.start()
    process.join()


def be_ours(world: World, pipes: list[Connection], config: Config, folder: Path) -> None:
    """Our steps, batch building included, told by a pipe a rank."""
    torch.set_num_threads(1)
    dataset = open_dataset(folder)
    config = with_fixed_values(
        with_size_defaults(config, dataset.user_count, dataset.item_count, len(dataset.train))
    )
    parts = assemble(config, dataset, world)
    source, loss_of = make_batches(config, dataset, parts), make_loss(config.loss, world)
    examples = len(source.rows_of_step(0)) * source.train.items.size / source.row_count
    numbers = iter(range(10**9))

    def step() -> None:
        number = next(numbers)
        batch = source.make(number, world.rank, world.size)
        set_learning_rates(parts.optimizer, rate_factor(config.optimizer, number + 1, 10**6))
        train_step(parts.model, parts.optimizer, batch, loss_of, world, config.optimizer.clip_gradients)

    answer(pipes[world.rank], step, examples)


def our_contender(ranks: int, config: Config, folder: Path) -> Contender:
    """Our training at so many ranks."""
    return Contender(
        ranks, lambda pipes: run_on_ranks(ranks, be_ours, pipes, config, folder, timeout=HOUR_SECONDS)
    )


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
        for tables, dim in ((tables, dim) for tables in options.tables for dim in options.dims):
            for batch in BATCHES[tables]:
                if options.batches and batch not in options.batches:
                    continue
                line = {"tables": tables, "dim": dim, "batch": batch}
                line |= cell(Path(folder), tables, dim, batch, options.repeats)
                found.append(line)
                print(cell_words(line), flush=True)
    return found


def cell(folder: Path, tables: str, dim: int, batch: int, repeats: int) -> dict[str, float]:
    """Examples/s by rival and of ours, and the ratio of the best of ours to the best of them."""
    # A dense optimizer moves every row at every step: with large tables nobody would pick it.
    rivals = [name for name in RIVALS if tables == "small" or "dense" not in name]
    ours = [name for name in OURS if tables == "small" or OURS[name] != "adam"]
    contenders = {name: Contender(1, partial(run_rival, name, tables, dim, batch)) for name in rivals}
    for name in ours:
        config, prepared = pointwise(folder, tables, dim, batch, "--optimizer.name", OURS[name])
        contenders[name] = our_contender(1, config, prepared)
    rounds = in_turns(contenders, repeats)
    return {name: median(speeds) for name, speeds in rounds.items()} | {"ratio": ratio(rounds, ours, rivals)}


def cell_words(line: dict[str, Any]) -> str:
    """A cell in words, thousands of examples a second."""
    speeds = "; ".join(f"{name} {line[name] / 1e3:,.0f}" for name in (*RIVALS, *OURS) if name in line)
    return f"{line['tables']} x {line['dim']}, {line['batch']:,}: {speeds}; ratio {line['ratio']:.2f}"


def scaling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each case: examples/s of one rank, and of two by plan; a thread a rank."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for case, config, prepared in scaling_cases(Path(folder), options.root):
            contenders = {}
            for ranks, kind in ((1, "table_wise"), *((2, kind) for kind in KINDS)):
                planned = replace(config, sharding=replace(config.sharding, kind=kind))
                title = "one rank" if ranks == 1 else f"two, {kind}"
                contenders[title] = our_contender(ranks, planned, prepared)
            rounds = in_turns(contenders, options.repeats)
            line: dict[str, Any] = {name: median(speeds) for name, speeds in rounds.items()}
            speeds = ", ".join(f"{name} {speed / 1e3:,.0f}" for name, speed in line.items())
            two = [name for name in rounds if name != "one rank"]
            line |= {"case": case, "ratio": ratio(rounds, two, ["one rank"])}
            found.append(line)
            print(f"{case}: {speeds}; ratio {line['ratio']:.2f}", flush=True)
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
    matrix = training_matrix(dataset)
    figures, rounds = dict[str, float](), dict[str, list[float]]()
    for _ in range(options.repeats):
        for title, settings in ALS.items():
            started = time.perf_counter()
            vectors = als(matrix, 42, **settings)
            rounds.setdefault(title, []).append(time.perf_counter() - started)
            figures[title] = quality_of(vectors, dataset, "test")["ndcg@10"]
        for ranks, kind in ((1, "table_wise"), *((2, kind) for kind in KINDS)):
            title = f"Shardtower, {ranks} ranks, {kind}"
            run = our_run(ranks, [*words, *QUICK.split(), "--sharding.kind", kind])
            figures[title] = run["model"]["ndcg@10"]
            rounds.setdefault(title, []).append(run["seconds"]["train"])
    for title, seconds in rounds.items():
        of_als = [median(map(truediv, seconds, rounds[name])) for name in ALS]
        words = f"{title}: ndcg@10 {figures[title]:.4f} in {median(seconds):.2f} s"
        print(f"{words}, {of_als[0]:.2f} and {of_als[1]:.2f} of ALS's", flush=True)
    return [{"who": who, "ndcg@10": figures[who], "seconds": seconds} for who, seconds in rounds.items()]


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
    parser.add_argument("--tables", nargs="+", choices=SIZES, default=[*SIZES], help="of `cells`")
    parser.add_argument("--dims", nargs="+", type=int, default=DIMS, help="of `cells`")
    parser.add_argument("--batches", nargs="+", type=int, help="of `cells`; left out: all")
    parser.add_argument("--repeats", type=int, default=5, help="repeats, of which the median counts")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    found = {"cells": cells, "quality": quality, "scaling": scaling}[options.what](options)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, options.what: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
