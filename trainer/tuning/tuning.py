"""Tuning on validation splits: the kind of history, the temperature, and the closed form with its weight.

Where the split goes by time, histories without and with an order are both tuned, and the better one is taken.
For values that the configuration leaves open, short trainings at several temperatures are compared on a
validation split, then closed forms of several penalties and widths, then mixtures of the best of both.
Without a validation split, one is cut from the training split by the same rule; the training proper has all
of it. On one validation split of small data close values differ by chance, so several are drawn at random.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from trainer.config.parser import check
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config
from trainer.config.size_defaults import (
    history_is_open,
    low_rank_is_open,
    temperature_is_open,
    with_fixed_values,
    with_history,
    with_size_defaults,
)
from trainer.dataset.dataset import Dataset
from trainer.dataset.split import BY_TIME, Rule, validation_rule
from trainer.distributed.world import World
from trainer.errors import ConfigError, DataError
from trainer.facts.losses import loss_spec
from trainer.tuning.closed_form import Mixture, mix
from trainer.tuning.learned import LearnedTrials, on_first
from trainer.tuning.trials import MOST_TRIALS, best_of, peak
from trainer.tuning.validation_splits import Bench, split_again

LEAST_INTERACTIONS = 2000
"""Fewest training interactions for tuning; with fewer, validation differences are chance."""
VERSION = 2
"""Of the trials: figures of other versions are not those of this one."""
HOPELESS = 0.8
"""A kind of history whose first trial is below this share of the best one's is tuned no further."""


@dataclass
class Choice:
    """The trials of a tuning and their validation NDCG; with several kinds of history, those of the best.

    Attributes:
        metric: Name of the metric.
        users: Evaluated users of each validation split.
        temperatures: Figure by value, on the first validation split.
        penalties: Figure by value at its best width, on the first validation split.
        widths: Mean figure over validation splits by width of the closed form alone.
        mixtures: Mean figure over validation splits by mixture.
        histories: Figure by kind of history, of its first trial if it was tuned no further; empty if one kind
            alone was tried.
        learned: Figure of the learned dims alone, on the first validation split.
    """

    metric: str
    users: list[int]
    temperatures: dict[float, float] = field(default_factory=dict)
    penalties: dict[float, float] = field(default_factory=dict)
    widths: dict[int, float] = field(default_factory=dict)
    mixtures: dict[Mixture, float] = field(default_factory=dict)
    histories: dict[str, float] = field(default_factory=dict)
    learned: float = 0.0

    @property
    def best(self) -> float:
        """Best figure of all trials."""
        return max([*self.mixtures.values()] or [self.learned])

    def report(self) -> dict[str, Any]:
        """Return the trials as `metrics.json` holds them."""
        mixtures = [vars(mixture) | {self.metric: figure} for mixture, figure in self.mixtures.items()]
        tried = {"temperatures": self.temperatures, "penalties": self.penalties, "widths": self.widths}
        tried |= {"histories": self.histories} if self.histories else {}
        return {"chosen": {"metric": self.metric, "users": self.users, **tried, "mixtures": mixtures}}


def choose(
    config: Config, dataset: Dataset, world: World, run: Path | None = None
) -> tuple[ResolvedConfig, Choice | None]:
    """Choose the best values for what a configuration leaves open; the same on every rank.

    Args:
        config: Its gaps are filled by size first, see `with_size_defaults`.
        dataset: Data set of the training proper.
        world: All ranks.
        run: Run folder that keeps finished trials, so that they are not run again; None: they are not kept.

    Returns:
        The configuration without gaps, and the trials; None if there were none.
    """
    kinds = _kinds(config, dataset)
    fixed = with_fixed_values(kinds[0])
    is_open = len(kinds) > 1 or temperature_is_open(kinds[0]) or low_rank_is_open(kinds[0])
    worthwhile = loss_spec(config.loss.name).tunable and len(dataset.train) >= LEAST_INTERACTIONS
    if not (config.run.choose and worthwhile and is_open):
        return fixed, None
    try:
        datasets = [dataset] if config.data.validation_size else split_again(config, dataset, world)
    except DataError:  # users have too few interactions for another split by this rule
        return fixed, None
    most = sum(_most_trials(kind, len(datasets)) for kind in kinds)
    bench = Bench.of(kinds[0], datasets, world, run, _identity(kinds, datasets), most)
    learned = [LearnedTrials(kind, bench) for kind in kinds]
    if len(kinds) == 1:
        return _choose_values(learned[0], bench)
    firsts = {each: each.first() for each in learned}
    hopeful = [each for each in learned if firsts[each] >= HOPELESS * max(firsts.values())]
    for each in learned:
        if each not in hopeful:
            each.forget()
    found = [_choose_values(each, bench) for each in hopeful]
    best, choice = max(found, key=lambda each: each[1].best)
    tuned = {resolved.model.history: each.best for resolved, each in found}
    choice.histories = {str(each.config.model.history): firsts[each] for each in learned} | tuned
    return best, choice


def _kinds(config: Config, dataset: Dataset) -> list[Config]:
    """Return the configurations to be tuned, filled by the size of the data: one for each kind of history.

    Where a model is asked for what comes next, by a split by time, one with ordered histories comes second.
    """
    users = int(np.count_nonzero(dataset.counts_by_user("train")))
    size = users, dataset.item_count, dataset.interaction_count("train")
    kinds = [with_size_defaults(config, *size)]
    rule = validation_rule(cast(Rule, dataset.report["split"]), dataset.has_order)
    if history_is_open(config) and rule in BY_TIME:
        ordered = with_history(config, "recency")
        with suppress(ConfigError):  # other options may rule ordered histories out
            check(ordered)
            kinds.append(with_size_defaults(ordered, *size))
    return kinds


def _choose_values(learned: LearnedTrials, bench: Bench) -> tuple[ResolvedConfig, Choice]:
    """Choose temperature and closed form for one kind of history."""
    config, world = learned.config, bench.world
    fixed, choice = with_fixed_values(config), Choice(bench.metric, [len(cut.users) for cut in bench.cuts])
    choice.temperatures = learned.climb()
    choice.learned = learned.figure
    if choice.temperatures:
        fixed = _with_model(fixed, temperature=peak(choice.temperatures))
    if low_rank_is_open(config):
        vectors = learned.vectors()
        found = world.on_first(lambda: mix(config, bench, [on_first(each) for each in vectors]), long=True)
        choice.penalties, choice.widths, choice.mixtures = found.penalties, found.widths, found.mixtures
        fixed = _with_mixture(fixed, choice)
    return fixed, choice


def _most_trials(config: Config, cuts: int) -> int:
    """Return the most trials of a kind of history; a climb that finds its peak early has fewer."""
    most = (MOST_TRIALS if temperature_is_open(config) else 1) + cuts - 1
    if low_rank_is_open(config):
        most += MOST_TRIALS if config.model.low_rank_penalty is None else 1
    return most


def _identity(kinds: Sequence[Config], datasets: Sequence[Dataset]) -> str:
    """Return a digest of what the figures of trials depend on: data, model, loss, steps and metric.

    Sharding and the number of ranks are no part of it: they change figures in their last digits alone.
    """
    facts: list[Any] = [VERSION, [dataset.key for dataset in datasets], kinds[0].evaluation.k[0]]
    for config in kinds:
        facts += [asdict(section) for section in (config.model, config.loss, config.optimizer)]
        facts += [config.batches.rows, config.batches.size, config.run.epochs, config.run.seed]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _with_mixture(config: ResolvedConfig, choice: Choice) -> ResolvedConfig:
    """Set the best mixture in a configuration."""
    best = max(choice.mixtures, key=lambda mixture: choice.mixtures[mixture])
    config = _with_model(config, low_rank=best.low_rank)
    if best.low_rank:
        penalty = best_of(choice.penalties)
        config = _with_model(config, low_rank_weight=best.weight, low_rank_penalty=penalty)
    return config


def _with_model(config: ResolvedConfig, **values: Any) -> ResolvedConfig:
    return replace(config, model=replace(config.model, **values))
