"""Evaluation where each rank ranks the catalogue for its own users and measures them; sums are exchanged."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from trainer.dataset.dataset import Dataset
from trainer.distributed.world import World
from trainer.errors import ConfigError, DataError
from trainer.evaluation.baselines import make_ranker
from trainer.evaluation.evaluator import Evaluation, Protocol
from trainer.evaluation.metrics import metrics_by_user
from trainer.evaluation.tie_order import TieOrder
from trainer.evaluation.tied_ranking import rank_items
from trainer.evaluation.topk import ItemLists, hits
from trainer.model.retriever import TowerPair, as_of, candidate_vectors, query_vectors
from trainer.storage.attributes import Ragged
from trainer.storage.user_shares import UserShares

Sums = dict[str, float]
"""Sums over users, by `ranker metric`, and counts; added up rank by rank, so that no host changes a digit."""


def evaluate_shares(
    tower_pairs: Sequence[TowerPair], dataset: Dataset, shares: UserShares, world: World, protocol: Protocol
) -> Evaluation | None:
    """Evaluate towers as `trainer.evaluation.evaluator.evaluate` does, each rank on its own users.

    Args:
        tower_pairs: Towers whose vectors are concatenated, the same on every rank.
        dataset: This host's interactions, and the catalogue.
        shares: Shares of all users.
        world: All ranks.
        protocol: How to evaluate.

    Returns:
        The evaluation on rank 0, None elsewhere.

    Raises:
        ConfigError: Metrics are asked for that need all users in one place.
        DataError: The split is empty.
    """
    counts = shares.lengths[protocol.split]
    users = np.flatnonzero(counts)
    _check(dataset, protocol, len(users))
    by_rank = [shares.users_of(rank, world.size) for rank in range(world.size)]
    own = by_rank[world.rank]
    mine = own.start + np.flatnonzero(counts[own])
    most = max(int(np.count_nonzero(counts[each])) for each in by_rank)
    tower_pairs = as_of(tower_pairs, dataset, protocol.split)
    order = TieOrder.of(dataset, world.device)
    items = _item_vectors(tower_pairs, dataset, world, protocol, order)
    measurement = _Measurement(dataset, protocol, order, items, world)
    for start in range(0, most, protocol.chunk):  # as often on every rank, as looking users up takes all
        rows = mine[start : start + protocol.chunk]
        measurement.add(rows, query_vectors(tower_pairs, rows, world.device))
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, measurement.sums, group=world.objects)
    return _evaluation(found, dataset, protocol, len(users)) if world.is_first else None


def _check(dataset: Dataset, protocol: Protocol, users: int) -> None:
    if not users:
        raise DataError(
            f"{dataset.name}: the {protocol.split} split holds no interactions. Evaluate another one with "
            f"{protocol.option_prefix}split, or train with --data.{protocol.split}_size 0.2, which cuts one"
        )
    if protocol.beyond or protocol.per_user:
        raise ConfigError(
            "--data.share users: metrics beyond accuracy and comparisons need all users in one place. Start "
            "this command on one host, in one process"
        )


class _Measurement:
    """Sums of one rank's metrics over its users."""

    def __init__(
        self, dataset: Dataset, protocol: Protocol, order: TieOrder, items: torch.Tensor, world: World
    ) -> None:
        self._protocol, self._order, self._items, self._device = protocol, order, items, world.device
        self._k = max(protocol.ks)
        self._held_out, self._before = dataset.held_out(protocol.split), dataset.seen(protocol.split)
        self._rankers = {
            name: make_ranker(name, dataset, self._k, protocol.seed, protocol.split)
            for name in protocol.baselines
        }
        self._item_count = dataset.evaluated_items
        self.sums: Sums = {}

    def add(self, rows: np.ndarray, query: torch.Tensor) -> None:
        """Rank items for some of this rank's users and measure the lists."""
        if not len(rows):
            return
        masked = self._protocol.seen == "mask"
        before = _lists(self._before, rows)
        exclude = before if masked else (torch.zeros(len(rows), dtype=torch.int64), before[1][:0])
        on_device = exclude[0].to(self._device), exclude[1].to(self._device)
        ranked, tied = rank_items(
            query, self._items, self._k, rows, on_device if masked else None, self._order
        )
        lists = {"model": ranked.cpu()}
        lists |= {name: ranker(rows, exclude) for name, ranker in self._rankers.items()}
        truth = _lists(self._held_out, rows)
        for name, ranking in lists.items():
            metrics = metrics_by_user(hits(ranking, truth), truth[0], self._protocol.ks)
            for metric, values in metrics.items():
                self._count(f"{name} {metric}", float(values.sum()))
        self._count("tied", int(tied.sum()))
        left = self._item_count - (before[0] if masked else torch.zeros_like(before[0]))
        self._count("whole lists", int((left <= min(self._protocol.ks)).sum()))
        self._count("seen places", 0 if masked else int(hits(lists["model"], before).sum()))

    def _count(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0) + value


def _evaluation(found: Sequence[Sums], dataset: Dataset, protocol: Protocol, users: int) -> Evaluation:
    totals: Sums = {}
    for sums in found:
        for name, value in sums.items():
            totals[name] = totals.get(name, 0) + value
    tied, whole, places = (int(totals.pop(name)) for name in ("tied", "whole lists", "seen places"))
    rankers: dict[str, dict[str, float]] = {}
    for name, total in totals.items():
        ranker, metric = name.split(" ")
        rankers.setdefault(ranker, {})[metric] = total / users
    return Evaluation(
        split=protocol.split,
        seen=protocol.seen,
        users=users,
        items=dataset.evaluated_items,
        rankers=rankers,
        tied=tied,
        seen_share=places / (users * min(max(protocol.ks), dataset.evaluated_items)),
        whole_lists=whole,
    )


def _item_vectors(
    tower_pairs: Sequence[TowerPair], dataset: Dataset, world: World, protocol: Protocol, order: TieOrder
) -> torch.Tensor:
    """Gather the catalogue's candidate vectors on every rank, by place, (items, D)."""
    count, at_once = dataset.evaluated_items, protocol.chunk * world.size
    blocks = []
    for start in range(0, count, at_once):
        rows = np.arange(start, min(start + at_once, count))
        vectors = candidate_vectors(tower_pairs, rows[world.share(len(rows))], world.device)
        blocks.append(world.gather_rows(vectors, world.shares(len(rows))))
    return torch.cat(blocks)[order.rows]


def _lists(bags: Ragged, rows: np.ndarray) -> ItemLists:
    lengths, values = bags.take(rows)
    return torch.from_numpy(lengths), torch.from_numpy(values)
