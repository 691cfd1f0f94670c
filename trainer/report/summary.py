"""The top of a page: the figure, what it is better than, how sure that is, and what it took."""

from trainer.evaluation.rating_errors import RatingErrors
from trainer.facts.baselines import BASELINES
from trainer.formatting import format_bytes, format_count
from trainer.page.html import Html, joined, paragraph, tag
from trainer.report.facts import RunFacts
from trainer.report.measurement import Interval, Measurement
from trainer.reporting.results_table import verdict


def summary(run: RunFacts, measured: Measurement | str) -> Html:
    """Return a sentence and tiles on one run."""
    if not run.measured:
        tiles = [_cost_tile(run), _size_tile(run)]
        sentence = "Trained on every interaction, for serving; nothing was held out to be measured on."
        return joined(paragraph(sentence, class_="lead"), tag("div", *tiles, class_="tiles"))
    rankers = {name: each for name, each in run.metrics.items() if name == "model" or name in BASELINES}
    tiles = [_figure_tile(run, measured), *_baseline_tile(run, measured), _cost_tile(run), _size_tile(run)]
    ratings = RatingErrors(**run.metrics["ratings"]) if "ratings" in run.metrics else None
    seen, share = "mask", 0.0  # what seen items take of the lists is known of an evaluation alone
    if isinstance(measured, Measurement):
        seen, share = measured.evaluation.seen, measured.evaluation.seen_share
    lead = verdict(rankers, run.metric)
    more = verdict(rankers, run.metric, seen=seen, seen_share=share, ratings=ratings).removeprefix(lead)
    return joined(
        paragraph(lead, class_="lead"),
        paragraph(more.strip()) if more else None,
        tag("div", *tiles, class_="tiles"),
    )


def tile(name: str, value: str, detail: str, kind: str = "") -> Html:
    """Return a figure with its name above it and more about it below."""
    return tag(
        "div",
        tag("div", name, class_="name"),
        tag("div", value, class_=f"value {kind}".strip()),
        tag("div", detail, class_="detail"),
        class_="tile",
    )


def interval_text(interval: Interval) -> str:
    """Return the ends of an interval."""
    return f"{interval.low:.4f} to {interval.high:.4f}"


def signed(number: float) -> str:
    """Return a number with its sign, a proper minus among them."""
    return f"{number:+.4f}".replace("-", "\u2212")


def best_baseline(run: RunFacts) -> str | None:
    """Return the baseline with the best figure; None without any."""
    names = [name for name in run.metrics if name in BASELINES]
    return max(names, key=lambda name: run.metrics[name][run.metric], default=None)


def _figure_tile(run: RunFacts, measured: Measurement | str) -> Html:
    detail = f"{run.metrics['split']} part, {format_count(run.metrics['users'], 'user')}"
    if isinstance(measured, Measurement):
        detail = f"95% interval {interval_text(measured.figures['model'][measured.metric])}"
    return tile(run.metric, f"{run.metrics['model'][run.metric]:.4f}", detail)


def _baseline_tile(run: RunFacts, measured: Measurement | str) -> list[Html]:
    name = best_baseline(run)
    if name is None:
        return []
    lead = run.metrics["model"][run.metric] - run.metrics[name][run.metric]
    detail = f"{name} {run.metrics[name][run.metric]:.4f}"
    if isinstance(measured, Measurement) and name in measured.leads:
        found = measured.leads[name]
        detail += f"; 95% interval {signed(found.low)} to {signed(found.high)}"
    return [tile(f"beside {name}", signed(lead), detail, "good" if lead > 0 else "bad")]


def _cost_tile(run: RunFacts) -> Html:
    seconds = run.metrics["seconds"]
    chosen = seconds.get("choose", 0)
    detail = f"and {seconds_text(chosen)} to choose settings" if chosen >= 0.05 else "no settings were chosen"
    ranks = run.plan.world_size if run.plan else 1
    return tile(f"training, {format_count(ranks, 'rank')}", seconds_text(seconds["train"]), detail)


def _size_tile(run: RunFacts) -> Html:
    if run.plan is None:
        return tile("tables", "-", "plan.json cannot be read")
    shards = [shard for table in run.plan.tables for shard in table.shards]
    weights = sum(shard.weight_bytes for shard in shards)
    states = sum(shard.optimizer_bytes for shard in shards)
    name = format_count(len(run.plan.tables), "table")
    return tile(name, format_bytes(weights), f"and {format_bytes(states)} of gradients and optimizer states")


def cost(run: RunFacts) -> dict[str, object]:
    """Return what a training took, by name."""
    names = {
        "prepare": "data prepared",
        "choose": "settings chosen",
        "train": "trained",
        "validate": "validated",
        "to_99_percent_of_best": "to 99% of the best validation",
        "evaluate": "measured",
    }
    seconds = run.metrics["seconds"]
    found: dict[str, object] = {
        name: seconds_text(seconds[key]) for key, name in names.items() if seconds.get(key, 0) >= 0.005
    }
    if run.losses:
        last = run.losses[-1]
        found["steps, epochs"] = f"{last['step']:,}, {last['epoch']:g}"
    return found


def seconds_text(seconds: float) -> str:
    """Return a time in the unit that fits it: `1.6 s`, `12 min`, `3.2 h`."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
