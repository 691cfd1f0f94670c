"""Training and evaluation speed beside the teaching notebook's, on the same data in one run.

    python tests/benchmarks/speed.py [--data DIR] [--dim 64] [--users 200] [--json FILE]

Set OMP_NUM_THREADS=1 for figures of one core. The trainer runs as a user runs it, in a process of its own:
once with the notebook's recipe, where a step does the same work as the notebook's, and once with ours, where
an example is a positive that is ranked against the whole catalogue.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from notebook import Examples, Towers, endless_batches, evaluate, train
from torch import Tensor

from trainer.evaluation.metrics import measure
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.sources.movielens import read_movielens

ROOT = Path(__file__).resolve().parents[2]
BATCH = 1024
K = 10


@dataclass
class Interactions:
    """Rows of users and items with ratings, in random order, of which the last fifth is held out."""

    name: str
    users: Tensor
    items: Tensor
    ratings: Tensor

    def __post_init__(self) -> None:
        self.cut = len(self.users) * 4 // 5
        self.user_count = int(self.users.max()) + 1
        self.item_count = int(self.items.max()) + 1

    def lists(self, part: slice) -> ItemLists:
        """Item rows of each user in one part."""
        order = self.users[part].argsort(stable=True)
        return torch.bincount(self.users[part], minlength=self.user_count), self.items[part][order]


def read(folder: Path | None) -> Interactions:
    """ml-100k if `u.data` is at hand, else random interactions of the same shape."""
    near = Path(os.environ.get("SHARDTOWER_DATA", ROOT.parent / "shared" / "data")) / "ml-100k"
    file = (folder or near) / "u.data"
    generator = np.random.default_rng(0)
    if file.exists():
        table = generator.permutation(np.loadtxt(file, dtype=np.int64))
        name, users, items, ratings = "ml-100k", table[:, 0], table[:, 1], table[:, 2]
    elif folder:
        sys.exit(f"{file}: no such file, expected the u.data of ml-100k. Leave --data out for random data")
    else:
        users, items = np.divmod(generator.choice(943 * 1682, 100_000, replace=False), 1682)
        name, ratings = "random, of the shape of ml-100k", generator.integers(1, 6, 100_000)
    rows = [torch.from_numpy(np.unique(ids, return_inverse=True)[1]) for ids in (users, items)]
    return Interactions(name, *rows, torch.from_numpy(ratings).float())


def rate(work: Callable[[], int], repeats: int) -> float:
    """Median units per second over several repeats, after one to warm up; `work` returns its units."""
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        units = work()
        rates.append(units / (time.perf_counter() - start))
    return median(rates[1:])


def notebook_speed(data: Interactions, towers: Towers, options: argparse.Namespace) -> dict[str, float]:
    """Examples/s of the notebook's training loop, and users/s of its evaluator on the first users."""
    training = Examples(*(column[: data.cut] for column in (data.users, data.items, data.ratings)))
    batches = endless_batches(training, BATCH)
    optimizer = torch.optim.Adam(towers.parameters(), lr=0.001)
    examples = rate(lambda: train(towers, optimizer, batches, options.steps), options.repeats)
    lengths, items = data.lists(slice(data.cut, None))
    held_out = {
        user: set(own.tolist()) for user, own in enumerate(items.split(lengths.tolist())) if len(own) > 0
    }
    some = dict(list(held_out.items())[: options.users])
    last = {}

    def evaluate_some() -> int:
        last.update(evaluate(towers, some, K))
        return len(some)

    users = rate(evaluate_some, options.repeats)
    return {"training_examples_per_second": examples, "evaluated_users_per_second": users, **last}


def our_evaluation_speed(data: Interactions, towers: Towers, options: argparse.Namespace) -> dict[str, float]:
    """Users/s over all users with seen items masked; metrics of the notebook's users by its own protocol."""
    seen, (relevant, items) = data.lists(slice(data.cut)), data.lists(slice(data.cut, None))
    users = relevant.nonzero().squeeze(1)
    query, catalogue = towers.user.weight.detach(), towers.item.weight.detach()

    def ranked(exclude: ItemLists | None) -> dict[str, Tensor]:
        _, rows = top_k(query, catalogue, K, exclude)
        return measure(hits(rows, (relevant, items))[users], relevant[users], [K])

    def evaluate_all() -> int:
        ranked(seen)
        return len(users)

    speed = rate(evaluate_all, options.repeats)
    same = {name: float(values[: options.users].mean()) for name, values in ranked(None).items()}
    return {"evaluated_users_per_second": speed, **same}


def our_training_speed(options: argparse.Namespace, config: str, data: list[str]) -> float:
    """Median `examples_per_second` of the records of a run of the trainer, batch building included."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "trainer", "--config", str(ROOT / "configs" / config)]
        command += ["--model.dim", str(options.dim), "--run.dir", str(run), "--run.log_every", "0", *data]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return median(json.loads(line)["examples_per_second"] for line in lines[1:])


def trainer_data(data: Interactions, folder: Path) -> list[str]:
    """Options for the trainer to read the same interactions."""
    table = {"user_id": data.users, "item_id": data.items, "value": data.ratings}
    pd.DataFrame({name: column.numpy() for name, column in table.items()}).to_parquet(folder / "rows.parquet")
    return [
        "--data.name",
        "files",
        "--data.interactions",
        str(folder / "rows.parquet"),
        "--data.cache",
        str(folder),
    ]


def reading_speed(repeats: int) -> dict[str, float]:
    """Rows/s of a `::` file of a million rows, by pandas' Python engine as in the notebook, and by ours."""
    rows = 1_000_000
    generator = np.random.default_rng(0)
    columns = [generator.integers(1, high, rows) for high in (6041, 3953, 6, 10**9)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ratings.dat"
        lines = (
            "::".join(map(str, line)) for line in zip(*(column.tolist() for column in columns), strict=True)
        )
        file.write_text("\n".join(lines) + "\n", encoding="latin-1")

        def ours() -> int:
            return sum(len(batch) for batch in read_movielens("ml-1m", Path(folder), "error").interactions)

        def theirs() -> int:
            return len(pd.read_csv(file, sep="::", header=None, engine="python"))

        return {"notebook": rate(theirs, 1), "shardtower": rate(ours, repeats)}


def show(report: dict) -> str:
    """The comparison as a table."""
    notebook, ours = report["notebook"], report["shardtower"]
    training, evaluation = "training_examples_per_second", "evaluated_users_per_second"
    rows = [
        ("training, examples/s: the notebook's recipe", notebook[training], ours[training]),
        ("training, examples/s: our recipe", notebook[training], ours["recipe_examples_per_second"]),
        ("evaluation, users/s", notebook[evaluation], ours[evaluation]),
        ("reading a `::` file, rows/s", notebook["read_rows_per_second"], ours["read_rows_per_second"]),
    ]
    lines = [f"{'':<44}{'notebook':>12}{'Shardtower':>14}{'ratio':>8}"]
    lines += [f"{title:<44}{theirs:>12,.0f}{our:>14,.0f}{our / theirs:>8.1f}" for title, theirs, our in rows]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the u.data of ml-100k")
    parser.add_argument("--dim", type=int, default=64, help="width of the vectors")
    parser.add_argument("--users", type=int, default=200, help="users that the notebook's evaluator measures")
    parser.add_argument("--steps", type=int, default=50, help="training steps of one repeat")
    parser.add_argument("--repeats", type=int, default=5, help="repeats, of which the median counts")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    data = read(options.data)
    towers = Towers(data.user_count, data.item_count, options.dim)
    report = {
        "data": {"name": data.name, "users": data.user_count, "items": data.item_count, "examples": data.cut},
        "dim": options.dim,
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "notebook": notebook_speed(data, towers, options),
        "shardtower": our_evaluation_speed(data, towers, options),
    }
    with tempfile.TemporaryDirectory() as folder:
        same_data = trainer_data(data, Path(folder))
        notebook_recipe = our_training_speed(options, "notebook.yaml", [*same_data, "--run.epochs", "10"])
        report["shardtower"]["training_examples_per_second"] = notebook_recipe
        report["shardtower"]["recipe_examples_per_second"] = our_training_speed(
            options, "default.yaml", same_data
        )
    for reader, speed in reading_speed(options.repeats).items():
        report[reader]["read_rows_per_second"] = speed
    for name in (f"ndcg@{K}", f"recall@{K}", f"precision@{K}"):
        theirs, ours = report["notebook"][name], report["shardtower"][name]
        if abs(theirs - ours) > 0.001:
            sys.exit(f"{name} is {theirs:.6f} by the notebook and {ours:.6f} by ours, expected the same")
    print(
        f"{data.name}: {data.user_count:,} users, {data.item_count:,} items, {data.cut:,} training examples; "
        f"dim {options.dim}, {torch.get_num_threads()} thread(s)"
    )
    print(show(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
