"""Results as plain text: a table of rankers and metrics, and a verdict in words."""

from trainer.evaluation.bootstrap import Difference

WIDTH = 80
NAME_WIDTH = 20

INSTEAD = {
    "popularity": "recommending the most popular items",
    "random": "a list drawn by lot",
    "item_knn": "the items most similar to a user's own, found without any training,",
    "ease": "a linear model in closed form, found without any training,",
    "low_rank": "the closed-form two-tower, found without any training,",
}
"""What would be shown in place of a model that does not beat a baseline."""


def results_table(results: dict[str, dict[str, float]], starred: bool = True) -> str:
    """A row for each ranker, a column for each metric, a block for each k; the best of a column is starred.

    Args:
        results: ranker -> metric (`ndcg@10`) -> value, larger is better. Rows and columns keep their order; a
            ranker without a metric shows `-`.
        starred: False where larger is not better.
    Returns: lines of at most 80 characters, without a final line feed.
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
    results: dict[str, dict[str, float]], metric: str = "ndcg@10", model: str = "model", seen: str = "mask"
) -> str:
    """Whether the model is better than the baselines, as far as `results` holds them.

    `popularity` and `random` are what any model must beat; `item_knn`, `ease` and `low_rank` need no
    training, so that a model which loses to them is not worth its training.

    Args:
        results: ranker -> metric -> value.
        metric: the metric that decides.
        model: the ranker that is judged.
        seen: `mask` or `keep`, the protocol of the results.
    """
    value = results[model][metric]
    baselines = {name: results[name][metric] for name in INSTEAD if name in results}
    losses = {n: _failure(metric, value, n, other) for n, other in baselines.items() if value <= other}
    wins = [_multiple(value, name, other) for name, other in baselines.items() if value > other]
    sentences = list(losses.values())
    if not losses or (wins and not losses.keys() & {"popularity", "random"}):
        listed = " and ".join([", ".join(wins[:-1]), wins[-1]] if len(wins) > 1 else wins)
        sentences.insert(0, f"{metric} {value:.4f}: {listed}." if wins else f"{metric} {value:.4f}.")
    if seen == "keep":
        sentences.append(
            "This protocol also ranks items that the user already has, so the better a model knows what was "
            "seen, the worse it scores: compare figures with seen items masked instead "
            "(--evaluation.seen mask)."
        )
    return " ".join(sentences)


def comparison(differences: dict[str, Difference], other: str, users: int, metric: str) -> str:
    """A line for each metric, and what the decisive one says.

    Args:
        differences: metric -> this model minus the other.
        other: the other run's name.
        metric: the one that is put in words.
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


def _significance(found: Difference, users: int, metric: str) -> str:
    if found.difference == found.low == found.high == 0:
        return f"{metric}: no user is served differently."
    if found.low <= 0 <= found.high:
        return (
            f"{metric}: no difference can be told. The interval holds 0, so {users:,} other users might turn "
            "the order over."
        )
    better = "better" if found.difference > 0 else "worse"
    return (
        f"{metric}: this run is {better} by {abs(found.difference):.4f}, more than the choice of "
        f"{users:,} users explains."
    )


def _column(metric: str, results: dict[str, dict[str, float]], starred: bool) -> list[str]:
    """Heading and cells of one metric, all of the same width, a star after the best of several values."""
    values = [ranker.get(metric) for ranker in results.values()]
    best = max(value for value in values if value is not None)
    cells = [metric.partition("@")[0] + " "]
    for value in values:
        shown = "-" if value is None else f"{value:.4f}"
        cells.append(shown + ("*" if starred and value == best and len(values) > 1 else " "))
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _blocks(names: list[str], columns: list[list[str]]) -> list[str]:
    """The columns beside the names, in as many blocks as the width asks for."""
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
        f"{INSTEAD[name]} would serve users {served}."
    )


def _multiple(value: float, name: str, other: float) -> str:
    if other == 0:
        return f"above {name} ({other:.4f})"
    ratio = value / other
    digits = 2 if ratio < 2 else 1 if ratio < 10 else 0
    return f"{ratio:.{digits}f} times {name} ({other:.4f})"
