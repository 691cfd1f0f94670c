"""What no size can tell, chosen on a validation part: the temperature, and the closed form with its weight.

Where the configuration is silent, short trainings at different temperatures are compared on the validation
part, then closed forms of different penalties, then mixtures of the best two. Where there is no validation
part, the training part is cut once more by the rule of its split; the training proper has all of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from trainer.config import Config
from trainer.data.batches import Batches
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.prepare import prepare_data
from trainer.evaluation.evaluate import Protocol, gathered_vectors, measured_users
from trainer.evaluation.metrics import measure
from trainer.evaluation.topk import ItemLists, hits, top_k
from trainer.model.low_rank import history_vectors, training_towers
from trainer.parallel.world import World
from trainer.training.assembly import Parts, assemble, batch_plan
from trainer.training.by_size import FIXED_TEMPERATURE, settled, with_fixed_values
from trainer.training.fit import fit
from trainer.training.progress import Progress

LEAST_INTERACTIONS = 2000
"""Below that, what a validation part prefers is chance."""
VALIDATION_SIZE = 0.1
MOST_USERS = 5000
"""Users measured for one figure."""
TEMPERATURES, PENALTIES = (FIXED_TEMPERATURE, math.sqrt(2)), (100.0, math.sqrt(10))
"""First value and ratio of the next."""
RANKS = (32, 64, 128, 256)
WEIGHTS = (0.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
MOST_TRIALS = 6
TRIAL_SHARE, TRIAL_STEPS = 4, 160
"""A trial takes a quarter of the epochs, but so many steps: enough for the order of temperatures."""


Vectors = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Choice:
    """What was tried on which users, and the validation ndcg of each.

    Attributes:
        metric: its name.
        users: of the validation part, whose mean it is.
        temperatures, penalties: figure by value; a penalty's is that of its best rank.
        mixtures: figure by width and weight of the closed form; width 0 is the learned part alone.
    """

    metric: str = ""
    users: int = 0
    temperatures: dict[float, float] = field(default_factory=dict)
    penalties: dict[float, float] = field(default_factory=dict)
    mixtures: dict[tuple[int, float], float] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """The same as `metrics.json` gives it."""
        mixtures = [
            {"low_rank": rank, "low_rank_weight": weight, self.metric: figure}
            for (rank, weight), figure in self.mixtures.items()
        ]
        tried = {"temperatures": self.temperatures, "penalties": self.penalties, "mixtures": mixtures}
        return {"chosen": {"metric": self.metric, "users": self.users, **tried}}


def choose(config: Config, dataset: Dataset, world: World) -> tuple[Config, Choice | None]:
    """The configuration with the best values for what it leaves open, the same on every rank.

    Args:
        config: settled but for what is chosen here, see `by_size`.
        dataset: of the training proper.
    Returns: the settled configuration, and what was tried; None where nothing was.
    """
    fixed, model = with_fixed_values(config), config.model
    searched_temperature = model.temperature is None and model.similarity == "cosine"
    searched_form = (
        None in (model.low_rank, model.low_rank_weight, model.low_rank_penalty) and model.low_rank != 0
    )
    worthwhile = config.loss.name == "softmax" and len(dataset.train) >= LEAST_INTERACTIONS
    if not config.run.choose or not worthwhile or not (searched_temperature or searched_form):
        return fixed, None
    data = config.data
    if not data.validation_size:
        cut = replace(data, validation_size=VALIDATION_SIZE)
        dataset = open_dataset(world.on_each_host(lambda: prepare_data(cut)))
    protocol = Protocol("validation", "mask", config.evaluation.k[:1], config.evaluation.chunk)
    users = measured_users(dataset, protocol)
    users = users[np.linspace(0, len(users) - 1, min(len(users), MOST_USERS)).astype(np.int64)]
    bench = _Bench(dataset, world, protocol, users)
    choice = Choice(f"ndcg@{protocol.ks[0]}", len(users))
    learned = _choose_temperature(fixed, bench, choice, searched_temperature)
    if searched_temperature:
        fixed = _with_model(fixed, temperature=peak(choice.temperatures))
    if searched_form:
        found = world.on_first(lambda: _choose_form(config, bench, choice, learned))
        fixed, choice.penalties, choice.mixtures = _with_model(fixed, **found[0]), found[1], found[2]
    return fixed, choice


def climb(score: Callable[[float], float], start: float, ratio: float) -> dict[float, float]:
    """Scores of `start` times powers of `ratio`, upwards or downwards as long as they rise.

    The best of them has a worse neighbour on either side, after at most `MOST_TRIALS` calls.
    """
    scores = {0: score(start)}
    while len(scores) < MOST_TRIALS:
        best = max(scores, key=lambda power: scores[power])
        open_sides = [power for power in (best - 1, best + 1) if power not in scores]
        if not open_sides:
            break
        scores[open_sides[0]] = score(start * ratio ** open_sides[0])
    return {start * ratio**power: scores[power] for power in sorted(scores)}


def peak(scores: dict[float, float]) -> float:
    """Top of the parabola through the best value and its neighbours, which lie in equal ratios; 2 digits."""
    values = sorted(scores)
    place = max(range(len(values)), key=lambda number: scores[values[number]])
    if not 0 < place < len(values) - 1:
        return round(values[place], 3)
    below, best, above = (scores[values[place + shift]] for shift in (-1, 0, 1))
    bend = below - 2 * best + above
    shift = 0.0 if bend >= 0 else (below - above) / (2 * bend)
    return round(values[place] * (values[place + 1] / values[place]) ** shift, 3)


@dataclass(frozen=True)
class _Bench:
    """Where figures are taken."""

    dataset: Dataset
    world: World
    protocol: Protocol
    users: np.ndarray

    def lists(self) -> tuple[ItemLists, ItemLists]:
        """Items known and items to be found, of every user."""
        known, held_out = self.dataset.known("validation"), self.dataset.held_out("validation")
        exclude, truth = (
            tuple(torch.from_numpy(column) for column in part.take(self.users)) for part in (known, held_out)
        )
        return exclude, truth  # type: ignore[return-value]

    def figure(self, vectors: Vectors, lists: tuple[ItemLists, ItemLists]) -> float:
        """Mean ndcg of the users, on one rank."""
        (query, items), (exclude, truth) = vectors, lists
        k = self.protocol.ks[0]
        found = hits(top_k(query, items, k, exclude)[1], truth)
        return float(measure(found, truth[0], [k])[f"ndcg@{k}"].mean())


def _choose_temperature(config: Config, bench: _Bench, choice: Choice, searched: bool) -> Vectors | None:
    """Fill in the figures of temperatures; returns the vectors of the best trial on rank 0."""
    best: list[tuple[float, Vectors | None]] = []

    def score(temperature: float) -> float:
        parts = _trial(_with_model(config, temperature=temperature), bench)
        vectors = gathered_vectors(
            parts.served, bench.users, bench.dataset.item_count, bench.world, bench.protocol
        )
        figure = bench.world.on_first(lambda: bench.figure(vectors, bench.lists()) if vectors else 0.0)
        best.append((figure, vectors))
        best.sort(key=lambda entry: entry[0], reverse=True)
        del best[1:]
        return figure

    if searched:
        choice.temperatures = climb(score, *TEMPERATURES)
    else:
        score(settled(config.model.temperature))
    return best[0][1]


def _trial(config: Config, bench: _Bench) -> Parts:
    """Learned towers after a short training."""
    run = config.run
    config = _with_model(config, low_rank=0)
    parts = assemble(config, bench.dataset, bench.world)
    source = Batches(bench.dataset, batch_plan(config), parts.user_inputs, parts.item_inputs)
    full = settled(run.epochs)
    epochs = min(full, max(-(-full // TRIAL_SHARE), -(-TRIAL_STEPS // source.steps_per_epoch)))
    config = replace(config, run=replace(run, epochs=epochs, evaluate_every=0, patience=0, log_every=0))
    with Progress(None, epochs * source.steps_per_epoch, bench.world.is_first, tensorboard=False) as progress:
        fit(config, bench.dataset, parts, source, bench.world, progress)
    return parts


def _choose_form(
    config: Config, bench: _Bench, choice: Choice, learned: Vectors | None
) -> tuple[dict[str, float], dict[float, float], dict[tuple[int, float], float]]:
    """Width, weight and penalty of the closed form beside the learned part, and the figures; on rank 0."""
    assert learned is not None
    model, lists, count = config.model, bench.lists(), bench.dataset.item_count
    ranks = [rank for rank in RANKS if rank <= count] or [RANKS[0]]
    ranks = ranks if model.low_rank is None else [model.low_rank]
    weights = WEIGHTS if model.low_rank_weight is None else (model.low_rank_weight,)
    forms: dict[float, Vectors] = {}

    def score(penalty: float) -> float:
        history, items = training_towers(bench.dataset, ranks[-1], penalty)
        query = history_vectors(bench.dataset.known("validation"), bench.users, history)
        forms[penalty] = torch.from_numpy(query), torch.from_numpy(items)
        return max(bench.figure(_narrow(forms[penalty], rank), lists) for rank in ranks)

    if model.low_rank_penalty is None:
        penalties = climb(score, *PENALTIES)
    else:
        penalties = {model.low_rank_penalty: score(model.low_rank_penalty)}
    penalty = max(penalties, key=lambda value: penalties[value])
    mixtures = _mixtures(learned, forms[penalty], ranks, weights, lambda both: bench.figure(both, lists))
    rank, weight = max(mixtures, key=lambda pair: mixtures[pair])
    return {"low_rank": rank, "low_rank_weight": weight, "low_rank_penalty": penalty}, penalties, mixtures


def _mixtures(
    learned: Vectors,
    form: Vectors,
    ranks: Sequence[int],
    weights: Sequence[float],
    figure: Callable[[Vectors], float],
) -> dict[tuple[int, float], float]:
    """Figures by width and weight of the closed form; width 0 where the weight is."""
    figures: dict[tuple[int, float], float] = {}
    for rank in ranks:
        query, items = _narrow(form, rank)
        for weight in weights:
            if (key := (rank if weight else 0, weight)) not in figures:
                both = torch.cat([learned[0], query * weight], 1), torch.cat([learned[1], items], 1)
                figures[key] = figure(both)
    return figures


def _narrow(form: Vectors, rank: int) -> Vectors:
    return form[0][:, :rank], form[1][:, :rank]


def _with_model(config: Config, **values: Any) -> Config:
    return replace(config, model=replace(config.model, **values))
