"""An evaluation as text: on whom it was made, its table, and what it means."""

import textwrap
from pathlib import Path

from trainer.dataset.dataset import Dataset
from trainer.evaluation.bootstrap import Difference
from trainer.evaluation.evaluator import Evaluation
from trainer.formatting import format_count, wrapped
from trainer.reporting.results_table import comparison, ratings_table, results_table, verdict


def evaluation_text(dataset: Dataset, evaluation: Evaluation, option_prefix: str = "--evaluation.") -> str:
    """Return the protocol, the table of metrics, a verdict, and the metrics beyond accuracy.

    Args:
        dataset: Its name and what its items are called.
        evaluation: What is shown.
        option_prefix: What the running command writes before its options of a protocol.
    """
    metric = main_metric(evaluation)
    summary = verdict(
        evaluation.rankers,
        metric,
        seen=evaluation.seen,
        option_prefix=option_prefix,
        seen_share=evaluation.seen_share,
        ratings=evaluation.ratings,
    )
    lines = [protocol_text(dataset, evaluation), results_table(evaluation.rankers)]
    if len(evaluation.rankers) > 1:
        lines.append("* the best of its column")
    if evaluation.mostly_tied:
        lines.append(wrapped(ties_text(evaluation)))
    if evaluation.ratings:
        lines.append(ratings_table(evaluation.ratings))
    lines += [textwrap.fill(text, 80) for text in (*trivial_text(dataset, evaluation), summary)]
    if evaluation.beyond:
        lines += ["", beyond_text(evaluation.beyond)]
    return "\n".join(lines)


def ties_text(evaluation: Evaluation) -> str:
    """Return a warning that most lists depend on how ties are broken."""
    return (
        f"Warning: for {evaluation.tied:,} of {evaluation.users:,} users the model gives items of the list "
        "the same score. These are ranked by a hash of their ids, so the figures are partly chance. Train "
        "longer (--run.epochs) or with a higher --optimizer.learning_rate, so that items are told apart."
    )


def protocol_text(dataset: Dataset, evaluation: Evaluation) -> str:
    """Return on what an evaluation was made: which users of how many and why, items, and seen items."""
    name = dataset.item_name
    users = format_count(evaluation.users, "user")
    if others := dataset.user_count - evaluation.users:
        have = "has" if others == 1 else "have"
        all_users = format_count(dataset.user_count, "user")
        users = f"{evaluation.users:,} of {all_users} ({others:,} {have} nothing to be found)"
    seen = "masked" if evaluation.seen == "mask" else "kept"
    items = format_count(evaluation.items, name)
    lines = [wrapped(f"{dataset.name}, {evaluation.split} part, {users}, {items}, seen items {seen}")]
    if evaluation.left_out:
        left_out = format_count(evaluation.left_out, name)
        be = "is" if evaluation.left_out == 1 else "are"
        lines.append(
            wrapped(f"{left_out} kept from an earlier run {be} left out, as nobody can be looking for them")
        )
    return "\n".join(lines)


def trivial_text(dataset: Dataset, evaluation: Evaluation) -> list[str]:
    """Return warnings, each a sentence, if any model would do as well or a single user decides."""
    warnings = []
    if evaluation.users == 1:
        warnings.append("A trivial test: it has one user, and says nothing about others.")
    if whole := evaluation.whole_lists:
        lengths = [int(metric.partition("@")[2]) for metric in evaluation.rankers["model"]]
        who = "every user" if whole == evaluation.users else f"{whole:,} of {evaluation.users:,} users"
        trivial = "A trivial test" if whole == evaluation.users else "In part a trivial test"
        warnings.append(
            f"{trivial}: for {who} the list of {min(lengths)} has room for every {dataset.item_name} that "
            "may be in it: any model finds all of them, and only their order can differ."
        )
    return warnings


def beyond_text(beyond: dict[str, dict[str, float]]) -> str:
    """Return a table of exposure, novelty and diversity, and one of NDCG by group."""
    lists, groups = (
        {
            ranker: {name.removeprefix("ndcg_"): value for name, value in figures.items() if of_groups(name)}
            for ranker, figures in beyond.items()
        }
        for of_groups in (lambda name: not name.startswith("ndcg_"), lambda name: name.startswith("ndcg_"))
    )
    lines = [
        "Beyond accuracy: exposure of the catalogue, novelty in bits, diversity of lists",
        results_table(lists, starred=False),
        "",
        "NDCG of light, medium and heavy users; of items of head, middle and tail",
        results_table(groups),
    ]
    return "\n".join(lines)


def comparison_text(evaluation: Evaluation, differences: dict[str, Difference], other: Path) -> str:
    """Return how a run differs from another."""
    text = comparison(differences, str(other), evaluation.users, main_metric(evaluation))
    *lines, last = text.splitlines()
    return "\n".join(["", *lines, textwrap.fill(last, 80)])


def main_metric(evaluation: Evaluation) -> str:
    """Return the metric that the verdict names: `ndcg@10`, or the first if that was not computed."""
    metrics = evaluation.rankers["model"]
    return "ndcg@10" if "ndcg@10" in metrics else next(iter(metrics))
