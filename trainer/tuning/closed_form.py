"""Trials of the closed form: its penalty, its width, and its weight beside the learned dims."""

import math
from dataclasses import dataclass, field

import torch

from trainer.closed_form.edlae import (
    Regression,
    Towers,
    history_vectors,
    recent_history_vectors,
)
from trainer.config.schema import Config
from trainer.facts.histories import history_spec
from trainer.model.builder import CLOSED_DECAY
from trainer.tuning.learned import label
from trainer.tuning.trials import Vectors, best_of, climb
from trainer.tuning.validation_splits import FEW_INTERACTIONS, Bench, Cut

PENALTIES = 100.0, math.sqrt(10)
"""First value and ratio of the next."""
NARROW = (16, 24, 32, 64, 128)
"""Widths of closed forms with few interactions; neighbours of narrow ones differ most."""
WIDE = (32, 64, 128, 256, 512)
"""Widths with more interactions, tried upwards until the figure falls."""
WIDEST_VALUES = 2**25
"""Most values of a table that is wider than 256: 128 MiB each for items and histories."""
FIRST_RANK = 128
"""Width of the forms of several penalties, and of the first one at the best of them.

It has those below it as its first columns. Narrower forms prefer smaller penalties: on ml-1m 32, not 316,
which costs 0.001 of NDCG@10.
"""
WEIGHTS, RECENCY_WEIGHTS = (8.0, 32.0, 128.0, 512.0), (2.0, 4.0, 8.0, 16.0)
"""Weights of the closed form beside learned dims; of ordered histories its scores are sums, else means."""


@dataclass(frozen=True)
class Mixture:
    """Width and weight of closed-form dims next to the learned ones; both are 0 without any."""

    low_rank: int = 0
    weight: float = 0.0


@dataclass
class ClosedFormTrials:
    """Outcome of the trials.

    Attributes:
        penalties: Figure by value at its best width, on the first validation split.
        widths: Mean figure over validation splits by width of the closed form alone.
        mixtures: Mean figure over validation splits by mixture.
    """

    penalties: dict[float, float]
    widths: dict[int, float]
    mixtures: dict[Mixture, float] = field(default_factory=dict)


def mix(config: Config, bench: Bench, learned: list[Vectors]) -> ClosedFormTrials:
    """Try penalties, widths, and mixtures of learned dims and the best form; on rank 0."""
    model = config.model
    regression = Regression.of_training(bench.cuts[0].dataset)
    penalties = _penalties(config, bench, regression)
    widths, forms = _widths(config, bench, best_of(penalties), regression)
    found = ClosedFormTrials(penalties, widths)
    # A width that was asked for is not dropped.
    if model.low_rank is None:
        found.mixtures[Mixture()] = bench.figure(learned)
    # Widths are compared without learned dims, which would hide their differences.
    rank = max(widths, key=lambda width: widths[width])
    form = [_narrow(each, rank) for each in forms]
    weights = RECENCY_WEIGHTS if history_spec(model.history).ordered else WEIGHTS
    for weight in weights if model.low_rank_weight is None else (model.low_rank_weight,):
        found.mixtures[Mixture(rank, weight)] = bench.figure(_concatenate(learned, form, weight))
    return found


def _ranks(config: Config, bench: Bench) -> tuple[int, ...]:
    """Return the widths to be tried, ascending."""
    if config.model.low_rank is not None:
        return (config.model.low_rank,)
    data = bench.cuts[0].dataset
    widths = NARROW if len(data.train) <= FEW_INTERACTIONS else WIDE
    items = data.item_count
    fitting = (rank for rank in widths if rank <= 256 or rank * items <= WIDEST_VALUES)
    return tuple(rank for rank in fitting if rank <= items) or NARROW[:1]


def _penalties(config: Config, bench: Bench, regression: Regression) -> dict[float, float]:
    """Return figures by penalty, on the first validation split."""
    cut, given, ranks = bench.cuts[0], config.model.low_rank_penalty, _ranks(config, bench)
    told_by = [rank for rank in ranks if rank <= FIRST_RANK] or [FIRST_RANK]

    def measure(penalty: float) -> float:
        with bench.trials.bar(1):
            form = _form(config, cut, regression.towers(told_by[-1], penalty, coarse=True))
        return max(cut.figure(_narrow(form, rank)) for rank in told_by)

    def score(penalty: float) -> float:
        return bench.trials.figure(label(config, f"penalty {penalty!r}"), lambda: measure(penalty))

    return climb(score, *PENALTIES) if given is None else {given: score(given)}


def _widths(
    config: Config, bench: Bench, penalty: float, regression: Regression
) -> tuple[dict[int, float], list[Vectors]]:
    """Return figures by width, and the widest forms of each split; given the first split's regression."""
    ranks, figures = _ranks(config, bench), dict[int, float]()
    forms: list[Vectors] = []
    until_it_falls = len(bench.cuts[0].dataset.train) > FEW_INTERACTIONS
    for place, rank in enumerate(ranks):
        if not forms or rank > forms[0][1].shape[1]:
            width = max(rank, min(ranks[-1], FIRST_RANK))
            towers = regression.towers(width, penalty, coarse=True)
            forms = [_form(config, bench.cuts[0], towers)]
            for cut in bench.cuts[1:]:
                towers = Regression.of_training(cut.dataset).towers(width, penalty, coarse=True)
                forms.append(_form(config, cut, towers))
        figures[rank] = bench.figure([_narrow(form, rank) for form in forms])
        if until_it_falls and place and figures[rank] < figures[ranks[place - 1]]:
            break
    return figures, forms


def _form(config: Config, cut: Cut, towers: Towers) -> Vectors:
    """Return the vectors of a closed form."""
    history, items = towers
    if history_spec(config.model.history).ordered:
        sequences, length = cut.dataset.sequences("validation").items, config.model.history_length
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
