"""Texts that a training prints: its sizes and choices, how it began, and its results."""

from pathlib import Path
from typing import Any

import numpy as np

from trainer.batching.sampler import BatchPlan
from trainer.batching.tower_inputs import id_collisions
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import World
from trainer.evaluation.evaluator import Evaluation
from trainer.facts.losses import loss_spec
from trainer.fitting.components import TrainingComponents
from trainer.formatting import format_count, wrapped
from trainer.planning.plan import Plan
from trainer.reporting.dataset_summary import impressions_text, known_text, repeats_text
from trainer.reporting.evaluation_text import evaluation_text
from trainer.runs.resume import resume_command
from trainer.runs.validation_history import ValidationHistory
from trainer.storage.id_hashes import collisions_text
from trainer.tuning.closed_form import Mixture
from trainer.tuning.tuning import Choice
from trainer.warm_start.take_over import WarmStart

LITTLE_KNOWN = 0.5
"""Known share of held-out users or items below which a training says how many are known."""


def size_text(decided: dict[str, Any], history: str = "") -> str:
    """Return a text of the defaults that depend on the size of the data, by key; with a history, for that."""
    values = ", ".join(f"{key} {value}" for key, value in decided.items() if value)
    kind = f" and model.history {history}" if history else ""
    return wrapped(f"By the size of the data{kind}: {values or 'nothing, all is given'}.")


def choice_text(decided: dict[str, Any], choice: Choice, history: str) -> str:
    """Return a text of the values that were tuned, by key, and of the figures of all trials.

    Args:
        decided: Values, besides the kind of history.
        choice: Trials.
        history: Kind of history, which is named if several were tried.
    """
    if choice.histories:
        decided = {"model.history": history, **decided}
    if not choice.mixtures:  # no closed form was tried, so that its settings have no effect
        decided = {key: value for key, value in decided.items() if not key.startswith("model.low_rank")}
    values = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in decided.items()
    )
    *others, last = choice.users
    users = f"a validation part of {format_count(last, 'user')}"
    if others:
        counts = ", ".join(f"{count:,}" for count in others)
        users = f"validation parts of {counts} and {format_count(last, 'user')}"
    lines = [wrapped(f"Chosen by {choice.metric} on {users}: {values}.")]
    for name, figures in (
        ("history", choice.histories),
        ("temperature", choice.temperatures),
        ("closed form, penalty", choice.penalties),
        ("closed form, width", choice.widths),
    ):
        if figures:
            tried = ", ".join(
                f"{key if isinstance(key, str) else format(key, '.3g')}: {value:.4f}"
                for key, value in figures.items()
            )
            lines.append(wrapped(f"  {name} {tried}"))
    if Mixture() in choice.mixtures:
        alone, best = choice.mixtures[Mixture()], max(choice.mixtures.values())
        lines.append(f"  learned dims alone {alone:.4f}, with closed-form ones beside them {best:.4f}")
    return "\n".join(lines)


def opening_text(
    dataset: Dataset, components: TrainingComponents, plan: BatchPlan, world: World, run: Path
) -> str:
    """Return a text of the data, tables and ranks, with a warning if popular items are not corrected for."""
    places = ", ".join(
        f"{table.name} {table.rows:,} x {table.dim} on rank "
        + "+".join(str(shard.rank) for shard in table.shards)
        for table in components.plan.tables
    )
    idle = [str(rank) for rank in components.plan.idle_ranks]
    train, test = dataset.interaction_count("train"), dataset.interaction_count("test")
    counted = f"{train:,} training and {format_count(test, 'test interaction')}"
    if dataset.report["split"] == "none":
        counted = f"{format_count(train, 'training interaction')}, all there are"
    sizes = (
        f"{dataset.name}: {format_count(dataset.user_count, 'user')}, "
        f"{format_count(dataset.item_count, dataset.item_name)}, {counted}"
    )
    ranks = f"{format_count(world.size, 'rank')} on {world.device.type}"
    lines = [wrapped(sizes), wrapped(f"{ranks}: {places}"), wrapped(_tables_text(components.plan))]
    for text in (known_text(dataset, LITTLE_KNOWN), impressions_text(dataset), repeats_text(dataset)):
        if text:
            lines.insert(1, wrapped(text))
    if dataset.report["skipped"]:
        skipped = int(dataset.report["skipped"])
        were = "was" if skipped == 1 else "were"
        lines.insert(0, f"{format_count(skipped, 'row')} that cannot be read {were} skipped.")
    lines[:0] = [wrapped(f"{note}.") for note in dataset.notes]
    hashed = id_collisions(components.user_inputs, components.item_inputs, dataset.item_name)
    lines += [wrapped(collisions_text(side, counts)) for side, counts in hashed.items()]
    lines += [wrapped(text) for text in attribute_texts(dataset, components)]
    if idle:
        lines.append(f"Rank{'s' if len(idle) > 1 else ''} {', '.join(idle)} without a table.")
    if warning := correction_text(plan):
        lines.append(wrapped(warning))
    return "\n".join([*lines, f"Run: {run}"])


def _tables_text(plan: Plan) -> str:
    text = "Tables are rows x width; those of ids have one row more, for unknown ids"
    if any(table.name.endswith("_low_rank") for table in plan.tables):
        text += "; *_low_rank hold a closed form, which is not trained"
    return f"{text}."


def values_text(dataset: Dataset, min_value: float | None, loss: str) -> str | None:
    """Return what the values of interactions mean to a loss that ranks; None where it goes without saying.

    Args:
        dataset: Interactions.
        min_value: Smallest value of a positive, if one was given.
        loss: Name of the loss.
    """
    train = dataset.train
    if dataset.negatives is not None:
        negatives = format_count(len(dataset.negatives), "training interaction")
        return f"{negatives} with values below {min_value:g} are explicit negatives."
    if train.values is None or min_value is not None or loss_spec(loss).needs_values:
        return None
    least, largest = float(train.values.min()), float(train.values.max())
    if least == largest:
        return None
    return wrapped(
        f"Every interaction counts as a positive, whatever its value (from {least:g} to {largest:g}). If low "
        f"values mean dislike, name the least that does not: --data.min_value {np.median(train.values):g}; "
        "--data.negatives use trains on the others as negatives."
    )


def attribute_texts(dataset: Dataset, components: TrainingComponents) -> list[str]:
    """Return a text on each attribute that the towers use: what it was taken for, and what was guessed."""
    sides = (("user", "user", components.user_inputs), ("item", dataset.item_name, components.item_inputs))
    return [
        f"{side} attribute {name}: {text}"
        for side, prefix, inputs in sides
        for name, text in dataset.attributes.get(side, {}).items()
        if f"{prefix}_{name}" in inputs
    ]


def correction_text(plan: BatchPlan) -> str | None:
    """Return a warning if popular items are candidates more often and nothing corrects for it; else None."""
    by_popularity = plan.candidates == "sampled" and plan.popularity_power > 0
    if plan.logq or not (plan.candidates == "in_batch" or by_popularity):
        return None
    return (
        "Warning: without correction popular items are pushed down for being frequent candidates (ml-100k "
        "in steps of 1,024 interactions: ndcg@10 0.437 against 0.444 with it); use --loss.logq true."
    )


def warm_start_text(warm_start: WarmStart, item_name: str) -> str:
    """Return a text of what was taken over, with a warning if held-out interactions were trained on."""
    sides = [
        f"{side.known:,} of {side.known + side.dropped + side.kept:,} {name}s known, {side.new:,} new, "
        + (f"{side.kept:,} kept, " if side.kept else "")
        + f"{side.dropped:,} dropped"
        for side, name in ((warm_start.users, "user"), (warm_start.items, item_name))
    ]
    states = "optimizer states taken over"
    if not warm_start.states:
        states = f"optimizer states from zero: {warm_start.why_not}"
    lines = [wrapped(f"From {warm_start.run}: {'; '.join([*sides, states])}.")]
    lines.append(wrapped(_news_text(warm_start, item_name)))
    if warm_start.told:
        lines.append(
            wrapped(
                f"Warning: {warm_start.told:,} of the {warm_start.measured:,} interactions to be found are "
                "among those that this run was trained on, so that the figures flatter. Hold out only what "
                "is later: --data.split temporal with a smaller --data.test_size, or --data.held_out."
            )
        )
    return "\n".join(lines)


def _news_text(warm_start: WarmStart, item_name: str) -> str:
    """Return how much of the data is news to the earlier run, with a warning if none of it is trained on."""
    news = warm_start.news
    if news.interactions:
        sides = f"{format_count(news.users, 'new user')} and {format_count(news.items, f'new {item_name}')}"
        held_out = f"; {news.held_out:,} more are held out" if news.held_out else ""
        return (
            f"Trained on for the first time: {news.interactions:,} of {news.trained:,} interactions, with "
            f"{sides}{held_out}."
        )
    if news.held_out:
        held_out = format_count(news.held_out, "interaction")
        return (
            f"Warning: nothing new is trained on. What is new to this run, {held_out}, is "
            "held out: measure like this, then train on everything with --data.split none."
        )
    return (
        "Warning: nothing new is trained on. The data hold no interaction that this run was not trained on: "
        "name newer data, as with --data.interactions FILE."
    )


def closing_text(
    dataset: Dataset, evaluation: Evaluation | None, seconds: dict[str, float], history: ValidationHistory
) -> str:
    """Return the results, how the training went, and how long it took."""
    done = [f"trained in {seconds['train']:.1f} s", f"measured in {seconds['evaluate']:.1f} s"]
    if evaluation is None:
        done[-1] = "nothing measured"
    if seconds["choose"] >= 0.05:
        done.insert(0, f"chosen in {seconds['choose']:.1f} s")
    validated = []
    if history.validations:
        done[-2] += f" (99% of the best after {seconds['to_99_percent_of_best']:.1f} s)"
        done.insert(-1, f"validated in {seconds['validate']:.1f} s")
        sentences = validation_text(history)
        if evaluation and evaluation.split == "test":
            sentences += " The table is of the test part, by which nothing was chosen."
        validated = [wrapped(sentences)]
    times = wrapped(f"{', '.join(done).capitalize()}.")
    results = evaluation_text(dataset, evaluation) if evaluation else wrapped(unmeasured_text(dataset))
    return "\n".join(["", results, *validated, times])


def unmeasured_text(dataset: Dataset) -> str:
    """Return why there are no results where there is no test split."""
    count = dataset.interaction_count("train")
    return (
        f"{dataset.name}: nothing was measured on a test part. All {count:,} interactions were "
        "trained on (--data.split none), so how good these settings are is what a run with a test part says."
    )


def paused_text(run: Path, history: ValidationHistory) -> str:
    """Return where a paused training stands, and the command that resumes it."""
    place = f"Paused after step {history.paused_at:,} of {history.steps:,}, all of it kept in {run}."
    return f"{place}\nGo on with: {resume_command(run)}"


def validation_text(history: ValidationHistory) -> str:
    """Return when the validation figure was best, whether the training stopped early, and what is kept."""
    best, last = history.best, history.validations[-1]
    stopped = f", stopped at {history.epoch(last.step):g}" if history.stopped_early else ""
    outcome = "" if history.patience or best is last else "; the last weights are kept"
    if history.best_is_lost:
        kept = next(each for each in history.validations if each.step == history.kept)
        outcome = (
            f", but these weights could not be written; those of epoch {history.epoch(kept.step):g} "
            f"({kept.figure:.4f}) are kept"
        )
    return (
        f"Best at epoch {history.epoch(best.step):g} of {history.epoch(history.steps):g}{stopped}: "
        f"validation {history.metric} {best.figure:.4f}{outcome}."
    )
