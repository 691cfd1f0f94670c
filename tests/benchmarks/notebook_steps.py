"""From the teaching notebook's recipe to ours, one change at a time, and what each change is worth.

    python -m tests.benchmarks.notebook_steps --root DIR [--data NAME] [--seeds 42 43 44]

A step is a few options of the trainer's command line, given after those of the steps before it; all of them
together are `configs/default.yaml`, and lead there one change at a time. Nothing is chosen by the test part.
`configs/FROM_THE_NOTEBOOK.md` explains each step and shows the table.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from threadpoolctl import threadpool_limits

from trainer.cli import main as command

NOTEBOOK = Path(__file__).resolve().parents[2] / "configs" / "notebook.yaml"
METRIC = "ndcg@10"
REFERENCES = ("random", "popularity")
COLUMNS = ("step", "what changes", "options", "NDCG@10", "range", "seen kept", "taken back", "s")


@dataclass(frozen=True)
class Step:
    """One change of the recipe.

    Attributes:
        name: What changes, in words.
        options: The change on the command line.
        undo: Options that take it back at the end of `STEPS`; None where it cannot be taken back alone.
    """

    name: str
    options: str
    undo: str | None = None


STEPS = (
    Step("the notebook's recipe", "--run.choose false --model.low_rank 0"),
    Step("seen items are left out of the ranking", "--evaluation.seen mask"),
    Step("vectors start small", "--model.init_std null", "--model.init_std 1.0"),
    Step("128 dims", "--model.dim null", "--model.dim 512"),
    Step(
        "a softmax over the batch's items in place of squared error",
        "--loss.name softmax --loss.candidates in_batch --loss.logq false",
        "--loss.name mse --batches.rows interaction",
    ),
    Step("cosine", "--model.similarity cosine", "--model.similarity dot"),
    Step("logQ correction", "--loss.logq true"),
    Step(
        "a row is a user",
        "--batches.rows null --batches.size null --loss.user_weight_power 0",
        "--batches.rows interaction",
    ),
    Step("the whole catalogue competes", "--loss.candidates auto", "--loss.candidates in_batch"),
    Step("an item bias", "--model.item_bias true --model.popularity_prior 0", "--model.item_bias false"),
    Step("it starts at popularity", "--model.popularity_prior null", "--model.popularity_prior 0"),
    Step("active users weigh more", "--loss.user_weight_power 0.4", "--loss.user_weight_power 0"),
    Step(
        "larger steps that shrink to nothing",
        "--optimizer.name auto --optimizer.learning_rate null --optimizer.schedule linear "
        "--optimizer.warmup 0.1 --run.epochs null",
        "--optimizer.name adam --optimizer.learning_rate 0.001 --optimizer.schedule constant "
        "--optimizer.warmup 0 --run.epochs 50",
    ),
)
"""Changes to fixed values, in order."""

CHOICES = (
    Step("the temperature is chosen on a validation part", "--run.choose true"),
    Step("closed-form dims beside the learned ones, chosen too", "--model.low_rank null"),
)
"""Changes after these, to values that a training chooses for itself."""


@dataclass(frozen=True)
class Measured:
    """What came of one training.

    Attributes:
        ndcg: Figure by ranker, `model` and `REFERENCES`, by the protocol of the training's options.
        kept: The same with seen items ranked too, as the notebook measures.
        seconds: CPU time of the whole command.
    """

    ndcg: dict[str, float]
    kept: dict[str, float]
    seconds: float


def cumulative(steps: Sequence[Step]) -> list[str]:
    """The options of a training with all of these changes, on top of the notebook's configuration."""
    return ["--config", str(NOTEBOOK), *(option for step in steps for option in step.options.split())]


def measure(options: Sequence[str], seed: int) -> Measured:
    """Train with these options, and measure with seen items as they say and with seen items kept.

    Raises: SystemExit with the trainer's exit code where it refuses the options; its reason is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        fixed = ["--run.dir", str(run), "--run.seed", str(seed), "--run.tensorboard", "false"]
        started = time.process_time()
        _call(["train", *options, *fixed, "--device", "cpu"])
        seconds = time.process_time() - started
        report = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        kept = json.loads(_call(["evaluate", str(run), "--seen", "keep", "--json"]))
    return Measured(_by_ranker(report), _by_ranker(kept), seconds)


def _call(arguments: list[str]) -> str:
    """What the trainer's command prints."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = command(arguments)
    if code:
        print(errors.getvalue().strip(), file=sys.stderr)
        raise SystemExit(code)
    return output.getvalue()


def _by_ranker(report: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: report[name][METRIC] for name in ("model", *REFERENCES)}


def ladder(data: Sequence[str], seeds: Sequence[int]) -> Iterator[list[str]]:
    """The rows of the table, each as it is ready."""
    steps = (*STEPS, *CHOICES)
    for number, step in enumerate(steps):
        runs = [measure([*cumulative(steps[: number + 1]), *data], seed) for seed in seeds]
        undone = []
        if step.undo:
            options = [*cumulative(STEPS), *step.undo.split(), *data]
            undone = [measure(options, seed).ndcg["model"] for seed in seeds]
        ndcg, kept = ([getattr(run, part)["model"] for run in runs] for part in ("ndcg", "kept"))
        seconds = f"{median(run.seconds for run in runs):.1f}"
        figures = [_median(ndcg), f"{max(ndcg) - min(ndcg):.4f}", _median(kept), _median(undone), seconds]
        yield [str(number), step.name, f"`{step.options}`", *figures]
    for name in REFERENCES:
        ndcg, kept = ([getattr(run, part)[name] for run in runs] for part in ("ndcg", "kept"))
        yield ["", name, "", _median(ndcg), f"{max(ndcg) - min(ndcg):.4f}", _median(kept), "", ""]


def _median(figures: Sequence[float]) -> str:
    return f"{median(figures):.4f}" if figures else ""


def show(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="ml-100k", help="a MovieLens release")
    parser.add_argument(
        "--root", type=Path, default="data", help="folder of the MovieLens files; missing ones are fetched"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44], help="a training for each")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    rows = []
    with threadpool_limits(1), tempfile.TemporaryDirectory() as cache:
        data = ["--data.name", options.data, "--data.root", str(options.root), "--data.cache", cache]
        for row in ladder(data, options.seeds):
            print(*row, sep="  ", file=sys.stderr, flush=True)
            rows.append(row)
    print(show(rows))


if __name__ == "__main__":
    main()
