"""Tuning on validation splits: the kind of history, the temperature, and the closed form with its weight.

Where the split goes by time, histories without and with an order are both tuned, and the better one is taken.
For values that the configuration leaves open, short trainings at several temperatures are compared on a
validation split, then closed forms of several penalties and widths, then mixtures of the best of both.
Without a validation split, one is cut from the training split by the same rule; the training proper has all
of it. On one validation split of small data close values differ by chance, so several are drawn at random.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, cast

import numpy as np
import torch

from trainer.config.parser import check
from trainer.config.resolved import ResolvedConfig
from trainer.config.schema import Config
from trainer.config.size_defaults import (
    FULL_EPOCHS,
    fixed_temperature,
    history_is_open,
    low_rank_is_open,
    temperature_is_open,
    with_fixed_values,
    with_history,
    with_size_defaults,
)
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.dataset.split import BY_TIME, SEEDED, Rule, validation_rule
from trainer.distributed.preemption import Preemption
from trainer.distributed.world import World
from trainer.errors import ConfigError, DataError
from trainer.evaluation.evaluator import Protocol, evaluated_users, gathered_vectors
from trainer.evaluation.metrics import metrics_by_user
from trainer.evaluation.tie_order import TieOrder
from trainer.evaluation.tied_ranking import rank_items
from trainer.evaluation.topk import ItemLists, hits
from trainer.facts.histories import history_spec
from trainer.facts.losses import loss_spec
from trainer.fitting.components import assemble, make_batches
from trainer.fitting.loop import fit
from trainer.model.builder import CLOSED_DECAY
from trainer.model.edlae import history_vectors, recent_history_vectors, training_towers
from trainer.tuning.trials import MOST_TRIALS, Trials, Vectors, best_of, climb, peak

LEAST_INTERACTIONS = 2000
"""Fewest training interactions for tuning; with fewer, validation differences are chance."""
VALIDATION_SIZE = 0.1
CUTS, FEW_INTERACTIONS = 3, 300_000
"""Number of random validation splits, and the most training interactions with which there are several."""
MOST_USERS = 5000
"""Most users evaluated for one figure."""
TEMPERATURE_RATIO, PENALTIES = math.sqrt(2), (100.0, math.sqrt(10))
"""Ratio of one temperature to the next; first penalty and ratio of the next."""
RANKS = (16, 24, 32, 64, 128, 256)
"""Widths of closed forms, the last one only with more interactions; neighbours of narrow ones differ most."""
WEIGHTS, RECENCY_WEIGHTS = (8.0, 32.0, 128.0, 512.0), (2.0, 4.0, 8.0, 16.0)
"""Weights of the closed form beside learned dims; of ordered histories its scores are sums, else means."""
TRIAL_SHARE, TRIAL_STEPS = 4, 160
"""A trial takes a quarter of the epochs, but at least so many steps: enough to order temperatures."""


@dataclass(frozen=True)
class Mixture:
    """Width and weight of closed-form dims next to the learned ones; both are 0 without any."""

    low_rank: int = 0
    weight: float = 0.0


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
        histories: Figure by kind of history; empty if one kind alone was tried.
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
        datasets = [dataset] if config.data.validation_size else _split_again(config, dataset, world)
    except DataError:  # users have too few interactions for another split by this rule
        return fixed, None
    bench = _Bench.of(kinds, datasets, world, run)
    found = [_choose_values(kind, bench) for kind in kinds]
    best, choice = max(found, key=lambda each: each[1].best)
    if len(kinds) > 1:
        choice.histories = {resolved.model.history: each.best for resolved, each in found}
    return best, choice


def _kinds(config: Config, dataset: Dataset) -> list[Config]:
    """Return the configurations to be tuned, filled by the size of the data: one for each kind of history.

    Where a model is asked for what comes next, by a split by time, one with ordered histories comes second.
    """
    size = int(np.count_nonzero(dataset.train_by_user().lengths())), dataset.item_count, len(dataset.train)
    kinds = [with_size_defaults(config, *size)]
    rule = validation_rule(cast(Rule, dataset.report["split"]), dataset.has_order)
    if history_is_open(config) and rule in BY_TIME:
        ordered = with_history(config, "recency")
        with suppress(ConfigError):  # other options may rule ordered histories out
            check(ordered)
            kinds.append(with_size_defaults(ordered, *size))
    return kinds


def _choose_values(config: Config, bench: "_Bench") -> tuple[ResolvedConfig, Choice]:
    """Choose temperature and closed form for one kind of history, filled by the size of the data."""
    fixed, choice = with_fixed_values(config), Choice(bench.metric, [len(cut.users) for cut in bench.cuts])
    learned = _choose_temperature(config, bench, choice)
    if choice.temperatures:
        fixed = _with_model(fixed, temperature=peak(choice.temperatures))
    if low_rank_is_open(config):
        choice.penalties, choice.widths, choice.mixtures = bench.world.on_first(
            lambda: _mix(config, bench, [_on_first(vectors) for vectors in learned]), long=True
        )
        fixed = _with_mixture(fixed, choice)
    return fixed, choice


def _split_again(config: Config, dataset: Dataset, world: World) -> list[Dataset]:
    """Cut validation splits from the training split, one or several by seeds; the test split stays."""
    data = replace(config.data, validation_size=VALIDATION_SIZE)
    rule = validation_rule(cast(Rule, dataset.report["split"]), dataset.has_order)
    several = rule in SEEDED and len(dataset.train) <= FEW_INTERACTIONS
    # Neighbouring temperatures differ by more than chance, and trials are expensive.
    cuts = CUTS if several and low_rank_is_open(config) else 1
    seeds = [(data.split_seed + shift) % 2**32 for shift in range(cuts)]
    cut = [world.on_each_host(lambda seed=seed: prepare_data(data, seed), long=True) for seed in seeds]
    return [open_dataset(folder) for folder in cut]


@dataclass(frozen=True)
class _Cut:
    """A data set with a validation split: the users to evaluate, their seen items and their held-out ones."""

    dataset: Dataset
    users: np.ndarray
    seen: ItemLists
    held_out: ItemLists
    k: int

    @classmethod
    def of(cls, dataset: Dataset, protocol: Protocol) -> "_Cut":
        users = evaluated_users(dataset, protocol)
        users = users[np.linspace(0, len(users) - 1, min(len(users), MOST_USERS)).astype(np.int64)]
        lists = (dataset.seen(protocol.split).take(users), dataset.held_out(protocol.split).take(users))
        seen, held_out = ((torch.from_numpy(lengths), torch.from_numpy(items)) for lengths, items in lists)
        return cls(dataset, users, seen, held_out, protocol.ks[0])

    def figure(self, vectors: Vectors) -> float:
        """Return the mean NDCG of the users, on one rank; equal scores rank as in an evaluation."""
        (query, items), order = vectors, TieOrder.of(self.dataset)
        ranking, _ = rank_items(query, items[order.rows], self.k, self.users, self.seen, order)
        found = hits(ranking, self.held_out)
        return float(metrics_by_user(found, self.held_out[0], [self.k])[f"ndcg@{self.k}"].mean())


@dataclass(frozen=True)
class _Bench:
    """One or several validation splits of the same data, on which trials are evaluated."""

    cuts: list[_Cut]
    world: World
    protocol: Protocol
    metric: str
    trials: Trials

    @classmethod
    def of(
        cls, kinds: Sequence[Config], datasets: Sequence[Dataset], world: World, run: Path | None
    ) -> "_Bench":
        config = kinds[0]
        protocol = Protocol("validation", "mask", config.evaluation.k[:1], config.evaluation.chunk)
        metric = f"ndcg@{config.evaluation.k[0]}"
        most = sum(_most_trials(kind, len(datasets)) for kind in kinds)
        trials = Trials(run, _identity(kinds, datasets), metric, most, world)
        return cls([_Cut.of(dataset, protocol) for dataset in datasets], world, protocol, metric, trials)

    def figure(self, vectors: Sequence[Vectors]) -> float:
        """Return the mean figure over the splits, given vectors for each, on one rank."""
        return mean(cut.figure(each) for cut, each in zip(self.cuts, vectors, strict=True))


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
    facts: list[Any] = [[dataset.key for dataset in datasets], kinds[0].evaluation.k[0]]
    for config in kinds:
        facts += [asdict(section) for section in (config.model, config.loss, config.optimizer)]
        facts += [config.batches.rows, config.batches.size, config.run.epochs, config.run.seed]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _label(config: Config, trial: str) -> str:
    """Return the name of a trial, with the kind of history where it has an order."""
    history = config.model.history
    return f"{history} {trial}" if history_spec(history).ordered else trial


def _choose_temperature(config: Config, bench: _Bench, choice: Choice) -> list[Vectors | None]:
    """Try temperatures if they are open; return the best one's vectors for each split, on rank 0."""
    fixed, trials = with_fixed_values(config), bench.trials
    first, *others = bench.cuts
    best = fixed.model.temperature
    choice.learned = -1.0

    def name(temperature: float) -> str:
        return _label(config, f"temperature {temperature!r}")

    def trial(temperature: float, cut: _Cut) -> Vectors | None:
        return _trial(_with_model(fixed, temperature=temperature), cut, bench)

    def score(temperature: float) -> float:
        nonlocal best

        def measure() -> float:
            vectors = trial(temperature, first)
            figure = bench.world.on_first(lambda: first.figure(_on_first(vectors)), long=True)
            if figure > choice.learned:
                trials.hold(name(temperature), vectors)
            return figure

        figure = trials.figure(name(temperature), measure)
        if figure > choice.learned:
            if best != temperature:
                trials.release(name(best))
            choice.learned, best = figure, temperature
        return figure

    if temperature_is_open(config):
        choice.temperatures = climb(score, fixed_temperature(config), TEMPERATURE_RATIO)
    else:
        score(best)
    found = [trials.vectors(name(best), lambda: trial(best, first))]
    for number, cut in enumerate(others, start=2):
        further = f"{name(best)}, validation split {number}"
        found.append(trials.further(further, lambda cut=cut: trial(best, cut)))
    return found


def _trial(config: ResolvedConfig, cut: _Cut, bench: _Bench) -> Vectors | None:
    """Return vectors after a short training of the learned towers alone, on rank 0.

    Raises:
        KeyboardInterrupt: Some rank was asked to stop; raised on every rank. The trial is not kept.
    """
    # A signal must not end one rank in the middle of what it does together with others.
    with Preemption(bench.world) as preemption:
        stopped, vectors = _short_training(config, cut, bench)
        # Of two exchanges, the second has what was asked before the first.
        if stopped or preemption.stop_requested() or preemption.stop_requested():
            raise KeyboardInterrupt
    return vectors


def _short_training(config: ResolvedConfig, cut: _Cut, bench: _Bench) -> tuple[bool, Vectors | None]:
    """Return whether the training was stopped, and the vectors after it, on rank 0."""
    sharding = replace(config.sharding, plan=None)  # a plan file has closed-form tables too
    config, world = replace(_with_model(config, low_rank=0), sharding=sharding), bench.world
    components = assemble(config, cut.dataset, world)
    batches = make_batches(config, cut.dataset, components)
    full = config.run.epochs
    least = -(-min(full, FULL_EPOCHS) // TRIAL_SHARE)
    epochs = min(full, max(least, -(-TRIAL_STEPS // batches.steps_per_epoch)))
    run = replace(config.run, epochs=epochs, evaluate_every=0, patience=0, log_every=0)
    with bench.trials.bar(epochs * batches.steps_per_epoch) as progress:
        config = replace(config, run=run)
        history, _ = fit(config, cut.dataset, components, batches, world, progress, stoppable=True)
    if history.paused_at is not None:
        return True, None
    pairs, count = components.tower_pairs, cut.dataset.item_count
    return False, gathered_vectors(pairs, cut.users, count, world, bench.protocol, cut.dataset)


def _on_first(vectors: Vectors | None) -> Vectors:
    assert vectors is not None, "rank 0 has the vectors of all ranks"
    return vectors


def _mix(
    config: Config, bench: _Bench, learned: list[Vectors]
) -> tuple[dict[float, float], dict[int, float], dict[Mixture, float]]:
    """Return figures by penalty, by width, and by mixture of learned dims and the best form; on rank 0."""
    model = config.model
    penalties, widths, forms = _closed_forms(config, bench)
    # A width that was asked for is not dropped.
    mixtures = {Mixture(): bench.figure(learned)} if model.low_rank is None else {}
    # Widths are compared without learned dims, which would hide their differences.
    rank = max(widths, key=lambda width: widths[width])
    form = [_narrow(each, rank) for each in forms]
    weights = RECENCY_WEIGHTS if history_spec(model.history).ordered else WEIGHTS
    for weight in weights if model.low_rank_weight is None else (model.low_rank_weight,):
        mixtures[Mixture(rank, weight)] = bench.figure(_concatenate(learned, form, weight))
    return penalties, widths, mixtures


def _closed_forms(
    config: Config, bench: _Bench
) -> tuple[dict[float, float], dict[int, float], list[Vectors]]:
    """Return figures by penalty and, at the best one, by width; and the widest forms of each split at it."""
    model, (first, *others), trials = config.model, bench.cuts, bench.trials
    data = first.dataset
    widths = RANKS[:-1] if len(data.train) <= FEW_INTERACTIONS else RANKS
    fitting = [rank for rank in widths if rank <= data.item_count] or [RANKS[0]]
    ranks = fitting if model.low_rank is None else [model.low_rank]
    forms: dict[float, Vectors] = {}
    length = model.history_length if history_spec(model.history).ordered else 0

    def measure(penalty: float) -> float:
        with trials.bar(1):
            forms[penalty] = _form(first, ranks[-1], penalty, length)
        return max(first.figure(_narrow(forms[penalty], rank)) for rank in ranks)

    def score(penalty: float) -> float:
        return trials.figure(_label(config, f"penalty {penalty!r}"), lambda: measure(penalty))

    given = model.low_rank_penalty
    penalties = climb(score, *PENALTIES) if given is None else {given: score(given)}
    best = best_of(penalties)
    # A finished trial has left its figure alone.
    best_form = forms.get(best) or _form(first, ranks[-1], best, length)
    chosen = [best_form, *(_form(cut, ranks[-1], best, length) for cut in others)]
    figures = {rank: bench.figure([_narrow(form, rank) for form in chosen]) for rank in ranks}
    return penalties, figures, chosen


def _form(cut: _Cut, rank: int, penalty: float, length: int) -> Vectors:
    """Return vectors of the closed form of a training split; with a length, of ordered histories up to it."""
    history, items = training_towers(cut.dataset, rank, penalty)
    if length:
        sequences = cut.dataset.sequences("validation").items
        query = recent_history_vectors(sequences, cut.users, history, length, CLOSED_DECAY)
    else:
        query = history_vectors(cut.dataset.train_by_user(), cut.users, history)
    return torch.from_numpy(query), torch.from_numpy(items)


def _narrow(form: Vectors, rank: int) -> Vectors:
    query, items = form
    return query[:, :rank], items[:, :rank]


def _concatenate(learned: list[Vectors], forms: list[Vectors], weight: float) -> list[Vectors]:
    return [
        (torch.cat([query, form_query * weight], 1), torch.cat([items, form_items], 1))
        for (query, items), (form_query, form_items) in zip(learned, forms, strict=True)
    ]


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
