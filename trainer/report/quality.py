"""How good a run is: beside baselines, for which users and items, and beyond accuracy."""

from collections.abc import Iterable

from trainer.evaluation.beyond_accuracy import POPULARITIES
from trainer.facts.baselines import BASELINES
from trainer.formatting import format_count
from trainer.page.charts import Chart, Dot, dots
from trainer.page.document import chart_grid
from trainer.page.html import Html, joined, missing, note, paragraph, table, tag
from trainer.report.facts import RunFacts
from trainer.report.measurement import Interval, Measurement
from trainer.report.summary import interval_text, signed
from trainer.reporting.evaluation_text import ties_text, trivial_text


def quality(run: RunFacts, measured: Measurement | str) -> Iterable[Html]:
    """Yield figures of a run and of its baselines, and what more is known where it was evaluated again."""
    if not run.measured:
        yield missing(str(measured))
        return
    rankers = {name: each for name, each in run.metrics.items() if name == "model" or name in BASELINES}
    of = measured.figures if isinstance(measured, Measurement) else {}
    yield paragraph(_protocol(run))
    for names in by_length(rankers["model"]):
        rows = []
        best = {name: max(each[name] for each in rankers.values() if name in each) for name in names}
        for ranker, values in rankers.items():
            intervals = of.get(ranker, {})
            cells = [figure_cell(values.get(name), intervals.get(name), best[name]) for name in names]
            rows.append((tag("b", ranker) if ranker == "model" else ranker, *cells))
        yield table(["", *names], rows)
    if isinstance(measured, str):
        yield missing(measured)
    else:
        yield from _intervals(measured)
    if errors := run.metrics.get("ratings"):
        rows = [
            ("model", f"{errors['rmse']:.4f}", f"{errors['mae']:.4f}"),
            (f"always {errors['mean']:.2f}", f"{errors['mean_rmse']:.4f}", f"{errors['mean_mae']:.4f}"),
        ]
        yield tag("h3", f"Errors on {format_count(errors['interactions'], 'rating')}")
        yield table(["", "rmse", "mae"], rows)
    if len(rankers) == 1:
        yield missing("No baselines were evaluated: --evaluation.baselines popularity,random names some.")


def by_length(metrics: Iterable[str]) -> list[list[str]]:
    """Return metrics in groups of one length of the list each, as `ndcg@10` has 10."""
    groups: dict[str, list[str]] = {}
    for name in metrics:
        groups.setdefault(name.partition("@")[2], []).append(name)
    return [*groups.values()]


def _protocol(run: RunFacts) -> str:
    metrics, name = run.metrics, run.vocabulary.item_name
    seen = "left out" if metrics["seen"] == "mask" else "ranked too"
    ranked = format_count(metrics["items"], name)
    return (
        f"On the {metrics['split']} part: {format_count(metrics['users'], 'user')} with something to be "
        f"found, {ranked} ranked for each, what a user had before is {seen}."
    )


def figure_cell(value: float | None, interval: Interval | None, best: float | None = None) -> Html:
    """Return a figure with its interval below it, in bold where it is the best of its column."""
    if value is None:
        return joined("-")
    shown = tag("b", f"{value:.4f}") if value == best else joined(f"{value:.4f}")
    return joined(shown, tag("small", interval_text(interval)) if interval else None)


def _intervals(measured: Measurement) -> Iterable[Html]:
    yield note(
        "Below each figure: its 95% interval over resampled users (percentile bootstrap). It covers the "
        "choice of users, not the seed of the training."
    )
    for warning in trivial_text(measured.dataset, measured.evaluation):
        yield note(warning)
    if measured.evaluation.mostly_tied:
        yield note(ties_text(measured.evaluation))
    if measured.leads:
        rows = [
            (name, signed(lead.difference), f"{signed(lead.low)} to {signed(lead.high)}")
            for name, lead in measured.leads.items()
        ]
        yield tag("h3", f"The model minus each baseline, {measured.metric}")
        yield table(["baseline", "difference", "95% interval, paired by user"], rows)
    yield chart_grid([activity_chart({"": measured}), popularity_chart({"": measured})])
    yield note(
        "Users are grouped by their training interactions. Of the items, head, middle and tail have a third "
        "of the training interactions each: "
        + ", ".join(f"{each.label} {each.size:,}" for each in measured.by_popularity)
        + ". A figure of a group counts its items alone as relevant."
    )
    yield from _beyond(measured)


def activity_chart(runs: dict[str, Measurement]) -> Chart:
    """Return quality by activity of users: of the rankers of one run, or of the models of several."""
    one = next(iter(runs.values()))
    found = [
        Dot(name or ranker, group.label, each.mean, each.low, each.high)
        for name, measured in runs.items()
        for group in measured.by_activity
        for ranker, each in group.figures.items()
        if not name or ranker == "model"
    ]
    return dots(
        f"By activity: {one.metric}", found, one.metric, "training interactions of a user", upright=True
    )


def popularity_chart(runs: dict[str, Measurement]) -> Chart:
    """Return quality by popularity of items, likewise."""
    one = next(iter(runs.values()))
    found = [
        Dot(name or ranker, group.label, each.mean, each.low, each.high)
        for name, measured in runs.items()
        for group in measured.by_popularity
        for ranker, each in group.figures.items()
        if not name or ranker == "model"
    ]
    return dots(f"By popularity: ndcg@{one.metric.partition('@')[2]}", found, "ndcg", "items", upright=True)


def _beyond(measured: Measurement) -> Iterable[Html]:
    hidden = {f"ndcg_{name}" for name in ("light", "medium", "heavy", *POPULARITIES)}
    lists = {
        ranker: {name: value for name, value in figures.items() if name.partition("@")[0] not in hidden}
        for ranker, figures in measured.evaluation.beyond.items()
    }
    yield tag("h3", "Beyond accuracy")
    for names in by_length(lists["model"]):
        rows = [(ranker, *(f"{each[name]:.4f}" for name in names)) for ranker, each in lists.items()]
        yield table(["", *names], rows)
    yield note(
        "coverage: share of the items that are in some list. gini: how unequally lists expose them (0: all "
        "alike). novelty: mean bits by which a listed item surprises. diversity: how little the attributes "
        "of a list repeat."
    )
