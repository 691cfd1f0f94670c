"""A run evaluated again, by user: intervals of its figures, and quality by activity and by popularity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer.config.schema import EvaluationConfig
from trainer.dataset.dataset import Dataset
from trainer.errors import UserError
from trainer.evaluation.beyond_accuracy import POPULARITIES, popularity_thirds
from trainer.evaluation.bootstrap import Difference, paired_bootstrap
from trainer.evaluation.evaluator import Evaluation
from trainer.report.facts import RunFacts
from trainer.reporting.evaluation_text import main_metric
from trainer.training.run_evaluation import evaluate_by_user

RESAMPLES, FEWEST_RESAMPLES, DRAWS = 2_000, 200, 2**28
"""Resamples of an interval; with many users fewer, so that at most so many are drawn."""
GROUPS = 5
"""Groups of users by activity, of about as many users each."""


@dataclass(frozen=True)
class Interval:
    """A mean over users with its 95% interval, which covers the choice of users alone."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Users or items that are alike, and how well each ranker serves them.

    Attributes:
        label: What they have in common, such as `10-25`.
        size: Number of users or items.
        figures: The deciding metric by ranker; of items the ends of an interval are the mean.
    """

    label: str
    size: int
    figures: dict[str, Interval]


@dataclass(frozen=True)
class Measurement:
    """An evaluation by user, in figures that a report shows.

    Attributes:
        dataset: The data.
        evaluation: As it was made.
        metric: The metric that decides.
        figures: Interval by ranker and metric.
        leads: The model minus each baseline in the deciding metric, paired by user.
        by_activity: Groups of users by the number of their training interactions, the least active first.
        by_popularity: Head, middle and tail of the items, by ranker.
    """

    dataset: Dataset
    evaluation: Evaluation
    metric: str
    figures: dict[str, dict[str, Interval]]
    leads: dict[str, Difference]
    by_activity: list[Group]
    by_popularity: list[Group]


def measure(
    run: RunFacts, protocol: EvaluationConfig | None = None, options: Sequence[str] = ()
) -> Measurement | str:
    """Evaluate a run by user.

    Args:
        run: The run.
        protocol: How; None: as the run itself was evaluated.
        options: Where data lie that have moved, as on the command line.

    Returns:
        The measurement, or a sentence that says why there is none.
    """
    if not run.measured:
        return "Nothing was held out, so there is no part of the data to measure on."
    try:
        dataset, evaluation = evaluate_by_user(run.folder, protocol, options)
    except UserError as error:
        fault = str(error).removeprefix(f"{run.folder}: ")
        return (
            "The run was not evaluated again, so intervals and quality by group are missing: "
            f"{fault[:1].lower()}{fault[1:].rstrip('.')}."
        )
    return summarised(dataset, evaluation, run.config.run.seed)


def summarised(dataset: Dataset, evaluation: Evaluation, seed: int) -> Measurement:
    """Return the figures of an evaluation that has the metrics of every user."""
    metric, rankers = main_metric(evaluation), evaluation.rankers_per_user
    flat = {f"{ranker} {name}": each for ranker, of in rankers.items() for name, each in of.items()}
    found = intervals(flat, seed)
    figures = {ranker: {name: found[f"{ranker} {name}"] for name in of} for ranker, of in rankers.items()}
    others = [name for name in rankers if name != "model"]
    leads = differences({name: (rankers["model"][metric], rankers[name][metric]) for name in others}, seed)
    return Measurement(
        dataset, evaluation, metric, figures, leads, *_groups(dataset, evaluation, metric, seed)
    )


def intervals(values: Mapping[str, np.ndarray], seed: int) -> dict[str, Interval]:
    """Return the mean and the bootstrap interval of each of several values of the same users, (U,) each."""
    zeros = {name: np.zeros_like(each) for name, each in values.items()}
    found = paired_bootstrap(dict(values), zeros, _resamples(values), seed=seed)
    return {name: Interval(each.first, each.low, each.high) for name, each in found.items()}


def differences(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], seed: int) -> dict[str, Difference]:
    """Return the paired difference of each pair of values of the same users, (U,) each."""
    if not pairs:
        return {}
    first, second = ({name: pair[place] for name, pair in pairs.items()} for place in (0, 1))
    return paired_bootstrap(first, second, _resamples(first), seed=seed)


def _resamples(values: Mapping[str, np.ndarray]) -> int:
    users = max(map(len, values.values()))
    return max(min(RESAMPLES, DRAWS // max(users, 1)), FEWEST_RESAMPLES)


def _groups(
    dataset: Dataset, evaluation: Evaluation, metric: str, seed: int
) -> tuple[list[Group], list[Group]]:
    """Return groups of users by activity, and of items by popularity."""
    users = np.flatnonzero(dataset.held_out(evaluation.split).lengths())
    counts = dataset.train_by_user().lengths()[users]
    by_activity = []
    for label, members in activity_groups(counts):
        of = {name: each[metric][members] for name, each in evaluation.rankers_per_user.items()}
        by_activity.append(Group(label, int(members.sum()), intervals(of, seed)))
    popularity = np.bincount(dataset.train.items, minlength=evaluation.items)
    sizes = np.bincount(popularity_thirds(torch.from_numpy(popularity)).numpy(), minlength=3)
    k, by_popularity = metric.partition("@")[2], []
    for name, size in zip(POPULARITIES, sizes.tolist(), strict=True):
        values = {ranker: each.get(f"ndcg_{name}@{k}") for ranker, each in evaluation.beyond.items()}
        figures = {ranker: Interval(each, each, each) for ranker, each in values.items() if each is not None}
        by_popularity.append(Group(name, size, figures))
    return by_activity, by_popularity


def activity_groups(counts: np.ndarray) -> Sequence[tuple[str, np.ndarray]]:
    """Divide users into groups of about the same size by a count; equal counts are in one group.

    Args:
        counts: (U,) interactions of each user.

    Returns:
        Least and largest count of each group as text, and its members, (U,) bool; ascending.
    """
    edges = np.unique(np.quantile(counts, np.linspace(0, 1, GROUPS + 1)[1:], method="lower"))
    of = np.searchsorted(edges, counts)
    found = []
    for group in np.unique(of):
        members = of == group
        low, high = int(counts[members].min()), int(counts[members].max())
        found.append((f"{low:,}" if low == high else f"{low:,}\u2013{high:,}", members))
    return found
