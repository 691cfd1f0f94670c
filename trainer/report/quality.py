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
from trainer.reporting.evaluation_text import trivial_text


def quality(run: RunFacts, measured: Measurement | str) -> Iterable[Html]:
    """Yield figures of a run and of its baselines, and what more is known where it was evaluated again."""
    if not run.measured:
        yield missing(str(measured))
        return
    rankers = {name: each for name, each in run.metrics.items() if name == "model" or name in BASELINES}
    metrics = list(rankers["model"])
    of = measured.figures if isinstance(measured, Measurement) else {}
    best = {name: max(each[name] for each in rankers.values() if name in each) for name in metrics}
    rows = []
    for ranker, values in rankers.items():
        cells = [figure_cell(values.get(name), of.get(ranker, {}).get(name), best[name]) for name in metrics]
        rows.append((tag("b", ranker) if ranker == "model" else ranker, *cells))
    yield paragraph(_protocol(run))
    yield table(["", *metrics], rows)
    if isinstance(measured, str):
        yield missing(measured)
    else:
        yield from _intervals(measured)
    if len(rankers) == 1:
        yield missing("No baselines were evaluated: --evaluation.baselines popularity,random names some.")


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
    names = list(lists["model"])
    rows = [(ranker, *(f"{each[name]:.4f}" for name in names)) for ranker, each in lists.items()]
    yield tag("h3", "Beyond accuracy")
    yield table(["", *names], rows)
    yield note(
        "coverage: share of the items that are in some list. gini: how unequally lists expose them (0: all "
        "alike). novelty: mean bits by which a listed item surprises. diversity: how little the attributes "
        "of a list repeat."
    )
