"""The page of several runs: which is best and how sure that is, and what differs in how they were made."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from trainer.config.parser import changes
from trainer.evaluation.bootstrap import Difference
from trainer.formatting import format_bytes, format_count
from trainer.page.charts import Dot, curve, dots
from trainer.page.document import Page, chart_grid, figure
from trainer.page.html import Html, joined, missing, note, paragraph, table, tag
from trainer.report.facts import RunFacts, format_setting, without_places
from trainer.report.measurement import Measurement, differences, measure
from trainer.report.quality import activity_chart, by_length, figure_cell, popularity_chart
from trainer.report.run_page import subtitle
from trainer.report.summary import seconds_text, signed, tile
from trainer.training.run_evaluation import same_users


@dataclass(frozen=True)
class Compared:
    """A run beside the first one.

    Attributes:
        run: The run.
        measured: Its evaluation by the protocol of the first run, or why there is none.
        paired: The run minus the first by metric, paired by user; None where users cannot be paired.
    """

    run: RunFacts
    measured: Measurement | str
    paired: dict[str, Difference] | None


def comparison_page(runs: Sequence[RunFacts], options: Sequence[str] = ()) -> Page:
    """Return the page that compares runs with the first of them."""
    compared = compare(runs, options)
    page = Page(
        " and ".join(run.label for run in runs) if len(runs) < 4 else f"{len(runs)} runs compared",
        f"{format_count(len(runs), 'run')}, compared with {runs[0].label}",
        _summary(compared),
    )
    page.add("quality", "Quality", *_quality(compared))
    page.add("settings", "What differs in their configurations", *_settings(runs))
    page.add("training", "Training", *_training(runs))
    page.add("cost", "What they took", *_cost(runs))
    return page


def compare(runs: Sequence[RunFacts], options: Sequence[str] = ()) -> list[Compared]:
    """Evaluate runs by the protocol of the first one, and pair their users with its users."""
    protocol = runs[0].config.evaluation
    others = replace(protocol, baselines=[])  # those of the first run are shown
    measured = [measure(run, others if place else protocol, options) for place, run in enumerate(runs)]
    first = measured[0]
    found = []
    for run, each in zip(runs, measured, strict=True):
        paired = None
        if isinstance(first, Measurement) and isinstance(each, Measurement):
            paired = _paired(each, first, run.config.run.seed)
        found.append(Compared(run, each, paired))
    return found


def _paired(each: Measurement, first: Measurement, seed: int) -> dict[str, Difference] | None:
    """Return a run minus the first one by metric; None where users cannot be paired."""
    if not same_users(first.dataset, each.dataset, first.evaluation.split):
        return None
    one, two = each.evaluation.per_user, first.evaluation.per_user
    return differences({name: (one[name], two[name]) for name in one}, seed)


def _summary(compared: Sequence[Compared]) -> Html:
    first, *others = compared
    tiles = [_tile(each, None if each is first else each.paired) for each in compared]
    lead = " ".join(_sentence(each, first) for each in others)
    return joined(paragraph(lead, class_="lead"), tag("div", *tiles, class_="tiles"))


def _sentence(each: Compared, first: Compared) -> str:
    """Return how a run compares with the first one, and how sure that is."""
    name, other = each.run.label, first.run.label
    if each.paired is None or not isinstance(each.measured, Measurement):
        return f"{name} cannot be paired with {other}: {_why_not(each, first)}."
    metric = each.measured.metric
    found = each.paired[metric]
    if found.difference == found.low == found.high == 0:
        return f"{name} serves every user as {other} does."
    shown = f"{metric} {signed(found.difference)}, 95% interval {signed(found.low)} to {signed(found.high)}"
    if found.low <= 0 <= found.high:
        return f"No difference between {name} and {other} can be told: {shown}."
    order = "better" if found.difference > 0 else "worse"
    return f"{name} is {order} than {other}: {shown}."


def _why_not(each: Compared, first: Compared) -> str:
    for one in (first, each):
        if isinstance(one.measured, str):
            fault = one.measured.rstrip(".")
            return f"{'' if one is each else f'{one.run.label}: '}{fault[:1].lower()}{fault[1:]}"
    return "their users, what these had before or what is to be found differ, so that figures do not compare"


def _tile(each: Compared, paired: dict[str, Difference] | None) -> Html:
    run = each.run
    if not run.measured:
        return tile(run.label, "-", "nothing was held out")
    metric = each.measured.metric if isinstance(each.measured, Measurement) else run.metric
    value = (
        run.metrics["model"][metric]
        if isinstance(each.measured, str)
        else each.measured.figures["model"][metric].mean
    )
    detail = metric
    if paired:
        found = paired[metric]
        detail += f", {signed(found.difference)} ({signed(found.low)} to {signed(found.high)})"
    return tile(run.label, f"{value:.4f}", detail)


def _quality(compared: Sequence[Compared]) -> Iterable[Html]:
    first = compared[0]
    alike = {each.run.label: each.measured for each in compared if isinstance(each.measured, Measurement)}
    if not alike:
        yield missing(str(first.measured))
        return
    names = list(next(iter(alike.values())).figures["model"])
    evaluation = next(iter(alike.values())).evaluation
    seen = "left out" if evaluation.seen == "mask" else "ranked too"
    yield paragraph(
        f"On the {evaluation.split} part, all by the protocol of {first.run.label}: what a user had "
        f"before is {seen}."
    )
    lengths = by_length(names)
    for of in lengths:
        rows = [_row(label, each, of) for label, each in alike.items()]
        if isinstance(first.measured, Measurement):
            rows += _baseline_rows(first.measured, of)
        yield table(["run", "users", *of], rows)
    for each in compared:
        if isinstance(each.measured, str):
            yield missing(f"{each.run.label}: {each.measured}")
    paired = {each.run.label: each.paired for each in compared[1:] if each.paired}
    if paired:
        yield tag("h3", f"Minus {first.run.label}, paired by user")
        for of in lengths:
            yield table(["run", *of], [_paired_row(label, each, of) for label, each in paired.items()])
        yield note(
            "Below each: its 95% interval over resampled users (percentile bootstrap); in bold where it does "
            "not hold 0. It covers the choice of users, not the seed of the trainings."
        )
        metric = next(iter(alike.values())).metric
        (shown,) = (of for of in lengths if metric in of)  # those of one length of the list
        rows = [
            Dot(label, name, found[name].difference, found[name].low, found[name].high)
            for label, found in paired.items()
            for name in shown
        ]
        yield figure(dots(f"Minus {first.run.label}", rows, "difference", ""))
    for each in compared[1:]:
        if each.paired is None and isinstance(each.measured, Measurement):
            yield missing(_sentence(each, first))
    comparable = {label: alike[label] for label in (first.run.label, *paired) if label in alike}
    if len(comparable) > 1:
        yield chart_grid([activity_chart(comparable), popularity_chart(comparable)])


def _row(label: str, measured: Measurement, names: Sequence[str]) -> list[object]:
    figures = measured.figures["model"]
    return [
        label,
        f"{measured.evaluation.users:,}",
        *(figure_cell(figures[name].mean, figures[name]) for name in names),
    ]


def _baseline_rows(measured: Measurement, names: Sequence[str]) -> list[list[object]]:
    """Return the figures of the baselines of the first run."""
    return [
        [tag("i", ranker), f"{measured.evaluation.users:,}"]
        + [figure_cell(figures[name].mean, figures[name]) for name in names]
        for ranker, figures in measured.figures.items()
        if ranker != "model"
    ]


def _paired_row(label: str, found: dict[str, Difference], names: Sequence[str]) -> list[object]:
    cells: list[object] = [label]
    for name in names:
        each = found[name]
        shown = signed(each.difference)
        told = each.low > 0 or each.high < 0
        interval = tag("small", f"{signed(each.low)} to {signed(each.high)}")
        cells.append(joined(tag("b", shown) if told else shown, interval))
    return cells


def _settings(runs: Sequence[RunFacts]) -> Iterable[Html]:
    keys: dict[str, None] = {}
    for run in runs[1:]:
        keys |= dict.fromkeys(changes(runs[0].config, run.config))
    columns = [without_places({key: _setting(run, key) for key in keys}) for run in runs]
    rows = [(tag("code", key), *(format_setting(each[key]) for each in columns)) for key in columns[0]]
    if not rows:
        yield missing("Nothing differs but places on a disk.")
        return
    yield table(["setting", *(run.label for run in runs)], rows, texts=len(runs) + 1)
    yield note("All others are the same. Those that trials decided differ with the trials of each run.")


def _setting(run: RunFacts, key: str) -> object:
    value: object = run.config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _training(runs: Sequence[RunFacts]) -> Iterable[Html]:
    charts = []
    for title, name, label in (("Loss", "loss", "loss"), ("Speed", "examples_per_second", "examples/s")):
        points = {run.label: run.over_steps(name) for run in runs}
        if all(points.values()):
            charts.append(curve(title, points, label, zero=name != "loss", large=name != "loss"))
    validated = [run for run in runs if run.validations]
    if validated:
        name = validated[0].validation_metric
        points = {run.label: run.over_steps(f"validation/{name}") for run in validated}
        charts.append(curve(f"Validation {name}", {label: of for label, of in points.items() if of}, name))
    yield chart_grid(charts)
    if len({run.config.loss.name for run in runs}) > 1:
        yield note(
            "Their losses are not the same function, so that the curves of the loss cannot be compared."
        )
    for run in runs:
        if run not in validated:
            yield missing(f"{run.label}: no validation part was evaluated during the training.")


def _cost(runs: Sequence[RunFacts]) -> Iterable[Html]:
    rows = []
    for run in runs:
        seconds, plan = run.metrics["seconds"], run.plan
        weights = sum(shard.weight_bytes for each in plan.tables for shard in each.shards) if plan else None
        memory = max((each["memory"] for each in run.ranks), default=None)
        speeds = [record["examples_per_second"] for record in run.losses]
        rows.append(
            (
                run.label,
                plan.world_size if plan else "-",
                seconds_text(seconds["choose"]) if seconds.get("choose", 0) >= 0.05 else "-",
                seconds_text(seconds["train"]),
                f"{speeds[-1]:,.0f}" if speeds else "-",
                "-" if weights is None else format_bytes(weights),
                "-" if memory is None else format_bytes(memory),
            )
        )
    heads = [
        "run",
        "ranks",
        "choosing",
        "training",
        "examples/s at the end",
        "tables",
        "largest memory of a rank",
    ]
    yield table(heads, rows)
    yield tag("ul", *(tag("li", tag("b", run.label), f": {subtitle(run)}") for run in runs))
    if not all(run.ranks for run in runs):
        yield note("Runs of older versions did not measure the memory of each rank.")
