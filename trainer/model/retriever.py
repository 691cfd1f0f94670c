"""Towers with what they take in: the parts whose vectors, side by side, rank the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from trainer.batching.tower_inputs import USER_HISTORY, Inputs, keyed_jagged
from trainer.dataset.attributes import Ragged
from trainer.model.fold_in import fold_in
from trainer.model.towers import TwoTowers

Histories = tuple[torch.Tensor, torch.Tensor]
"""Items of each of B people: lengths (B,) and the concatenated item rows (total,), both integers."""


@dataclass(frozen=True)
class TowerPair:
    """One pair of towers and the features of its two sides; sharded, on every rank alike, or whole."""

    towers: TwoTowers
    user_inputs: Inputs
    item_inputs: Inputs


class CombinedTowers(nn.Module):
    """Learned towers, which training alone calls, and perhaps closed-form ones, sharded by the same plan."""

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
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Query and candidate vectors of the learned towers; see `TwoTowers`."""
        return self.learned(queries, candidates, query_partition, candidate_partition)


def query_vectors(tower_pairs: Sequence[TowerPair], rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Query vectors of the users in `rows`, (len(rows), sum of the parts' widths)."""
    with torch.no_grad():
        return torch.cat(
            [part.towers.queries(keyed_jagged(part.user_inputs, rows).to(device)) for part in tower_pairs],
            dim=1,
        )


def candidate_vectors(
    tower_pairs: Sequence[TowerPair], rows: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Candidate vectors of the items in `rows`, (len(rows), sum of the parts' widths)."""
    with torch.no_grad():
        return torch.cat(
            [part.towers.candidates(keyed_jagged(part.item_inputs, rows).to(device)) for part in tower_pairs],
            dim=1,
        )


def query_from_history(
    tower_pairs: Sequence[TowerPair], histories: Histories, item_vectors: torch.Tensor
) -> torch.Tensor:
    """Query vectors of people by what they have alone, (B, sum of the parts' widths).

    Towers with a table of histories look up any. Where the learned ones have a row for each user alone, which
    somebody new does not have, his vector is fitted.

    Args:
        served: whole, on the device of `item_vectors`; the learned towers first.
        histories: items of each of B people, no item twice for the same person; none: nothing is known.
        item_vectors: (items, sum of the parts' widths) of the catalogue, as `candidate_vectors` gives them.
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
    others = [_look_up(part, next(iter(part.user_inputs)), own, device) for part in closed]
    return torch.cat([first, *others], dim=1)


def _look_up(part: TowerPair, table: str, histories: Ragged, device: torch.device) -> torch.Tensor:
    """Query vectors of people of whom nothing but the history in `table` is known."""
    given: dict[str, np.ndarray | Ragged] = {table: histories}
    count = len(histories.offsets) - 1
    for name in part.user_inputs.keys() - given.keys():
        given[name] = _unknown(part.user_inputs[name], count)
    inputs = {name: given[name] for name in part.user_inputs}  # in the order of the tables
    return query_vectors([TowerPair(part.towers, inputs, part.item_inputs)], np.arange(count), device)


def _unknown(column: np.ndarray | Ragged, count: int) -> np.ndarray | Ragged:
    """The last row, that of unknown users, so many times."""
    if not isinstance(column, Ragged):
        return np.repeat(column[-1:], count)
    lengths, values = column.take(np.full(count, len(column.offsets) - 2))
    return Ragged(np.concatenate([[0], np.cumsum(lengths)]), values)
