"""Speed of training on positions of ordered histories, and what long histories take.

    python -m tests.benchmarks.next_rows speed [--root DIR] [--repeats 5] [--json FILE]
    python -m tests.benchmarks.next_rows long [--json FILE]

`speed`: examples/s of one process and one thread, batch building included, of ordered histories beside bags,
in turns. An example is a training interaction that a step predicts: a row of an ordered history is one, and a
row of a bag is a user with all of them, so that rows/s stand beside. `long`: seconds of a step and peak
memory of as many interactions of users with 10,000 items as of users with 100, each in a process of its own.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tests.benchmarks.training import our_contender
from tests.benchmarks.turns import in_turns, ratio
from tests.distributed.ranks import run_on_ranks
from trainer.config.parser import parse_config
from trainer.config.schema import Config
from trainer.config.size_defaults import with_fixed_values, with_size_defaults
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.distributed.malloc import keep_freed_memory
from trainer.distributed.world import World
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.step import make_loss, train_step

COMMON = "--data.split leave_last_out --run.choose false --model.low_rank 0 --device cpu"
LIKE_ORDERED = "--model.dim 64 --loss.candidates sampled --loss.samples 1024"
CONTENDERS = {
    "bag": "--model.history bag --model.user_id false",
    "bag, width and candidates of recency": f"--model.history bag --model.user_id false {LIKE_ORDERED}",
    "recency": "--model.history recency",
    "transformer": "--model.history transformer",
}
ML_1M = 6_040, 3_709, 166
"""Users, items (a prime number) and items of a user, about those of MovieLens 1M."""
LONG = {
    "users of 10,000 items": (100, 50_021, 10_000),
    "users of 1,000 items": (1_000, 50_021, 1_000),
    "users of 100 items": (10_000, 50_021, 100),
}
LENGTH, STRETCHES = 50, 128
WARM_STEPS, STEPS = 10, 60


def made_up(folder: Path, users: int, items: int, length: int) -> list[str]:
    """Write users of so many different items each, one an hour, and return the options that read them.

    A user walks around the catalogue by a stride of their own; its number of items is prime, so that nobody
    meets an item twice.
    """
    generator = np.random.default_rng(0)
    starts, strides = generator.integers(0, items, users), generator.integers(1, items, users)
    table = {
        "user_id": np.repeat(np.arange(users), length),
        "item_id": ((starts[:, None] + strides[:, None] * np.arange(length)) % items).ravel(),
        "timestamp": np.tile(np.arange(length) * 3600, users),
    }
    file = folder / f"{users}-{items}-{length}.parquet"
    pq.write_table(pa.table(table), file)
    return ["--data.name", "files", "--data.interactions", str(file), "--data.cache", str(folder)]


def speed(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A line for each data set: examples/s of each contender."""
    ml_100k = ["--data.name", "ml-100k", "--data.root", str(options.root), "--data.cache", str(folder)]
    found = []
    for title, data in {"ml-100k": ml_100k, "as large as ml-1m": made_up(folder, *ML_1M)}.items():
        contenders, of_a_row = {}, {}
        for name, words in CONTENDERS.items():
            config = parse_config([*data, *COMMON.split(), *words.split()])
            prepared = prepare_data(config.data)
            contenders[name] = our_contender(1, config, prepared)
            lengths = open_dataset(prepared).train_by_user().lengths()
            of_a_row[name] = lengths[lengths > 0].mean() if name.startswith("bag") else 1
        rounds = in_turns(contenders, options.repeats)
        line: dict[str, Any] = {name: median(speeds) for name, speeds in rounds.items()}
        rows = {name: [each / of_a_row[name] for each in speeds] for name, speeds in rounds.items()}
        ratios = {name: (ratio(rounds, [name], ["bag"]), ratio(rows, [name], ["bag"])) for name in rounds}
        for name, (of_examples, of_rows) in ratios.items():
            print(
                f"{title}, {name}: {line[name]:,.0f} examples/s ({of_examples:.3f} of bag's), "
                f"{median(rows[name]):,.0f} rows/s ({of_rows:.2f})",
                flush=True,
            )
        found.append({"data": title} | line | {"ratios": ratios})
    return found


def long(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A line for each length of histories: seconds of a step, bytes, and their ratios to the last line."""
    found = []
    for title, sizes in LONG.items():
        words = f"--model.history recency --model.history_length {LENGTH} --batches.size {STRETCHES}"
        config = parse_config([*made_up(folder, *sizes), *COMMON.split(), *words.split()])
        (line,) = run_on_ranks(1, measured, config, prepare_data(config.data), timeout=600)
        found.append({"histories": title} | line)
    for line in found:
        shares = {key: line[key] / found[-1][key] for key in ("seconds", "bytes")}
        print(
            f"{line['histories']}, {line['rows']:,.0f} rows a step: {1e3 * line['seconds']:.1f} ms "
            f"({shares['seconds']:.2f}), peak {line['bytes'] / 2**20:,.0f} MiB ({shares['bytes']:.2f})",
            flush=True,
        )
        line["ratios"] = shares
    return found


def measured(world: World, config: Config, folder: Path) -> dict[str, float]:
    """Median seconds of a step, its rows, and the most bytes that became resident."""
    torch.set_num_threads(1)
    keep_freed_memory()
    dataset = open_dataset(folder)
    size = dataset.user_count, dataset.item_count, len(dataset.train)
    resolved = with_fixed_values(with_size_defaults(config, *size))
    before = psutil.Process().memory_info().rss
    components = assemble(resolved, dataset, world)
    source, loss_of = make_batches(resolved, dataset, components), make_loss(resolved.loss, world)
    seconds, rows = [], []
    for number in range(WARM_STEPS + STEPS):
        started = time.process_time()
        batch = source.make(number)
        train_step(components.model, components.optimizer, batch, loss_of, world)
        seconds.append(time.process_time() - started)
        rows.append(batch.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"seconds": median(seconds[WARM_STEPS:]), "bytes": peak, "rows": float(np.mean(rows))}


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "long"))
    parser.add_argument("--root", type=Path, default="data", help="folder with ml-100k")
    parser.add_argument(
        "--repeats", type=int, default=5, help="rounds of `speed`, of which the median counts"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {"speed": speed, "long": long}[options.what](options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps({options.what: found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
