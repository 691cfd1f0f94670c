"""What a training says in words: what is about to be trained, how it goes, and how it ended."""

import textwrap
from pathlib import Path

from trainer.data.dataset import Dataset
from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.table import results_table, verdict
from trainer.parallel.world import World
from trainer.training.assembly import Parts


def opening_words(dataset: Dataset, parts: Parts, world: World, run: Path) -> str:
    """What is about to be trained, where."""
    places = ", ".join(
        f"{table['name']} {table['rows']:,} x {table['dim']} on rank "
        + "+".join(str(shard["rank"]) for shard in table["shards"])
        for table in parts.plan["tables"]
    )
    idle = [str(rank) for rank in parts.plan["idle_ranks"]]
    sizes = (
        f"{dataset.name}: {dataset.user_count:,} users, {dataset.item_count:,} {dataset.item_name}s, "
        f"{len(dataset.train):,} training and {len(dataset.test):,} test interactions"
    )
    lines = [sizes, f"{world.size} rank{'s' if world.size > 1 else ''} on {world.device.type}: {places}"]
    if dataset.report["skipped"]:
        lines.insert(0, f"{dataset.report['skipped']:,} rows that cannot be read were skipped.")
    if idle:
        lines.append(f"Rank{'s' if len(idle) > 1 else ''} {', '.join(idle)} without a table.")
    return "\n".join([*lines, f"Run: {run}"])


def closing_words(dataset: Dataset, evaluation: Evaluation, seconds: dict[str, float]) -> str:
    """The table of results and how long they took."""
    words = f"Trained in {seconds['train']:.1f} s, measured in {seconds['evaluate']:.1f} s."
    return "\n".join(["", evaluation_words(dataset, evaluation), words])


def evaluation_words(dataset: Dataset, evaluation: Evaluation) -> str:
    """The protocol, the table, and what it says."""
    seen = "masked" if evaluation.seen == "mask" else "kept"
    protocol = (
        f"{dataset.name}, {evaluation.split} part, {evaluation.users:,} users, "
        f"{evaluation.items:,} {dataset.item_name}s, seen items {seen}"
    )
    metric = (
        "ndcg@10" if "ndcg@10" in evaluation.rankers["model"] else next(iter(evaluation.rankers["model"]))
    )
    words = verdict(evaluation.rankers, metric, seen=evaluation.seen)
    return "\n".join([protocol, results_table(evaluation.rankers), textwrap.fill(words, 80)])
