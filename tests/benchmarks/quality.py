"""Ranking quality beside popularity, item kNN, EASE, and implicit's ALS and BPR, on the same rows in one run.

    python -m tests.benchmarks.quality [--data NAME ...] [--root DIR] [--only MODEL ...] [--json FILE]
    python -m tests.benchmarks.quality --tune

Everything runs on one core. The trainer runs as a user runs it, in a process of its own. Every model is
ranked over the full catalogue without the items seen in training, and the test part is read once for each
figure. README.md beside this file says how the rivals were set up.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from tests.benchmarks.rivals import CHOSEN, RIVALS, Vectors, choose
from trainer.config.schema import DataConfig
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.evaluation.baselines import popularity_scores, rank_by_scores
from trainer.evaluation.metrics import measure
from trainer.evaluation.topk import ItemLists, hits, top_k

ROOT = Path(__file__).resolve().parents[2]
K = 10
METRICS = (f"ndcg@{K}", f"recall@{K}")
TUNING_SEED = 0
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

DATA: dict[str, dict[str, Any]] = {
    "ml-1m": {"name": "ml-1m"},
    "ml-100k": {"name": "ml-100k"},
    "ml-100k-4": {"name": "ml-100k", "min_value": 4.0},
    "ml-100k-last": {"name": "ml-100k", "split": "leave_last_out"},
    "ml-100k-temporal": {"name": "ml-100k", "split": "temporal"},
    "ml-latest-small": {"name": "ml-latest-small"},
}
"""Options of section `data` by the name of the comparison."""


def training_matrix(dataset: Dataset) -> csr_matrix:
    """The training part as (users, items) float32 ones."""
    train = dataset.train
    ones = np.ones(len(train), np.float32)
    return csr_matrix((ones, (train.users, train.items)), (dataset.user_count, dataset.item_count))


def quality(vectors: Vectors, dataset: Dataset, split: str) -> dict[str, float]:
    """Means over all users with held-out items, seen items left out.

    Whoever has no training interaction is ranked by popularity: none of the rivals says anything of him.
    """
    users = np.flatnonzero(dataset.held_out(split).lengths())
    seen, held_out = _lists(dataset.seen(split), users), _lists(dataset.held_out(split), users)
    query, items = (torch.from_numpy(side) for side in vectors)
    _, ranked = top_k(query[users], items, K, seen)
    counts = popularity_scores(torch.tensor(dataset.train.items), dataset.item_count)
    ranked = torch.where(seen[0].unsqueeze(1) == 0, rank_by_scores(counts, K, seen), ranked)
    values = measure(hits(ranked, held_out), held_out[0], [K])
    return {metric: float(values[metric].mean()) for metric in METRICS}


def _lists(ragged: Any, users: np.ndarray) -> ItemLists:
    lengths, values = ragged.take(users)
    return torch.from_numpy(lengths), torch.from_numpy(values)


def tune(name: str, dataset: Dataset) -> dict[str, Any]:
    """Settings of the best NDCG on the validation part."""
    train = training_matrix(dataset)

    def score(settings: dict[str, Any]) -> float:
        vectors = RIVALS[name].fit(train, TUNING_SEED, **settings)
        return quality(vectors, dataset, "validation")[METRICS[0]]

    settings, best, tried = choose(RIVALS[name].grid, score)
    edges = [key for key, values in RIVALS[name].grid.items() if settings[key] in (values[0], values[-1])]
    print(
        f'    "{name}": {settings},  # {best:.4f}, best of {tried}; at an edge: {edges or "none"}', flush=True
    )
    return settings


def fit_rival(name: str, settings: dict[str, Any], dataset: Dataset, seed: int) -> dict[str, float]:
    """Quality on the test part, and seconds of the fit."""
    train = training_matrix(dataset)
    start = time.perf_counter()
    vectors = RIVALS[name].fit(train, seed, **settings)
    seconds = time.perf_counter() - start
    return quality(vectors, dataset, "test") | {"seconds": seconds}


def fit_ours(options: list[str], data: DataConfig, seed: int) -> dict[str, float]:
    """The same of the trainer's command; the seconds in which it chooses for itself count."""
    report = run_ours(options, data, seed)
    seconds = report["seconds"]["choose"] + report["seconds"]["train"]
    return {metric: report["model"][metric] for metric in METRICS} | {"seconds": seconds}


def run_ours(options: list[str], data: DataConfig, seed: int) -> dict[str, Any]:
    """`metrics.json` of the trainer's command on one core."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "trainer", "--run.dir", str(run), "--run.seed", str(seed)]
        command += ["--device", "cpu", "--evaluation.k", f"[{K}]", *options]
        for option in ("name", "root", "cache", "split", "min_value"):
            if (value := getattr(data, option)) is not None:
                command += [f"--data.{option}", str(value)]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | ONE_CORE, stdout=subprocess.DEVNULL)
        return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def compare(name: str, options: argparse.Namespace, data: DataConfig) -> dict[str, dict[str, Any]]:
    """Settings and figures by model, a figure for each seed."""
    dataset = open_dataset(prepare_data(data))
    results = {}
    for model in options.only:
        if model == "ours":
            given = ["--config", str(options.config.resolve())] if options.config else []
            settings: dict[str, Any] = {"config": options.config.name if options.config else None}
            runs = [fit_ours(given, data, seed) for seed in options.seeds]
        else:
            settings = CHOSEN[name][model] if RIVALS[model].grid else {}
            seeds = options.seeds if RIVALS[model].seeded else options.seeds[:1]
            runs = [fit_rival(model, settings, dataset, seed) for seed in seeds]
        results[model] = {"settings": settings} | {key: [run[key] for run in runs] for key in runs[0]}
    return results


def show(name: str, results: dict[str, dict[str, Any]]) -> str:
    """A row for each model: mean and standard deviation over seeds of each metric, and mean seconds."""
    lines = [f"{name:<18}" + "".join(f"{metric:>18}" for metric in METRICS) + f"{'fit, s':>10}"]
    for model, figures in results.items():
        cells = "".join(f"{spread(figures[metric]):>18}" for metric in METRICS)
        lines.append(f"{model:<18}{cells}{mean(figures['seconds']):>10.2f}")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and, where there are several, the sample standard deviation."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else " " * 9)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = [*RIVALS, "ours"]
    parser.add_argument(
        "--data", nargs="+", choices=DATA, default=list(DATA), help="data sets, by default all"
    )
    parser.add_argument(
        "--root", type=Path, default="data", help="folder of the MovieLens files; missing ones are fetched"
    )
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
    options.only = [m for m in models if m in options.only or (m in RIVALS and "rivals" in options.only)]
    return options


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
        for name in options.data:
            data = DataConfig(**DATA[name], root=str(options.root.absolute()), cache=cache)
            if options.tune:
                dataset = open_dataset(prepare_data(replace(data, validation_size=0.1)))
                print(f'"{name}":', flush=True)
                for model in (model for model in options.only if model != "ours" and RIVALS[model].grid):
                    tune(model, dataset)
                continue
            results = report["data"][name] = compare(name, options, data)
            print(show(name, results) + "\n", flush=True)
            if options.json:
                options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
