"""What each part of ordered histories is worth: the same training with one thing changed at a time.

    python -m tests.benchmarks.ordered [--data NAME ...] [--root DIR] [--only ROW ...] [--json FILE]

What is to be found is each user's validation item, the one before the last; the test part is never read.
The first row is the recipe as it is shipped, with learned dims alone and the fixed temperature; one of the
rows on users is the same, by how many items users have. `of recipe` is the mean over seeds of a row's figure
as a share of that of the first row with the same seed.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

from tests.benchmarks.boards import BOARDS
from tests.benchmarks.quality import run_ours, spread

METRICS = ("ndcg@10", "recall@10")
BASE = (
    "--data.validation_size 0.1 --run.evaluate_every 0 --run.patience 0 --evaluation.split validation "
    "--model.history recency --run.choose false --model.low_rank 0 --run.tensorboard false"
)
RECIPE = "as shipped"
ROWS = {
    RECIPE: "",
    "table tied": "--model.history_table tied",
    "table of its own": "--model.history_table own",
    "decay by position alone": "--model.history_decay position",
    "decay by time alone": "--model.history_decay time",
    "transformer on top": "--model.history transformer",
    "last 10 items": "--model.history_length 10",
    "last 20 items": "--model.history_length 20",
    "a row for each user": "--model.user_id true",
    "no row for each user": "--model.user_id false",
    "64 dims": "--model.dim 64",
    "no vector dropout": "--model.vector_dropout 0",
    "vector dropout 0.3": "--model.vector_dropout 0.3",
    "later items are negatives": "--loss.mask_known false",
    "order-blind": "--model.history none",
}
NEEDS_TIMES = {"decay by position alone", "decay by time alone"}
"""Rows that ask for what data without times have anyway, or cannot have."""


def train(options: str, board: str, root: Path, cache: str, seed: int) -> dict[str, float]:
    """Quality, and seconds of the training."""
    report = run_ours([*BASE.split(), *options.split()], BOARDS[board].config(root, cache), seed)
    return {name: report["model"][name] for name in METRICS} | {"seconds": report["seconds"]["train"]}


def show(board: str, rows: dict[str, list[dict[str, float]]]) -> str:
    """A line a row: means and spreads over seeds, the share of the recipe's figure, and seconds."""
    width = max(map(len, (board, *rows)))
    lines = [f"{board:<{width}}" + "".join(f"{name:>18}" for name in METRICS) + "  of recipe  train, s"]
    for name, runs in rows.items():
        cells = "".join(f"{spread([run[metric] for run in runs]):>18}" for metric in METRICS)
        shares = [run[METRICS[0]] / first[METRICS[0]] for run, first in zip(runs, rows[RECIPE], strict=True)]
        lines.append(
            f"{name:<{width}}{cells}  {mean(shares):>9.3f}  {mean(run['seconds'] for run in runs):>8.1f}"
        )
    return "\n".join(lines)


def rows_of(board: str, only: list[str] | None) -> list[str]:
    """The rows that say something of a board; the recipe is always the first of them."""
    timed = BOARDS[board].data.get("order") != "file"
    return [
        name
        for name in ROWS
        if (only is None or name in (RECIPE, *only)) and (timed or name not in NEEDS_TIMES)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", nargs="+", choices=BOARDS, default=["ml-100k-last", "beauty"], help="boards"
    )
    parser.add_argument("--root", type=Path, default="data", help="folder of the files")
    parser.add_argument("--only", nargs="+", choices=ROWS, help="rows beside the first, by default all")
    parser.add_argument("--options", default="", help="further options of every training")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44], help="a training for each")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for board in options.data:
            rows = results[board] = {}
            for name in rows_of(board, options.only):
                given = f"{options.options} {ROWS[name]}"
                rows[name] = [train(given, board, options.root, cache, seed) for seed in options.seeds]
                if options.json:
                    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            print(show(board, rows) + "\n", flush=True)


if __name__ == "__main__":
    main()
