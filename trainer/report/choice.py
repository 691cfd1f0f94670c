"""How the settings of a run were chosen: the trials on validation splits."""

from collections.abc import Iterable
from typing import Any

from trainer.page.charts import Chart, trials
from trainer.page.document import chart_grid
from trainer.page.html import Html, facts, missing, paragraph
from trainer.report.facts import RunFacts, format_setting


def choice(run: RunFacts) -> Iterable[Html]:
    """Yield a chart for each kind of trial, and the values that were decided."""
    chosen = run.chosen
    if not chosen:
        yield missing(
            "Nothing was chosen by trial: every setting was given, decided by the size of the data, or fixed."
        )
        return
    users = chosen["users"]
    parts = "a validation part" if len(users) == 1 else f"{len(users)} validation parts"
    counts = ", ".join(f"{count:,}" for count in users)
    yield paragraph(
        f"Settings left open were tried on {parts} cut from the training part ({counts} users); the test "
        "part had no say. The best of each is the large dot."
    )
    yield chart_grid(trial_charts(chosen))
    decided = run.settings.by_trial if run.settings else {}
    model = run.config.model
    names = ("temperature", "low_rank", "low_rank_weight", "low_rank_penalty")
    values = decided or {f"model.{name}": getattr(model, name) for name in names}
    yield facts({key: format_setting(value) for key, value in values.items()})


def trial_charts(chosen: dict[str, Any]) -> list[Chart]:
    """Return a chart for each kind of trial that was made."""
    metric = chosen["metric"]
    charts = []
    for key, title, label in (
        ("histories", "Kind of history", "history"),
        ("temperatures", "Temperature", "temperature"),
        ("penalties", "Closed form: penalty", "ridge penalty"),
        ("widths", "Closed form: width", "dims"),
    ):
        if figures := chosen.get(key):
            charts.append(
                trials(title, {_short(name): each for name, each in figures.items()}, label, metric)
            )
    if mixtures := chosen.get("mixtures"):
        dims = max(each["low_rank"] for each in mixtures)  # the best width alone is mixed
        figures = {f"{each['weight']:g}" if each["low_rank"] else "none": each[metric] for each in mixtures}
        charts.append(trials("Beside the learned dims", figures, f"weight of {dims} dims", metric))
    return charts


def _short(name: str) -> str:
    try:
        return f"{float(name):.3g}"
    except ValueError:
        return name
