"""What each part of the recipe is worth: the same training with one thing changed, several seeds each.

    python -m tests.benchmarks.what_matters [--data NAME] [--root DIR] [--only GROUP ...] [--json FILE]

Nothing was chosen by these figures. The temperature is about the one chosen on a validation part, the same in
all rows but those that say otherwise.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

from tests.benchmarks.boards import BOARDS
from tests.benchmarks.quality import run_ours, spread
from trainer.config.schema import DataConfig

METRIC = "ndcg@10"
BASE = "--run.choose false --model.temperature 0.25 --model.low_rank 0"
INTERACTIONS = "--batches.rows interaction --batches.size 1024 --run.epochs 10"
SMALL_STEPS = "--batches.rows interaction --batches.size 64 --run.epochs 4"
ROWWISE = "--optimizer.name rowwise_adagrad"

GROUPS: dict[str, dict[str, str]] = {
    "choice": {
        "everything chosen": "",
        "learned dims alone, temperature chosen": "--model.low_rank 0",
        "learned dims alone, temperature 0.2": "--run.choose false",
        "initial vectors of the closed form": f"{BASE} --model.start low_rank",
    },
    "model": {
        "user id": BASE,
        "history": f"{BASE} --model.user_id false --model.history bag",
        "history, four fifths hidden": f"{BASE} --model.user_id false --model.history bag "
        "--model.history_dropout 0.8",
        "user id and history, summed": f"{BASE} --model.history bag",
        "user id and history, side by side": f"{BASE} --model.history bag --model.combine concat "
        "--model.dim 256",
        "dot product": f"{BASE} --model.similarity dot",
        "bias from zero": f"{BASE} --model.popularity_prior 0",
        "no bias": f"{BASE} --model.item_bias false",
        "every user alike": f"{BASE} --loss.user_weight_power 0",
        "64 dims": f"{BASE} --model.dim 64",
        "256 dims": f"{BASE} --model.dim 256",
    },
    "optimizer": {
        "adam": BASE,
        "row-wise adagrad": f"{BASE} {ROWWISE}",
        "adam, a quarter of the epochs": f"{BASE} --run.epochs 10",
        "row-wise adagrad, a quarter of the epochs": f"{BASE} {ROWWISE} --run.epochs 10",
    },
    "candidates": {
        "catalogue": f"{BASE} {SMALL_STEPS}",
        "in batch": f"{BASE} {SMALL_STEPS} --loss.candidates in_batch",
        **{
            f"{samples} sampled, popularity^{power}": f"{BASE} {SMALL_STEPS} --loss.candidates sampled "
            f"--loss.samples {samples} --loss.popularity_power {power}"
            for power in (0, 0.5, 1)
            for samples in (16, 64, 256, 1024)
        },
    },
    "correction": {
        "interactions, catalogue": f"{BASE} {INTERACTIONS}",
        "interactions, in batch, logQ": f"{BASE} {INTERACTIONS} --loss.candidates in_batch",
        "interactions, in batch, no logQ": f"{BASE} {INTERACTIONS} --loss.candidates in_batch "
        "--loss.logq false",
        "interactions, in batch, logQ, users' other items as negatives": f"{BASE} {INTERACTIONS} "
        "--loss.candidates in_batch --loss.mask_known false",
    },
}


def train(options: str, data: DataConfig, seed: int) -> dict[str, float]:
    """Quality, and seconds of the training."""
    report = run_ours(options.split(), data, seed)
    return {METRIC: report["model"][METRIC], "seconds": report["seconds"]["train"]}


def show(group: str, rows: dict[str, list[dict[str, float]]]) -> str:
    """A line a variation: mean and spread over seeds, and seconds."""
    width = max(map(len, rows))
    lines = [f"{group:<{width}}  {METRIC:>17}  train, s"]
    for name, runs in rows.items():
        figures = spread([run[METRIC] for run in runs])
        lines.append(f"{name:<{width}}  {figures:>17}  {mean(run['seconds'] for run in runs):>8.1f}")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=BOARDS, default="ml-100k", help="data set")
    parser.add_argument("--root", type=Path, default="data", help="folder of the MovieLens files")
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups, by default all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44], help="a training for each")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def main() -> None:
    options = parse()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as cache:
        data = BOARDS[options.data].config(options.root, cache)
        for group in options.only:
            results[group] = {
                name: [train(given, data, seed) for seed in options.seeds]
                for name, given in GROUPS[group].items()
            }
            print(show(group, results[group]) + "\n", flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
