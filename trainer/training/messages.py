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
from trainer.runs.validation_history import ValidationHistory
from trainer.runs.warm_start import WarmStart
from trainer.training.components import TrainingComponents
from trainer.training.tuning import Choice, Mixture


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
    sizes = (
        f"{dataset.name}: {dataset.user_count:,} users, {dataset.item_count:,} {dataset.item_name}s, "
        f"{len(dataset.train):,} training and {len(dataset.test):,} test interactions"
    )
    ranks = f"{world.size} rank{'s' if world.size > 1 else ''} on {world.device.type}"
    lines = [_wrapped(sizes), _wrapped(f"{ranks}: {places}")]
    if dataset.report["skipped"]:
        lines.insert(0, f"{dataset.report['skipped']:,} rows that cannot be read were skipped.")
    lines += [_wrapped(text) for text in attribute_texts(dataset, components)]
    if idle:
        lines.append(f"Rank{'s' if len(idle) > 1 else ''} {', '.join(idle)} without a table.")
    if warning := correction_text(plan):
        lines.append(_wrapped(warning))
    return "\n".join([*lines, f"Run: {run}"])


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
    lines = [_wrapped(f"From {warm_start.run}: {'; '.join([*sides, states])}.")]
    if warm_start.told:
        lines.append(
            _wrapped(
                f"Warning: {warm_start.told:,} of the {warm_start.measured:,} interactions to be found are "
                "among those that this run was trained on, so that the figures flatter; a part that is later "
                "in time, or given, has none of them."
            )
        )
    return "\n".join(lines)


def closing_text(
    dataset: Dataset, evaluation: Evaluation, seconds: dict[str, float], history: ValidationHistory
) -> str:
    """Return the results, how the training went, and how long it took."""
    done = [f"trained in {seconds['train']:.1f} s", f"measured in {seconds['evaluate']:.1f} s"]
    if seconds["choose"] >= 0.05:
        done.insert(0, f"chosen in {seconds['choose']:.1f} s")
    validated = []
    if history.validations:
        done[-2] += f" (99% of the best after {seconds['to_99_percent_of_best']:.1f} s)"
        done.insert(-1, f"validated in {seconds['validate']:.1f} s")
        validated = [_wrapped(validation_text(history))]
    times = _wrapped(f"{', '.join(done).capitalize()}.")
    return "\n".join(["", evaluation_text(dataset, evaluation), *validated, times])


def paused_text(run: Path, history: ValidationHistory) -> str:
    """Return where a paused training stands, and the command that resumes it."""
    place = f"Paused after step {history.paused_at:,} of {history.steps:,}, all of it kept in {run}."
    return f"{place}\nGo on with: python -m trainer train --run.dir {run}"


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
    if evaluation.beyond:
        lines += ["", beyond_text(evaluation.beyond)]
    return "\n".join(lines)


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
