"""Pairs of towers with their features; their concatenated vectors rank the catalogue."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from trainer.batching.tower_inputs import USER_HISTORY, Inputs, dense_values, keyed_jagged
from trainer.model.fold_in import fold_in
from trainer.model.towers import TwoTowers
from trainer.storage.attributes import Ragged

Histories = tuple[torch.Tensor, torch.Tensor]
"""Items of each of B people: lengths, (B,), and the concatenated item rows, both integers."""


@dataclass(frozen=True)
class TowerPair:
    """One query and candidate tower with their features; sharded on all ranks, or whole."""

    towers: TwoTowers
    user_inputs: Inputs
    item_inputs: Inputs


class CombinedTowers(nn.Module):
    """The learned towers, and the closed-form ones if there are any, so that one plan shards both."""

    def __init__(self, learned: TwoTowers, closed: TwoTowers | None = None) -> None:
        super().__init__()
        self.learned = learned
        self.closed = closed

    def forward(
        self,
        queries: KeyedJaggedTensor,
        candidates: KeyedJaggedTensor,
        query_partition: int | None = None,
        candidate_partition: int | None = None,
        query_values: torch.Tensor | None = None,
        candidate_values: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return query and candidate vectors of the learned towers, the trained ones; see `TwoTowers`."""
        partitions = query_partition, candidate_partition
        return self.learned(queries, candidates, *partitions, query_values, candidate_values)


def query_vectors(tower_pairs: Sequence[TowerPair], rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the query vectors of the users in `rows`, (len(rows), sum of the towers' widths)."""
    with torch.no_grad():
        looked_up = [(pair.towers.queries, pair.user_inputs) for pair in tower_pairs]
        return torch.cat([_vectors(tower, inputs, rows, device) for tower, inputs in looked_up], dim=1)


def candidate_vectors(
    tower_pairs: Sequence[TowerPair], rows: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Return the candidate vectors of the items in `rows`, (len(rows), sum of the towers' widths)."""
    with torch.no_grad():
        looked_up = [(pair.towers.candidates, pair.item_inputs) for pair in tower_pairs]
        return torch.cat([_vectors(tower, inputs, rows, device) for tower, inputs in looked_up], dim=1)


def _vectors(
    tower: Callable[..., torch.Tensor], inputs: Inputs, rows: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Return the vectors of `rows` as one tower makes them."""
    values = dense_values(inputs, rows)
    return tower(keyed_jagged(inputs, rows).to(device), values=None if values is None else values.to(device))


def query_from_history(
    tower_pairs: Sequence[TowerPair], histories: Histories, item_vectors: torch.Tensor
) -> torch.Tensor:
    """Return query vectors of users who are known only by a history, (B, sum of the towers' widths).

    Towers with a table for histories look it up. If the learned ones have user ids alone, a new person has no
    row there, and their vector is fitted instead.

    Args:
        tower_pairs: Whole towers on the device of `item_vectors`, the learned ones first.
        histories: Items of each of B people, distinct for each; they may be none.
        item_vectors: Vectors of the catalogue, as `candidate_vectors` returns them.
    """
    learned, *closed = tower_pairs
    lengths, items = (each.cpu().numpy() for each in histories)
    own, device = Ragged(np.concatenate([[0], np.cumsum(lengths)]), items), item_vectors.device
    if USER_HISTORY in learned.user_inputs:
        first = _look_up(learned, USER_HISTORY, own, device)
    else:
        candidates = item_vectors[:, : learned.towers.output_dim].detach().cpu().numpy()
        bias = learned.towers.candidate.bias_table is not None
        first = torch.from_numpy(fold_in(own, candidates, learned.towers.unit, bias)).to(device)
    others = [_look_up(pair, next(iter(pair.user_inputs)), own, device) for pair in closed]
    return torch.cat([first, *others], dim=1)


def query_from_bag(tower_pairs: Sequence[TowerPair], table: str, bag: Ragged) -> torch.Tensor:
    """Return the query vector of someone of whom nothing is known but what they look up in one learned table.

    Args:
        tower_pairs: Whole towers on the CPU, the learned ones first.
        table: Feature of the learned query tower.
        bag: What is looked up in it, one row.

    Returns:
        (1, sum of the towers' widths).
    """
    learned, *closed = tower_pairs
    nothing, device = Ragged(np.zeros(2, np.int64), np.empty(0, np.int32)), torch.device("cpu")
    others = [_look_up(pair, next(iter(pair.user_inputs)), nothing, device) for pair in closed]
    return torch.cat([_look_up(learned, table, bag, device), *others], dim=1)


def _look_up(pair: TowerPair, table: str, histories: Ragged, device: torch.device) -> torch.Tensor:
    """Return query vectors of users who are known only by the bags in `table`."""
    given: dict[str, np.ndarray | Ragged] = {table: histories}
    count = len(histories.offsets) - 1
    for name in pair.user_inputs.keys() - given.keys():
        given[name] = _unknown(pair.user_inputs[name], count)
    inputs = {name: given[name] for name in pair.user_inputs}  # in the order of the tables
    return query_vectors([TowerPair(pair.towers, inputs, pair.item_inputs)], np.arange(count), device)


def _unknown(column: np.ndarray | Ragged, count: int) -> np.ndarray | Ragged:
    """Repeat the last row, that of unknown users, `count` times."""
    if not isinstance(column, Ragged):
        return np.repeat(column[-1:], count, axis=0)
    lengths, values = column.take(np.full(count, len(column.offsets) - 2))
    return Ragged(np.concatenate([[0], np.cumsum(lengths)]), values)
