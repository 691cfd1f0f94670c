"""What no size can tell, chosen on a validation part: the temperature, and the closed form with its weight.

Where the configuration is silent, short trainings at different temperatures are compared on the validation
part, then closed forms of different penalties, then mixtures of the best two. Where there is no validation
part, the training part is cut once more by the rule of its split; the training proper has all of it.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from trainer.config import Config
from trainer.data.batches import Batches
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.prepare import prepare_data
from trainer.errors import DataError
from trainer.evaluation.evaluate import Protocol, gathered_vectors, measured_users
from trainer.evaluation.metrics import measure
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.model.low_rank import history_vectors, training_towers
from trainer.parallel.world import World
from trainer.training.assembly import assemble, batch_plan
from trainer.training.by_size import FIXED_TEMPERATURE, FULL_EPOCHS, settled, with_fixed_values
from trainer.training.fit import fit
from trainer.training.progress import Progress
from trainer.training.search import best_of, climb, peak

LEAST_INTERACTIONS = 2000
"""Below that, what a validation part prefers is chance."""
VALIDATION_SIZE = 0.1
MOST_USERS = 5000
"""Users measured for one figure."""
TEMPERATURES, PENALTIES = (FIXED_TEMPERATURE, math.sqrt(2)), (100.0, math.sqrt(10))
"""First value and ratio of the next."""
RANKS = (32, 64, 128, 256)
WEIGHTS = (4.0, 16.0, 64.0, 256.0, 1024.0)
TRIAL_SHARE, TRIAL_STEPS = 4, 160
"""A trial takes a quarter of the epochs, but so many steps: enough for the order of temperatures."""

Vectors = tuple[torch.Tensor, torch.Tensor]
"""Query vectors of the users measured, and candidate vectors of the catalogue."""


@dataclass(frozen=True)
class Mixture:
    """Width and weight of a closed form beside the learned dims (both 0: none)."""

    low_rank: int = 0
    weight: float = 0.0


@dataclass
class Choice:
    """What was tried on which users, and the validation ndcg of each.

    Attributes:
        metric: its name.
        users: of the validation part, whose mean it is.
        temperatures, penalties: figure by value; a penalty's is that of its best width.
        mixtures: figure by mixture.
    """

    metric: str
    users: int
    temperatures: dict[float, float] = field(default_factory=dict)
    penalties: dict[float, float] = field(default_factory=dict)
    mixtures: dict[Mixture, float] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """The same as `metrics.json` gives it."""
        mixtures = [vars(mixture) | {self.metric: figure} for mixture, figure in self.mixtures.items()]
        tried = {"temperatures": self.temperatures, "penalties": self.penalties, "mixtures": mixtures}
        return {"chosen": {"metric": self.metric, "users": self.users, **tried}}


def choose(config: Config, dataset: Dataset, world: World) -> tuple[Config, Choice | None]:
    """The configuration with the best values for what it leaves open, the same on every rank.

    Args:
        config: settled but for what is chosen here, see `by_size`.
        dataset: of the training proper.
    Returns: the settled configuration, and what was tried; None where nothing was, or could be.
    """
    fixed = with_fixed_values(config)
    worthwhile = config.loss.name == "softmax" and len(dataset.train) >= LEAST_INTERACTIONS
    if not (config.run.choose and worthwhile and (_temperature_is_open(config) or _form_is_open(config))):
        return fixed, None
    if not config.data.validation_size:
        cut = replace(config.data, validation_size=VALIDATION_SIZE)
        try:
            dataset = open_dataset(world.on_each_host(lambda: prepare_data(cut)))
        except DataError:  # users have too few interactions for another cut by this rule
            return fixed, None
    bench = _Bench.of(config, dataset, world)
    choice = Choice(bench.metric, len(bench.users))
    learned = _choose_temperature(config, bench, choice)
    if choice.temperatures:
        fixed = _with_model(fixed, temperature=peak(choice.temperatures))
    if _form_is_open(config):
        choice.penalties, choice.mixtures = world.on_first(lambda: _mix(config, bench, settled(learned)))
        fixed = _with_mixture(fixed, choice)
    return fixed, choice


def _temperature_is_open(config: Config) -> bool:
    return config.model.temperature is None and config.model.similarity == "cosine"


def _form_is_open(config: Config) -> bool:
    model = config.model
    return model.low_rank != 0 and None in (model.low_rank, model.low_rank_weight, model.low_rank_penalty)


@dataclass(frozen=True)
class _Bench:
    """Where figures are taken: a data set with a validation part, and some of its users."""

    dataset: Dataset
    world: World
    protocol: Protocol
    users: np.ndarray

    @classmethod
    def of(cls, config: Config, dataset: Dataset, world: World) -> "_Bench":
        protocol = Protocol("validation", "mask", config.evaluation.k[:1], config.evaluation.chunk)
        users = measured_users(dataset, protocol)
        places = np.linspace(0, len(users) - 1, min(len(users), MOST_USERS)).astype(np.int64)
        return cls(dataset, world, protocol, users[places])

    @property
    def metric(self) -> str:
        return f"ndcg@{self.protocol.ks[0]}"

    def figure(self, vectors: Vectors) -> float:
        """Mean ndcg of the users, on one rank."""
        k, truth = self.protocol.ks[0], self._lists("held_out")
        found = hits(top_k(*vectors, k, self._lists("known"))[1], truth)
        return float(measure(found, truth[0], [k])[self.metric].mean())

    def _lists(self, which: str) -> ItemLists:
        lengths, items = getattr(self.dataset, which)("validation").take(self.users)
        return torch.from_numpy(lengths), torch.from_numpy(items)


def _choose_temperature(config: Config, bench: _Bench, choice: Choice) -> Vectors | None:
    """Fill in the figures of temperatures, if they are open; returns the vectors of the best on rank 0."""
    fixed, best = with_fixed_values(config), (-1.0, None)

    def score(temperature: float) -> float:
        nonlocal best
        vectors = _trial(_with_model(fixed, temperature=temperature), bench)
        figure = bench.world.on_first(lambda: bench.figure(settled(vectors)))
        best = max(best, (figure, vectors), key=lambda entry: entry[0])
        return figure

    if _temperature_is_open(config):
        choice.temperatures = climb(score, *TEMPERATURES)
    else:
        score(settled(fixed.model.temperature))
    return best[1]


def _trial(config: Config, bench: _Bench) -> Vectors | None:
    """Vectors after a short training of the learned towers alone, on rank 0."""
    config = replace(_with_model(config, low_rank=0), sharding=replace(config.sharding, plan=None))
    parts = assemble(config, bench.dataset, bench.world)
    source = Batches(bench.dataset, batch_plan(config), parts.user_inputs, parts.item_inputs)
    full = settled(config.run.epochs)
    least = -(-min(full, FULL_EPOCHS) // TRIAL_SHARE)
    epochs = min(full, max(least, -(-TRIAL_STEPS // source.steps_per_epoch)))
    run = replace(config.run, epochs=epochs, evaluate_every=0, patience=0, log_every=0)
    with Progress(None, epochs * source.steps_per_epoch, bench.world.is_first, tensorboard=False) as progress:
        fit(replace(config, run=run), bench.dataset, parts, source, bench.world, progress)
    return gathered_vectors(parts.served, bench.users, bench.dataset.item_count, bench.world, bench.protocol)


def _mix(config: Config, bench: _Bench, learned: Vectors) -> tuple[dict[float, float], dict[Mixture, float]]:
    """Figures by penalty, and of the learned dims alone and with closed forms beside them; on rank 0."""
    model = config.model
    fitting = [rank for rank in RANKS if rank <= bench.dataset.item_count] or [RANKS[0]]
    ranks = fitting if model.low_rank is None else [model.low_rank]
    forms: dict[float, Vectors] = {}

    def score(penalty: float) -> float:
        history, items = training_towers(bench.dataset, ranks[-1], penalty)
        query = history_vectors(bench.dataset.known("validation"), bench.users, history)
        forms[penalty] = torch.from_numpy(query), torch.from_numpy(items)
        return max(bench.figure(_narrow(forms[penalty], rank)) for rank in ranks)

    given = model.low_rank_penalty
    penalties = climb(score, *PENALTIES) if given is None else {given: score(given)}
    # A width that was asked for is not chosen away.
    mixtures = {Mixture(): bench.figure(learned)} if model.low_rank is None else {}
    form = forms[best_of(penalties)]
    for rank in ranks:
        for weight in WEIGHTS if model.low_rank_weight is None else (model.low_rank_weight,):
            both = _side_by_side(learned, _narrow(form, rank), weight)
            mixtures[Mixture(rank, weight)] = bench.figure(both)
    return penalties, mixtures


def _narrow(form: Vectors, rank: int) -> Vectors:
    return form[0][:, :rank], form[1][:, :rank]


def _side_by_side(learned: Vectors, form: Vectors, weight: float) -> Vectors:
    return torch.cat([learned[0], form[0] * weight], 1), torch.cat([learned[1], form[1]], 1)


def _with_mixture(config: Config, choice: Choice) -> Config:
    """The configuration with the best mixture."""
    best = max(choice.mixtures, key=lambda mixture: choice.mixtures[mixture])
    config = _with_model(config, low_rank=best.low_rank)
    if best.low_rank:
        penalty = best_of(choice.penalties)
        config = _with_model(config, low_rank_weight=best.weight, low_rank_penalty=penalty)
    return config


def _with_model(config: Config, **values: Any) -> Config:
    return replace(config, model=replace(config.model, **values))
