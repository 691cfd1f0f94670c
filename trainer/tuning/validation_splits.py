"""Validation splits on which trials are evaluated, cut from the training split where none is given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import cast

import numpy as np
import torch

from trainer.config.schema import Config
from trainer.config.size_defaults import low_rank_is_open
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.dataset.split import SEEDED, Rule, validation_rule
from trainer.distributed.world import World
from trainer.evaluation.evaluator import Protocol, evaluated_users
from trainer.evaluation.metrics import metrics_by_user
from trainer.evaluation.tie_order import TieOrder
from trainer.evaluation.tied_ranking import rank_items
from trainer.evaluation.topk import ItemLists, hits
from trainer.tuning.trials import Trials, Vectors

VALIDATION_SIZE = 0.1
CUTS, FEW_INTERACTIONS = 3, 300_000
"""Number of random validation splits, and the most training interactions with which there are several."""
MOST_USERS = 5000
"""Most users evaluated for one figure."""


def split_again(config: Config, dataset: Dataset, world: World) -> list[Dataset]:
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
class Cut:
    """A data set with a validation split: the users to evaluate, their seen items and their held-out ones."""

    dataset: Dataset
    users: np.ndarray
    seen: ItemLists
    held_out: ItemLists
    k: int

    @classmethod
    def of(cls, dataset: Dataset, protocol: Protocol) -> "Cut":
        """Return the cut of a data set with a validation split."""
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
class Bench:
    """One or several validation splits of the same data, on which trials are evaluated."""

    cuts: list[Cut]
    world: World
    protocol: Protocol
    metric: str
    trials: Trials

    @classmethod
    def of(
        cls,
        config: Config,
        datasets: Sequence[Dataset],
        world: World,
        run: Path | None,
        identity: str,
        most_trials: int,
    ) -> "Bench":
        """Return the bench of a tuning; called by every rank alike.

        Args:
            config: For the metric.
            datasets: Data sets with validation splits.
            world: All ranks.
            run: Run folder that keeps finished trials; None: they are not kept.
            identity: What figures depend on.
            most_trials: Most trials that there can be, as it is shown.
        """
        protocol = Protocol("validation", "mask", config.evaluation.k[:1], config.evaluation.chunk)
        metric = f"ndcg@{config.evaluation.k[0]}"
        trials = Trials(run, identity, metric, most_trials, world)
        return cls([Cut.of(dataset, protocol) for dataset in datasets], world, protocol, metric, trials)

    def figure(self, vectors: Sequence[Vectors]) -> float:
        """Return the mean figure over the splits, given vectors for each, on one rank."""
        return mean(cut.figure(each) for cut, each in zip(self.cuts, vectors, strict=True))
