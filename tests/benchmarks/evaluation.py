"""Users ranked and measured a second, beside the notebook's evaluator, implicit's and FAISS's flat index.

    python -m tests.benchmarks.evaluation [--data DIR] [--dims 64 257] [--threads 1 2] [--json FILE]
    python -m tests.benchmarks.evaluation --large [--users 1000000] [--items 100000]

Every rival gets the same vectors, items to leave out and held-out items in one run; what they measure alike
must agree. `--large` measures untrained towers by `trainer.evaluation.evaluator` on made-up interactions:
seconds, and the most memory that was resident. README.md beside this file says what is fair.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch
from implicit.cpu.matrix_factorization_base import MatrixFactorizationBase
from implicit.cpu.topk import topk
from implicit.evaluation import ranking_metrics_at_k
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from tests.benchmarks import notebook
from trainer.config.schema import DataConfig
from trainer.dataset.build import prepare
from trainer.dataset.dataset import open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.distributed.malloc import keep_freed_memory
from trainer.distributed.world import join_world
from trainer.evaluation.evaluator import Protocol, evaluate
from trainer.evaluation.metrics import metrics_by_user
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.model.retriever import TowerPair
from trainer.model.towers import TwoTowers
from trainer.sharding.table_values import fill_tables, normal_block
from trainer.sources.synthetic import synthesise

NOTEBOOK_USERS = 100
PAUSE_SECONDS = 0.3
"""In which the threads of the contestant before stop waiting for more work, for which they keep the cores."""


@dataclass(frozen=True)
class Scenario:
    """Vectors and lists of one comparison."""

    name: str
    query: Tensor
    items: Tensor
    seen: ItemLists
    held_out: ItemLists

    def matrix(self, lists: ItemLists) -> csr_matrix:
        """(users, items) float32 ones."""
        offsets = np.concatenate([[0], lists[0].numpy().cumsum()])
        ones = np.ones(len(lists[1]), np.float32)
        return csr_matrix((ones, lists[1].numpy(), offsets), (len(self.query), len(self.items)))


class Factors(MatrixFactorizationBase):
    """Given vectors as a model of implicit's."""

    def __init__(self, case: Scenario, threads: int) -> None:
        super().__init__(num_threads=threads)
        self.user_factors, self.item_factors = case.query.numpy(), case.items.numpy()

    def fit(self, user_items: csr_matrix, show_progress: bool = True) -> None:
        """Nothing is to be learned."""

    def save(self, fileobj_or_path: Any) -> None:
        """Nothing is to be kept."""


def movielens(root: Path, dim: int) -> Scenario:
    """Lists of MovieLens 1M, 20% of the rows held out, and normal vectors."""
    with tempfile.TemporaryDirectory() as cache:
        dataset = open_dataset(prepare_data(DataConfig(name="ml-1m", root=str(root.absolute()), cache=cache)))
        users = np.flatnonzero(dataset.held_out("test").lengths())
        seen, held_out = (
            tuple(map(torch.from_numpy, part.take(users)))
            for part in (dataset.seen("test"), dataset.held_out("test"))
        )
    return Scenario("ml-1m", *normal_vectors(len(users), dataset.item_count, dim), seen, held_out)


def made_up(users: int, items: int, dim: int, seen: int, held_out: int) -> Scenario:
    """Normal vectors and lists of items by lot; a list has from half to one and a half times the mean."""
    generator = np.random.default_rng(0)
    lengths = generator.integers([seen // 2, held_out // 2], [seen * 3 // 2, held_out * 3 // 2], (users, 2))
    chosen = [generator.choice(items, both, replace=False) for both in lengths.sum(1)]
    lists = [
        (torch.from_numpy(lengths[:, side].copy()), torch.from_numpy(np.concatenate(parts)))
        for side, parts in enumerate(
            (
                [np.sort(each[:cut]) for each, cut in zip(chosen, lengths[:, 0], strict=True)],
                [np.sort(each[cut:]) for each, cut in zip(chosen, lengths[:, 0], strict=True)],
            )
        )
    ]
    return Scenario(f"{users:,} x {items:,}", *normal_vectors(users, items, dim), *lists)


def normal_vectors(users: int, items: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(users, dim, generator=generator), torch.randn(items, dim, generator=generator)


def contestants(case: Scenario, k: int, threads: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    model, train, test = Factors(case, threads), case.matrix(case.seen), case.matrix(case.held_out)
    index = faiss.IndexFlatIP(case.items.shape[1])
    index.add(case.items.numpy())
    query, wider = case.query.numpy(), k + int(case.seen[0].max())
    vectors = case.items.numpy(), query

    def ours() -> dict[str, Tensor]:
        _, rows = top_k(case.query, case.items, k, case.seen)
        return metrics_by_user(hits(rows, case.held_out), case.held_out[0], [k])

    return {
        "ours, evaluation": ours,
        "implicit, evaluation": lambda: ranking_metrics_at_k(
            model, train, test, K=k, show_progress=False, num_threads=threads
        ),
        "ours, ranking, seen left out": lambda: top_k(case.query, case.items, k, case.seen),
        "implicit, the same": lambda: topk(*vectors, k, filter_query_items=train, num_threads=threads),
        "FAISS, k and the most seen": lambda: index.search(query, wider),
        "ours, ranking, seen kept": lambda: top_k(case.query, case.items, k),
        "FAISS, the same": lambda: index.search(query, k),
    }


def check(case: Scenario, k: int, timed: dict[str, Callable[[], Any]]) -> None:
    """End where a rival's result is not ours; scores that differ in their last bits may swap neighbours."""
    ours = {name: float(values.mean()) for name, values in timed["ours, evaluation"]().items()}
    theirs = timed["implicit, evaluation"]()
    for name, other in ((f"ndcg@{k}", theirs["ndcg"]), (f"map@{k}", theirs["map"])):
        if abs(ours[name] - other) > 1e-4:
            sys.exit(f"{case.name}: {name} is {ours[name]:.6f} by ours and {other:.6f} by implicit")
    masked, kept = (timed[f"ours, ranking, seen {how}"]()[1].numpy() for how in ("left out", "kept"))
    for name, rows, other in (
        ("implicit", masked, timed["implicit, the same"]()[0]),
        ("FAISS", kept, timed["FAISS, the same"]()[1]),
    ):
        if (alike := float((rows == other).mean())) < 0.999:
            sys.exit(f"{case.name}: {alike:.2%} of the ranks hold the same item by ours and by {name}")


def rates(users: int, timed: dict[str, Callable[[], Any]], repeats: int, threads: int) -> dict[str, float]:
    """Users a second of each contestant, the median of rounds in which each has its turn.

    One thread is timed by the processor's clock, which does not run while others have the core.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, work in timed.items():
            time.sleep(PAUSE_SECONDS)
            started = clock()
            work()
            seconds[name].append(clock() - started)
    return {name: users / median(each) for name, each in seconds.items()}


def notebook_rate(case: Scenario, k: int, repeats: int, threads: int) -> float:
    """Users a second of the notebook's evaluator, on the first users; its figures must be ours."""
    towers = notebook.Towers(len(case.query), len(case.items), case.query.shape[1])
    towers.user.weight.data, towers.item.weight.data = case.query, case.items
    lengths, items = case.held_out
    lists = items.split(lengths.tolist())[:NOTEBOOK_USERS]
    held_out = {user: set(own.tolist()) for user, own in enumerate(lists)}
    timed = {"notebook": lambda: notebook.evaluate(towers, held_out, k)}
    rate = rates(len(held_out), timed, repeats, threads)
    theirs = notebook.evaluate(towers, held_out, k)
    own = lengths[:NOTEBOOK_USERS], items[: int(lengths[:NOTEBOOK_USERS].sum())]
    found = metrics_by_user(hits(top_k(case.query[:NOTEBOOK_USERS], case.items, k)[1], own), own[0], [k])
    for name, value in theirs.items():
        if abs(value - float(found[name].mean())) > 1e-4:
            sys.exit(f"{name} is {float(found[name].mean()):.6f} by ours and {value:.6f} by the notebook")
    return rate["notebook"]


def compare(case: Scenario, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A line of figures for each number of threads and k."""
    lines = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        with threadpool_limits(threads):
            for k in options.k:
                timed = contestants(case, k, threads)
                check(case, k, timed)
                found = rates(len(case.query), timed, options.repeats, threads)
                if len(case.items) <= 10_000:
                    found["notebook's evaluator"] = notebook_rate(case, k, options.repeats, threads)
                line = {"data": case.name, "dim": case.query.shape[1], "threads": threads, "k": k}
                lines.append(line | {"users_per_second": found})
                print(show(lines[-1]) + "\n", flush=True)
    return lines


def show(line: dict[str, Any]) -> str:
    """One cell as text: each rival with our rate as a multiple of its own."""
    found = line["users_per_second"]
    rows = [f"{line['data']}, dim {line['dim']}, k {line['k']}, {line['threads']} thread(s); users/s"]
    for name, rate in found.items():
        against = _counterpart(name)
        ratio = f"{found[against] / rate:10.2f} times" if against else ""
        rows.append(f"  {name:<30}{rate:>12,.0f}{ratio}")
    return "\n".join(rows)


def _counterpart(name: str) -> str | None:
    """Our figure that does a rival's task."""
    if name.startswith("ours"):
        return None
    if name in ("implicit, the same", "FAISS, k and the most seen"):
        return "ours, ranking, seen left out"
    return "ours, ranking, seen kept" if name.startswith("FAISS") else "ours, evaluation"


def large(users: int, items: int, dim: int, per_user: int) -> dict[str, Any]:
    """Seconds and memory of one evaluation of all users, each of whom has held-out items."""
    with tempfile.TemporaryDirectory() as cache, join_world("cpu") as world:
        started = time.perf_counter()
        folder = prepare(
            lambda: synthesise(users, items, users * per_user, 0),
            {},
            Path(cache),
            name="made up",
            min_value=None,
            k_core=0,
            split="leave_last_out",
            test_size=0.2,
            validation_size=0.0,
            split_seed=0,
        )
        dataset = open_dataset(folder)
        prepared = time.perf_counter() - started
        towers = TwoTowers({"user": dataset.user_count + 1}, {"item": dataset.item_count + 1}, dim)
        towers.to_empty(device="cpu")
        fill_tables(towers, lambda table, block: normal_block(0, table, block, dim, 0.1))
        rows = {"user": np.arange(dataset.user_count), "item": np.arange(dataset.item_count)}
        tower_pairs = [TowerPair(towers, {"user": rows["user"]}, {"item": rows["item"]})]
        before, started = _peak(), time.perf_counter()
        found = evaluate(tower_pairs, dataset, world, Protocol(ks=(10, 100), baselines=()))
        seconds = time.perf_counter() - started
        assert found is not None
        return {
            "users": found.users,
            "items": found.items,
            "dim": dim,
            "threads": torch.get_num_threads(),
            "prepare_seconds": prepared,
            "seconds": seconds,
            "users_per_second": found.users / seconds,
            "resident_before": before,
            "most_resident": _peak(),
        }


def _peak() -> int:
    """Most bytes that were resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with ml-1m; by default lists of its shape, by lot")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 257])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--repeats", type=int, default=5, help="rounds, of which the median counts")
    parser.add_argument("--large", action="store_true", help="one evaluation of many users and items")
    parser.add_argument("--users", type=int, default=4000, help="of the wider catalogue, or of --large")
    parser.add_argument("--items", type=int, default=50_000, help="of the wider catalogue, or of --large")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def main() -> None:
    """Run the comparison, or the large evaluation, and print its figures."""
    options = parse()
    if options.large:
        figures: Any = large(options.users, options.items, options.dims[0], per_user=20)
        print(json.dumps(figures, indent=2))
    else:
        keep_freed_memory()  # as whoever evaluates through the trainer does, and the rivals with it
        figures = []
        for dim in options.dims:
            shape = movielens(options.data, dim) if options.data else made_up(6040, 3706, dim, 132, 33)
            figures += compare(shape, options)
        figures += compare(made_up(options.users, options.items, options.dims[0], 50, 10), options)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
