"""Results as plain text: tables of rankers and metrics, and sentences that compare them."""

from trainer.evaluation.bootstrap import Difference
from trainer.evaluation.rating_errors import RatingErrors
from trainer.facts.baselines import BASELINES
from trainer.formatting import format_count

WIDTH = 80
NAME_WIDTH = 20
FEW_PLACES = 0.1
"""Share of a list's places below which it hardly matters whether seen items stand there."""
NEAR_CHANCE = 1.5
"""Multiple of the figure of random lists up to which a model's lists are said to be as good as chance."""


def results_table(results: dict[str, dict[str, float]], starred: bool = True) -> str:
    """Format a row for each ranker, a column for each metric and a block for each k.

    Args:
        results: Ranker -> metric (`ndcg@10`) -> value. Rows and columns keep their order; a ranker without a
            metric shows `-`.
        starred: Whether the largest value of each column gets a star.

    Returns:
        Lines of at most 80 characters, without a final line feed.
    """
    metrics = list(dict.fromkeys(metric for values in results.values() for metric in values))
    cutoffs = list(dict.fromkeys(metric.partition("@")[2] for metric in metrics))
    blocks = []
    for cutoff in cutoffs:
        columns = [
            _column(metric, results, starred) for metric in metrics if metric.partition("@")[2] == cutoff
        ]
        heading = f"at {cutoff}" if cutoff else ""
        blocks += _blocks([heading, *(name[:NAME_WIDTH] for name in results)], columns)
    return "\n\n".join(blocks)


def verdict(
    results: dict[str, dict[str, float]],
    metric: str = "ndcg@10",
    model: str = "model",
    *,
    seen: str = "mask",
    option_prefix: str = "--evaluation.",
    seen_share: float = 1.0,
    ratings: RatingErrors | None = None,
) -> str:
    """Say whether the model beats each baseline that `results` holds, and what its figures are due to.

    Any model must beat the baselines that are not personalized. The others need no training, so a model that
    loses to one of them is not worth its training.

    Args:
        results: Ranker -> metric -> value.
        metric: The metric that decides.
        model: The ranker that is judged.
        seen: `mask` or `keep`, the protocol of the results.
        option_prefix: What the running command writes before `seen`.
        seen_share: Share of the places of the model's lists that seen items take.
        ratings: Errors of a model that predicts values.
    """
    value = results[model][metric]
    baselines = {name: results[name][metric] for name in BASELINES if name in results}
    below_a_floor = any(
        value <= other and not BASELINES[name].personalized for name, other in baselines.items()
    )
    losses = {n: _failure(metric, value, n, other) for n, other in baselines.items() if value <= other}
    wins = [_multiple(value, name, other) for name, other in baselines.items() if value > other]
    sentences = list(losses.values())
    if not losses or (wins and not below_a_floor):
        listed = " and ".join([", ".join(wins[:-1]), wins[-1]] if len(wins) > 1 else wins)
        sentences.insert(0, f"{metric} {value:.4f}: {listed}." if wins else f"{metric} {value:.4f}.")
    if ratings:
        random = baselines.get("random")
        sentences += _of_ratings(ratings, random is not None and value <= NEAR_CHANCE * random)
    if seen == "keep":
        sentences.append(_of_seen_items(seen_share, option_prefix))
    return " ".join(sentences)


def ratings_table(ratings: RatingErrors) -> str:
    """Format the errors of a model that predicts values beside those of the training mean, and its scores."""
    rows = {
        "model": {"rmse": ratings.rmse, "mae": ratings.mae},
        f"always {ratings.mean:.2f}": {"rmse": ratings.mean_rmse, "mae": ratings.mean_mae},
    }
    return "\n".join(
        [
            f"Errors on {format_count(ratings.interactions, 'rating')}, and scores as mean +- deviation",
            results_table(rows, starred=False),
            f"scores of seen items {_spread(ratings.seen_mean, ratings.seen_sd)}, "
            f"of all others {_spread(ratings.unseen_mean, ratings.unseen_sd)}",
        ]
    )


def comparison(differences: dict[str, Difference], other: str, users: int, metric: str) -> str:
    """Format a line for each metric, and a sentence about one of them.

    Args:
        differences: Metric -> this model minus the other.
        other: Name of the other run.
        users: Number of evaluated users.
        metric: The metric of the sentence.
    """
    width = max(map(len, differences))
    heading = f"{'':{width}}    this   other  difference  95% interval"
    lines = [
        f"{name:{width}}  {each.first:.4f}  {each.second:.4f}     {each.difference:+.4f}  "
        f"{each.low:+.4f} to {each.high:+.4f}"
        for name, each in differences.items()
    ]
    return "\n".join(
        [f"Compared with {other}", heading, *lines, _significance(differences[metric], users, metric)]
    )


def _of_ratings(ratings: RatingErrors, near_chance: bool) -> list[str]:
    against = f"RMSE {ratings.rmse:.3g} against {ratings.mean_rmse:.3g}"
    than = "than the training mean, said of every pair"
    order = "better" if ratings.rmse < ratings.mean_rmse else "worse"
    spread = (
        f"Pairs without a rating are never fitted: scores of seen items are "
        f"{_spread(ratings.seen_mean, ratings.seen_sd)}, those of all others "
        f"{_spread(ratings.unseen_mean, ratings.unseen_sd)}"
    )
    if near_chance and ratings.unseen_sd > ratings.seen_sd:
        spread += ", and the largest of these, which come first, are noise"
    return [f"Ratings are predicted {order} {than} ({against}).", f"{spread}."]


def _of_seen_items(share: float, option_prefix: str) -> str:
    taken = f"Items that the user already has are ranked too, and take {share:.1%} of the places"
    if share < FEW_PLACES:
        return f"{taken}: masking them ({option_prefix}seen mask) would change little."
    return (
        f"{taken}, so the better a model knows what was seen, the worse it scores: compare figures with seen "
        f"items masked instead ({option_prefix}seen mask)."
    )


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.1f} +- {deviation:.2g}" if deviation < 10 else f"{mean:.1f} +- {deviation:.0f}"


def _significance(found: Difference, users: int, metric: str) -> str:
    if found.difference == found.low == found.high == 0:
        return f"{metric}: no user is served differently."
    if found.low <= 0 <= found.high:
        return (
            f"{metric}: no difference can be told. The interval holds 0, so another "
            f"{format_count(users, 'user')} might turn the order over."
        )
    better = "better" if found.difference > 0 else "worse"
    return (
        f"{metric}: this run is {better} by {abs(found.difference):.4f}, more than the choice of "
        f"{format_count(users, 'user')} explains."
    )


def _column(metric: str, results: dict[str, dict[str, float]], starred: bool) -> list[str]:
    """Format the heading and the cells of one metric, all of the same width."""
    values = [ranker.get(metric) for ranker in results.values()]
    best = max(value for value in values if value is not None)
    cells = [metric.partition("@")[0] + " "]
    for value in values:
        shown = "-" if value is None else f"{value:.4f}"
        cells.append(shown + ("*" if starred and value == best and len(values) > 1 else " "))
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _blocks(names: list[str], columns: list[list[str]]) -> list[str]:
    """Join names and columns into blocks of lines that are no wider than WIDTH."""
    margin = max(map(len, names))
    blocks, lines = [], [name.ljust(margin) for name in names]
    for column in columns:
        if len(lines[0]) > margin and len(lines[0]) + 1 + len(column[0]) > WIDTH:
            blocks.append(lines)
            lines = [name.ljust(margin) for name in names]
        lines = [f"{line} {cell}" for line, cell in zip(lines, column, strict=True)]
    return ["\n".join(line.rstrip() for line in block) for block in [*blocks, lines]]


def _failure(metric: str, value: float, name: str, other: float) -> str:
    served = "better" if value < other else "as well"
    return (
        f"This model FAILS to beat {name}: {metric} {value:.4f} against {other:.4f}; "
        f"{BASELINES[name].instead} would serve users {served}."
    )


def _multiple(value: float, name: str, other: float) -> str:
    if other == 0:
        return f"above {name} ({other:.4f})"
    ratio = value / other
    digits = 2 if ratio < 2 else 1 if ratio < 10 else 0
    return f"{ratio:.{digits}f} times {name} ({other:.4f})"
