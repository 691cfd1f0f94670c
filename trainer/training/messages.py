"""Texts that a training prints: its sizes and choices, how it began, and its results."""

import textwrap
from pathlib import Path
from typing import Any

from trainer.batching.sampler import BatchPlan
from trainer.dataset.dataset import Dataset
from trainer.distributed.world import World
from trainer.evaluation.bootstrap import Difference
from trainer.evaluation.evaluator import Evaluation
from trainer.evaluation.results_table import comparison, results_table, verdict
from trainer.formatting import format_count
from trainer.inspection.dataset_summary import known_text, repeats_text
from trainer.runs.resume import resume_command
from trainer.runs.validation_history import ValidationHistory
from trainer.runs.warm_start import WarmStart
from trainer.training.components import TrainingComponents
from trainer.training.tuning import Choice, Mixture

LITTLE_KNOWN = 0.5
"""Known share of held-out users or items below which a training says how many are known."""


def size_text(decided: dict[str, Any]) -> str:
    """Return a text of the defaults that depend on the size of the data, by key."""
    values = ", ".join(f"{key} {value}" for key, value in decided.items() if value)
    return _wrapped(f"By the size of the data: {values or 'nothing, all is given'}.")


def choice_text(decided: dict[str, Any], choice: Choice) -> str:
    """Return a text of the values that were tuned, by key, and of the figures of all trials."""
    if not choice.mixtures:  # no closed form was tried, so that its settings have no effect
        decided = {key: value for key, value in decided.items() if not key.startswith("model.low_rank")}
    values = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in decided.items()
    )
    *others, last = (f"{users:,}" for users in choice.users)
    users = (
        f"validation parts of {', '.join(others)} and {last}" if others else f"a validation part of {last}"
    )
    lines = [_wrapped(f"Chosen by {choice.metric} on {users} users: {values}.")]
    for name, figures in (
        ("temperature", choice.temperatures),
        ("closed form, penalty", choice.penalties),
        ("closed form, width", choice.widths),
    ):
        if figures:
            tried = ", ".join(f"{key:.3g}: {value:.4f}" for key, value in figures.items())
            lines.append(_wrapped(f"  {name} {tried}"))
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
    sizes = f"{dataset.name}: {dataset.user_count:,} users, {dataset.item_count:,} {dataset.item_name}s, " + (
        f"{len(dataset.train):,} training interactions, all there are"
        if dataset.report["split"] == "none"
        else f"{len(dataset.train):,} training and {len(dataset.test):,} test interactions"
    )
    ranks = f"{world.size} rank{'s' if world.size > 1 else ''} on {world.device.type}"
    lines = [_wrapped(sizes), _wrapped(f"{ranks}: {places}")]
    for text in (known_text(dataset, LITTLE_KNOWN), repeats_text(dataset)):
        if text:
            lines.insert(1, _wrapped(text))
    if dataset.report["skipped"]:
        lines.insert(0, f"{dataset.report['skipped']:,} rows that cannot be read were skipped.")
    lines[:0] = [_wrapped(f"{note}.") for note in dataset.notes]
    if idle:
        lines.append(f"Rank{'s' if len(idle) > 1 else ''} {', '.join(idle)} without a table.")
    if warning := correction_text(plan):
        lines.append(_wrapped(warning))
    return "\n".join([*lines, f"Run: {run}"])


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
    lines = [_wrapped(f"From {warm_start.run}: {'; '.join([*sides, states])}.")]
    lines.append(_wrapped(_news_text(warm_start, item_name)))
    if warm_start.told:
        lines.append(
            _wrapped(
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
        validated = [_wrapped(validation_text(history))]
    times = _wrapped(f"{', '.join(done).capitalize()}.")
    results = evaluation_text(dataset, evaluation) if evaluation else _wrapped(unmeasured_text(dataset))
    return "\n".join(["", results, *validated, times])


def unmeasured_text(dataset: Dataset) -> str:
    """Return why there are no results where there is no test split."""
    return (
        f"{dataset.name}: nothing was measured on a test part. All {len(dataset.train):,} interactions were "
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


def evaluation_text(dataset: Dataset, evaluation: Evaluation, option_prefix: str = "--evaluation.") -> str:
    """Return the protocol, the table of metrics, a verdict, and the metrics beyond accuracy.

    Args:
        dataset: Its name and what its items are called.
        evaluation: What is shown.
        option_prefix: What the running command writes before its options of a protocol.
    """
    seen = "masked" if evaluation.seen == "mask" else "kept"
    protocol = (
        f"{dataset.name}, {evaluation.split} part, {evaluation.users:,} users, "
        f"{evaluation.items:,} {dataset.item_name}s, seen items {seen}"
    )
    if evaluation.left_out:
        protocol += (
            f"\n{evaluation.left_out:,} {dataset.item_name}s kept from an earlier run are left out, as "
            "nobody can be looking for them"
        )
    metric = main_metric(evaluation)
    summary = verdict(evaluation.rankers, metric, seen=evaluation.seen, option_prefix=option_prefix)
    lines = [protocol, results_table(evaluation.rankers), textwrap.fill(summary, 80)]
    if evaluation.mostly_tied:
        lines.append(_wrapped(ties_text(evaluation)))
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


def _wrapped(text: str) -> str:
    """Wrap at 80 columns, and indent further lines by two columns more than the first."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.fill(text, 80, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
