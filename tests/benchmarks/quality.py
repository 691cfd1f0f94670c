"""Ranking quality beside popularity, item kNN, EASE, implicit's ALS and BPR, and rivals that go by order.

    python -m tests.benchmarks.quality [--data NAME ...] [--root DIR] [--only MODEL ...] [--json FILE]
    python -m tests.benchmarks.quality --interactions train.txt --held_out test.txt --k 20
    python -m tests.benchmarks.quality --tune

Everything runs on one core, on the same rows. The trainer runs as a user runs it, in a process of its own.
Every model is ranked over the full catalogue without the items that a user had before, and the test part is
read once for each figure. `boards.py` lists the data sets, and what others have published on them; README.md
beside this file says how the rivals were set up.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from tests.benchmarks.boards import BOARDS, Board, Published, board_of_files
from tests.benchmarks.rivals import CHOSEN, RIVALS, Vectors, choose
from trainer.config.schema import DataConfig
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.dataset.split import BY_TIME
from trainer.evaluation.baselines import make_ranker, popularity_scores, rank_by_scores
from trainer.evaluation.metrics import metrics_by_user
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.facts.baselines import baseline

ROOT = Path(__file__).resolve().parents[2]
TUNING_SEED = 0
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
BY_ORDER = ("item_knn_last", "markov")
"""Baselines of `trainer evaluate` that go by what a user had last, for splits by time."""
FIXED = ("item_knn", "ease")
"""Rivals that are baselines of it too: with its fixed settings where a board has none of its own."""
USERS_AT_ONCE = 4096
METRIC_NAMES = ("ndcg", "recall")


def training_matrix(dataset: Dataset) -> csr_matrix:
    """The training part as (users, items) float32 ones."""
    train = dataset.train
    ones = np.ones(len(train), np.float32)
    return csr_matrix((ones, (train.users, train.items)), (dataset.user_count, dataset.item_count))


def quality(vectors: Vectors, dataset: Dataset, split: str, k: int = 10) -> dict[str, float]:
    """Means over all users with held-out items of the ranking by vectors; see `rank_quality`."""
    query, items = (torch.from_numpy(side) for side in vectors)
    return rank_quality(lambda users, seen: top_k(query[users], items, k, seen)[1], dataset, split, k)


def rank_quality(
    rank: Callable[[np.ndarray, ItemLists], torch.Tensor], dataset: Dataset, split: str, k: int
) -> dict[str, float]:
    """Means over all users with held-out items, seen items left out.

    Whoever has no training interaction is ranked by popularity: none of the rivals says anything of them.

    Args:
        rank: Gives the lists of some users, (B, k), without the items that are seen.
    """
    everybody = np.flatnonzero(dataset.held_out(split).lengths())
    counts = popularity_scores(torch.tensor(dataset.train.items), dataset.item_count)
    found: dict[str, list[np.ndarray]] = {f"{name}@{k}": [] for name in METRIC_NAMES}
    for start in range(0, len(everybody), USERS_AT_ONCE):
        users = everybody[start : start + USERS_AT_ONCE]
        seen, held_out = _lists(dataset.seen(split), users), _lists(dataset.held_out(split), users)
        ranked = rank(users, seen)
        ranked = torch.where(seen[0].unsqueeze(1) == 0, rank_by_scores(counts, k, seen), ranked)
        values = metrics_by_user(hits(ranked, held_out), held_out[0], [k])
        for metric, figures in found.items():
            figures.append(np.asarray(values[metric]))
    return {metric: float(np.concatenate(figures).mean()) for metric, figures in found.items()}


def _lists(ragged: Any, users: np.ndarray) -> ItemLists:
    lengths, values = ragged.take(users)
    return torch.from_numpy(lengths), torch.from_numpy(values)


def tune(name: str, dataset: Dataset) -> dict[str, Any]:
    """Settings of the best NDCG on the validation part."""
    train = training_matrix(dataset)

    def score(settings: dict[str, Any]) -> float:
        vectors = RIVALS[name].fit(train, TUNING_SEED, **settings)
        return quality(vectors, dataset, "validation")["ndcg@10"]

    settings, best, tried = choose(RIVALS[name].grid, score)
    edges = [key for key, values in RIVALS[name].grid.items() if settings[key] in (values[0], values[-1])]
    print(
        f'    "{name}": {settings},  # {best:.4f}, best of {tried}; at an edge: {edges or "none"}', flush=True
    )
    return settings


def fit_rival(
    name: str, settings: dict[str, Any], dataset: Dataset, seed: int, k: int = 10
) -> dict[str, float]:
    """Quality on the test part, and seconds of the fit."""
    train = training_matrix(dataset)
    start = time.perf_counter()
    vectors = RIVALS[name].fit(train, seed, **settings)
    seconds = time.perf_counter() - start
    return quality(vectors, dataset, "test", k) | {"seconds": seconds}


def fit_baseline(name: str, dataset: Dataset, k: int) -> dict[str, float]:
    """The same of a baseline of `trainer evaluate`, with its fixed settings."""
    start = time.perf_counter()
    ranker = make_ranker(name, dataset, k, seed=0)
    seconds = time.perf_counter() - start
    return rank_quality(ranker, dataset, "test", k) | {"seconds": seconds}


def fit_ours(options: list[str], data: DataConfig, seed: int, k: int = 10) -> dict[str, float]:
    """The same of the trainer's command; the seconds in which it chooses for itself count."""
    report = run_ours(["--evaluation.k", f"[{k}]", *options], data, seed)
    seconds = report["seconds"]["choose"] + report["seconds"]["train"]
    return {f"{name}@{k}": report["model"][f"{name}@{k}"] for name in METRIC_NAMES} | {"seconds": seconds}


def run_ours(options: list[str], data: DataConfig, seed: int) -> dict[str, Any]:
    """`metrics.json` of the trainer's command on one core."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "trainer", "--run.dir", str(run), "--run.seed", str(seed)]
        command += ["--device", "cpu", *options]
        given = asdict(data)
        for option, default in asdict(DataConfig()).items():
            if given[option] != default or option == "name":
                command += [f"--data.{option}", str(given[option])]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | ONE_CORE, stdout=subprocess.DEVNULL)
        return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def compare(
    name: str, board: Board, options: argparse.Namespace, data: DataConfig
) -> dict[str, dict[str, Any]]:
    """Settings and figures by model, a figure for each seed, of models that suit the board."""
    dataset, chosen = open_dataset(prepare_data(data)), CHOSEN.get(name, {})
    results = {}
    for model in options.only:
        settings: dict[str, Any] = {}
        if model == "ours":
            given = ["--config", str(options.config.resolve())] if options.config else []
            settings = {"config": options.config.name if options.config else None}
            runs = [fit_ours(given, data, seed, board.k) for seed in options.seeds]
        elif model in BY_ORDER:
            by_time = dataset.has_order and dataset.report["split"] in BY_TIME
            runs = [fit_baseline(model, dataset, board.k)] if by_time else []
        elif model in chosen or not RIVALS[model].grid:
            settings = chosen.get(model, {})
            seeds = options.seeds if RIVALS[model].seeded else options.seeds[:1]
            runs = [fit_rival(model, settings, dataset, seed, board.k) for seed in seeds]
        else:
            settings = {"fixed": True}
            runs = [fit_baseline(model, dataset, board.k)] if model in FIXED and _fits(dataset) else []
        if runs:
            results[model] = {"settings": settings} | {key: [run[key] for run in runs] for key in runs[0]}
    return results


def _fits(dataset: Dataset) -> bool:
    limit = baseline("ease").item_limit
    return limit is None or dataset.evaluated_items <= limit


def show(name: str, results: dict[str, dict[str, Any]], published: Sequence[Published] = ()) -> str:
    """A row for each model: mean and standard deviation over seeds of each metric, and mean seconds.

    What others have published follows, with its source.
    """
    metrics = [key for key in next(iter(results.values())) if key not in ("settings", "seconds")]
    lines = [f"{name:<24}" + "".join(f"{metric:>18}" for metric in metrics) + f"{'fit, s':>10}"]
    for model, figures in results.items():
        cells = "".join(f"{spread(figures[metric]):>18}" for metric in metrics)
        lines.append(f"{model:<24}{cells}{mean(figures['seconds']):>10.2f}")
    for other in published:
        cells = "".join(f"{spread([figure]):>18}" for figure in (other.ndcg, other.recall))
        lines.append(f"{other.model:<24}{cells}  {other.source}")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and, where there are several, the sample standard deviation."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else " " * 9)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = [*RIVALS, *BY_ORDER, "ours"]
    parser.add_argument(
        "--data", nargs="+", choices=BOARDS, help="boards, by default all whose files are there"
    )
    parser.add_argument(
        "--root", type=Path, default="data", help="folder of the files; those of MovieLens are fetched"
    )
    parser.add_argument(
        "--interactions", type=Path, help="instead of a board: a file with a user's items in a line"
    )
    parser.add_argument(
        "--held_out", type=Path, help="its test file; without one each user's last item is held out"
    )
    parser.add_argument("--k", type=int, default=20, help="length of the lists of these files")
    parser.add_argument(
        "--only", nargs="+", choices=["rivals", *models], default=models, help="models to fit"
    )
    parser.add_argument(
        "--config", type=Path, help="our configuration, by default none: what `python -m trainer` does"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44], help="a fit for each")
    parser.add_argument(
        "--tune", action="store_true", help="choose the rivals' settings, print them, and stop"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    options.only = [m for m in models if m in options.only or (m != "ours" and "rivals" in options.only)]
    if options.held_out and not options.interactions:
        parser.error("--held_out needs --interactions, the training file of the pair")
    return options


def chosen_boards(options: argparse.Namespace) -> dict[str, Board]:
    """The boards that were asked for, or those whose files are there."""
    if options.interactions:
        return {options.interactions.name: board_of_files(options.interactions, options.held_out, options.k)}
    names = options.data or [name for name, board in BOARDS.items() if not board.missing(options.root)]
    for name in names:
        if missing := BOARDS[name].missing(options.root):
            raise SystemExit(f"{missing[0]}: no such file, which {name} needs. Say where it is: --root")
    return {name: BOARDS[name] for name in names}


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": 1,
    }
    report: dict[str, Any] = {"machine": machine, "seeds": options.seeds, "data": {}}
    with threadpool_limits(1), tempfile.TemporaryDirectory() as cache:
        for name, board in chosen_boards(options).items():
            data = board.config(options.root, cache)
            if options.tune:
                dataset = open_dataset(prepare_data(replace(data, validation_size=0.1)))
                print(f'"{name}":', flush=True)
                for model in (model for model in options.only if model in RIVALS and RIVALS[model].grid):
                    tune(model, dataset)
                continue
            results = report["data"][name] = compare(name, board, options, data)
            print(show(name, results, board.published) + "\n", flush=True)
            if options.json:
                options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
