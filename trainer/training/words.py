"""What a training says in words: what is about to be trained, how it goes, and how it ended."""

import textwrap
from pathlib import Path
from typing import Any

from trainer.data.batches import BatchPlan
from trainer.data.dataset import Dataset
from trainer.evaluation.compare import Difference
from trainer.evaluation.evaluate import Evaluation
from trainer.evaluation.table import comparison, results_table, verdict
from trainer.parallel.world import World
from trainer.training.assembly import Parts
from trainer.training.choose import Choice, Mixture
from trainer.training.grown import Growth
from trainer.training.stopping import Course


def size_words(decided: dict[str, Any]) -> str:
    """What the size of the data decided, by key."""
    values = ", ".join(f"{key} {value}" for key, value in decided.items() if value)
    return _wrapped(f"By the size of the data: {values or 'nothing, all is given'}.")


def choice_words(decided: dict[str, Any], choice: Choice) -> str:
    """What was chosen on validation parts, by key, and the figures of what was tried."""
    if not choice.mixtures:  # then what the configuration has of them is of no use
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


def opening_words(dataset: Dataset, parts: Parts, plan: BatchPlan, world: World, run: Path) -> str:
    """What is about to be trained, where, and a warning if the loss works against popular items."""
    places = ", ".join(
        f"{table.name} {table.rows:,} x {table.dim} on rank "
        + "+".join(str(shard.rank) for shard in table.shards)
        for table in parts.plan.tables
    )
    idle = [str(rank) for rank in parts.plan.idle_ranks]
    sizes = (
        f"{dataset.name}: {dataset.user_count:,} users, {dataset.item_count:,} {dataset.item_name}s, "
        f"{len(dataset.train):,} training and {len(dataset.test):,} test interactions"
    )
    ranks = f"{world.size} rank{'s' if world.size > 1 else ''} on {world.device.type}"
    lines = [_wrapped(sizes), _wrapped(f"{ranks}: {places}")]
    if dataset.report["skipped"]:
        lines.insert(0, f"{dataset.report['skipped']:,} rows that cannot be read were skipped.")
    if idle:
        lines.append(f"Rank{'s' if len(idle) > 1 else ''} {', '.join(idle)} without a table.")
    if warning := correction_words(plan):
        lines.append(_wrapped(warning))
    return "\n".join([*lines, f"Run: {run}"])


def correction_words(plan: BatchPlan) -> str | None:
    """A warning where popular items are candidates more often and nothing makes up for it; else None."""
    by_popularity = plan.candidates == "sampled" and plan.popularity_power > 0
    if plan.logq or not (plan.candidates == "in_batch" or by_popularity):
        return None
    return (
        "Warning: without correction popular items are pushed down for being frequent candidates (ml-100k "
        "in steps of 1,024 interactions: ndcg@10 0.437 against 0.444 with it); use --loss.logq true."
    )


def growth_words(growth: Growth, item_name: str) -> str:
    """What was taken over from an earlier run, and a warning where it had seen what is to be measured."""
    sides = [
        f"{side.known:,} of {side.known + side.dropped + side.kept:,} {name}s known, {side.new:,} new, "
        + (f"{side.kept:,} kept, " if side.kept else "")
        + f"{side.dropped:,} dropped"
        for side, name in ((growth.users, "user"), (growth.items, item_name))
    ]
    states = (
        "optimizer states taken over" if growth.states else f"optimizer states from zero: {growth.why_not}"
    )
    lines = [_wrapped(f"From {growth.run}: {'; '.join([*sides, states])}.")]
    if growth.told:
        lines.append(
            _wrapped(
                f"Warning: {growth.told:,} of the {growth.measured:,} interactions to be found are among "
                "those that this run was trained on, so that the figures flatter; a part that is later in "
                "time, or given, has none of them."
            )
        )
    return "\n".join(lines)


def closing_words(dataset: Dataset, evaluation: Evaluation, seconds: dict[str, float], course: Course) -> str:
    """The table of results, how the training went, and how long it took."""
    done = [f"trained in {seconds['train']:.1f} s", f"measured in {seconds['evaluate']:.1f} s"]
    if seconds["choose"] >= 0.05:
        done.insert(0, f"chosen in {seconds['choose']:.1f} s")
    validated = []
    if course.validations:
        done[-2] += f" (99% of the best after {seconds['to_99_percent_of_best']:.1f} s)"
        done.insert(-1, f"validated in {seconds['validate']:.1f} s")
        validated = [_wrapped(course_words(course))]
    times = _wrapped(f"{', '.join(done).capitalize()}.")
    return "\n".join(["", evaluation_words(dataset, evaluation), *validated, times])


def paused_words(run: Path, course: Course) -> str:
    """Where a training that was told to pause has been left, and how it goes on."""
    place = f"Paused after step {course.paused_at:,} of {course.steps:,}, all of it kept in {run}."
    return f"{place}\nGo on with: python -m trainer train --run.dir {run}"


def course_words(course: Course) -> str:
    """When the validation figure was best, whether the training stopped early, and whose weights are kept."""
    best, last = course.best, course.validations[-1]
    stopped = f", stopped at {course.epoch(last.step):g}" if course.stopped_early else ""
    words = (
        f"Best at epoch {course.epoch(best.step):g} of {course.epoch(course.steps):g}{stopped}: "
        f"validation {course.metric} {best.figure:.4f}"
    )
    if course.best_is_lost:
        kept = next(each for each in course.validations if each.step == course.kept)
        words += (
            f", but these weights could not be written; those of epoch {course.epoch(kept.step):g} "
            f"({kept.figure:.4f}) are kept"
        )
    elif not course.patience and best is not last:
        words += "; the last weights are kept"
    return f"{words}."


def evaluation_words(dataset: Dataset, evaluation: Evaluation) -> str:
    """The protocol, the table, what it says, and what was measured beyond accuracy."""
    seen = "masked" if evaluation.seen == "mask" else "kept"
    protocol = (
        f"{dataset.name}, {evaluation.split} part, {evaluation.users:,} users, "
        f"{evaluation.items:,} {dataset.item_name}s, seen items {seen}"
    )
    words = verdict(evaluation.rankers, decisive_metric(evaluation), seen=evaluation.seen)
    lines = [protocol, results_table(evaluation.rankers), textwrap.fill(words, 80)]
    if evaluation.beyond:
        lines += ["", beyond_words(evaluation.beyond)]
    return "\n".join(lines)


def beyond_words(beyond: dict[str, dict[str, float]]) -> str:
    """A table of what the lists are made of, and one of whom and what they serve."""
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


def comparison_words(evaluation: Evaluation, differences: dict[str, Difference], other: Path) -> str:
    """How a run differs from another."""
    words = comparison(differences, str(other), evaluation.users, decisive_metric(evaluation))
    *lines, last = words.splitlines()
    return "\n".join(["", *lines, textwrap.fill(last, 80)])


def decisive_metric(evaluation: Evaluation) -> str:
    """The metric that is put in words: `ndcg@10`, or the first where it was not taken."""
    metrics = evaluation.rankers["model"]
    return "ndcg@10" if "ndcg@10" in metrics else next(iter(metrics))


def _wrapped(text: str) -> str:
    """In lines of 80 columns, those behind the first indented as deep as it."""
    indent = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.fill(text, 80, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
