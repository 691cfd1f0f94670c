"""Pairs of towers with their features; their concatenated vectors rank the catalogue."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from trainer.batching.tower_inputs import (
    USER_HISTORY,
    USER_SEQUENCE,
    USER_SEQUENCE_TIMES,
    Inputs,
    dense_values,
    keyed_jagged,
    ordered_histories,
)
from trainer.dataset.dataset import Dataset
from trainer.histories.recency import usual_gap
from trainer.histories.slots import Slots, make_slots
from trainer.histories.stretches import last_of
from trainer.model.builder import HISTORY
from trainer.model.fold_in import fold_in
from trainer.model.history_encoder import HistoryEncoder
from trainer.model.normalize import normalize
from trainer.model.towers import Gather, TwoTowers
from trainer.storage.attributes import Ragged

STRETCHES_AT_ONCE = 512
"""Ordered histories that are encoded at a time, outside of training."""
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
        slots: Slots | None = None,
        gather: Gather | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return query and candidate vectors of the learned towers, the trained ones; see `TwoTowers`."""
        partitions = query_partition, candidate_partition
        return self.learned(queries, candidates, *partitions, query_values, candidate_values, slots, gather)


def query_vectors(tower_pairs: Sequence[TowerPair], rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the query vectors of the users in `rows`, (len(rows), sum of the towers' widths)."""
    with torch.no_grad():
        return torch.cat([_query_vectors(pair, rows, device) for pair in tower_pairs], dim=1)


def candidate_vectors(
    tower_pairs: Sequence[TowerPair], rows: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Return the candidate vectors of the items in `rows`, (len(rows), sum of the towers' widths)."""
    with torch.no_grad():
        return torch.cat(
            [_vectors(pair.towers.candidates, pair.item_inputs, rows, device) for pair in tower_pairs], dim=1
        )


def context_vectors(pair: TowerPair, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the vectors that the items in `rows` have in ordered histories, (len(rows), dim)."""
    with torch.no_grad():
        tower = pair.towers.unscaled_candidates
        return pair.towers.context(_vectors(tower, pair.item_inputs, rows, device))


def as_of(tower_pairs: Sequence[TowerPair], dataset: Dataset, split: str) -> list[TowerPair]:
    """Return the same towers with the ordered histories that users have before a split."""
    return [
        replace(pair, user_inputs={**pair.user_inputs, **ordered_histories(dataset, split)})
        if USER_SEQUENCE in pair.user_inputs
        else pair
        for pair in tower_pairs
    ]


def _query_vectors(pair: TowerPair, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the query vectors of `rows` as one tower makes them; on every rank alike."""
    if pair.towers.encoder is None:
        return _vectors(pair.towers.queries, pair.user_inputs, rows, device)
    states = _states(pair, pair.towers.encoder, rows, device)
    own = torch.arange(len(rows), device=device)
    return _vectors(partial(pair.towers.queries, states=states, rows=own), pair.user_inputs, rows, device)


def _states(pair: TowerPair, encoder: HistoryEncoder, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the states of the users in `rows` after all of their ordered histories, (len(rows), dim)."""
    sequences, times = (pair.user_inputs.get(name) for name in (USER_SEQUENCE, USER_SEQUENCE_TIMES))
    assert isinstance(sequences, Ragged), "towers with an encoder have ordered histories"
    lengths, places = last_of(sequences, rows, encoder.length)
    items, of_place = np.unique(sequences.values[places], return_inverse=True)
    context = pair.towers.context(_vectors(pair.towers.unscaled_candidates, pair.item_inputs, items, device))
    moments = times.values[places] if isinstance(times, Ragged) else None
    found, ends = [], np.cumsum(lengths)
    for start in range(0, len(rows), STRETCHES_AT_ONCE):
        of_block = slice(start, start + STRETCHES_AT_ONCE)
        inside = slice(ends[start] - lengths[start], ends[of_block][-1])
        slots = make_slots(lengths[of_block], of_place[inside], None if moments is None else moments[inside])
        found.append(encoder(context, slots.to(device)))
    return torch.cat(found) if found else context.new_zeros(0, pair.towers.query.dim)


def _vectors(
    tower: Callable[..., torch.Tensor], inputs: Inputs, rows: np.ndarray, device: torch.device
) -> torch.Tensor:
    """Return the vectors of `rows` as one tower makes them."""
    values = dense_values(inputs, rows)
    return tower(keyed_jagged(inputs, rows).to(device), values=None if values is None else values.to(device))


def query_from_history(
    tower_pairs: Sequence[TowerPair],
    histories: Histories,
    item_vectors: torch.Tensor,
    attributes: Inputs | None = None,
) -> torch.Tensor:
    """Return query vectors of users who are known only by a history, (B, sum of the towers' widths).

    Towers with a table for histories, or an encoder of them, look them up. If the learned ones have user ids
    alone, a new person has no row there, and their vector is fitted instead; attributes then count as much as
    one item of the history.

    Args:
        tower_pairs: Whole towers on the device of `item_vectors`, the learned ones first.
        histories: Items of each of B people, distinct for each, the oldest first; they may be none.
        item_vectors: Vectors of the catalogue, as `candidate_vectors` returns them.
        attributes: Features of the learned query tower that are known of these people, B rows each.
    """
    learned, *closed = tower_pairs
    lengths, items = (each.cpu().numpy() for each in histories)
    own, device = Ragged(np.concatenate([[0], np.cumsum(lengths)]), items), item_vectors.device
    if {USER_HISTORY, USER_SEQUENCE} & learned.user_inputs.keys():
        first = _query_of(someone_new(learned, own, attributes), device)
    else:
        candidates = item_vectors[:, : learned.towers.output_dim].detach().cpu().numpy()
        bias = learned.towers.candidate.bias_table is not None
        first = torch.from_numpy(fold_in(own, candidates, learned.towers.unit, bias)).to(device)
        if attributes is not None:
            by_attributes = _query_of(someone_new(learned, own, attributes), device)
            first = _mean_query(learned.towers, first, by_attributes, torch.from_numpy(lengths).to(device))
    return torch.cat([first, *(_query_of(someone_new(pair, own), device) for pair in closed)], dim=1)


def _mean_query(
    towers: TwoTowers, fitted: torch.Tensor, by_attributes: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Return means of query vectors, of which the first has the weight of its history and the second of 1."""
    mean = (lengths.unsqueeze(1) * fitted + by_attributes) / (lengths.unsqueeze(1) + 1)
    if towers.unit:
        width = towers.query.dim  # a bias stays as it is
        mean = torch.cat([normalize(mean[:, :width]), mean[:, width:]], dim=1)
    return mean


def query_with_history(
    tower_pairs: Sequence[TowerPair], row: int, items: np.ndarray, times: np.ndarray | None
) -> torch.Tensor:
    """Return the query vector of a known user whose ordered history is given, (1, sum of the towers' widths).

    Args:
        tower_pairs: Whole towers on the CPU.
        row: The user, all of whose other features stay.
        items: Item rows, oldest first.
        times: Their seconds; None where there are no timestamps.
    """
    own = [one_user(pair, row, items, times) for pair in tower_pairs]
    return query_vectors(own, np.array([0]), torch.device("cpu"))


def query_from_bag(tower_pairs: Sequence[TowerPair], table: str, bag: Ragged) -> torch.Tensor:
    """Return the query vector of someone of whom nothing is known but what they look up in one learned table.

    Args:
        tower_pairs: Whole towers on the CPU, the learned ones first.
        table: Feature of the learned query tower.
        bag: What is looked up in it, one row.

    Returns:
        (1, sum of the towers' widths).
    """
    nothing = Ragged(np.zeros(2, np.int64), np.empty(0, np.int32))
    learned, *closed = tower_pairs
    own = [someone_new(learned, nothing, {table: bag}), *(someone_new(pair, nothing) for pair in closed)]
    return query_vectors(own, np.array([0]), torch.device("cpu"))


def some_users(
    pair: TowerPair, rows: np.ndarray, histories: Ragged | None = None, times: Ragged | None = None
) -> TowerPair:
    """Return a tower pair with the features of some known users alone.

    Args:
        pair: Towers.
        rows: The users, B of them.
        histories: Ordered histories in place of the users' own, B lists.
        times: Their seconds.
    """
    given = {USER_SEQUENCE: histories, USER_SEQUENCE_TIMES: times}
    inputs: dict[str, np.ndarray | Ragged] = {}
    for name, column in pair.user_inputs.items():
        if (values := given.get(name)) is not None:
            inputs[name] = values
        elif isinstance(column, Ragged):
            lengths, own = column.take(rows)
            inputs[name] = Ragged(np.append(0, np.cumsum(lengths)), own)
        else:
            inputs[name] = column[rows]
    return replace(pair, user_inputs=inputs)


def one_user(
    pair: TowerPair, row: int, items: np.ndarray | None = None, times: np.ndarray | None = None
) -> TowerPair:
    """Return a tower pair with the features of one known user, whose ordered history may be given."""
    histories, seconds = (
        None if values is None else Ragged(np.array([0, len(values)]), values) for values in (items, times)
    )
    return some_users(pair, np.array([row]), histories, seconds)


def someone_new(pair: TowerPair, histories: Ragged, given: Inputs | None = None) -> TowerPair:
    """Return a tower pair with the features of B people whom it does not know; those not given are unknown.

    Args:
        pair: Towers.
        histories: Items of each, the oldest first; they are of no use to towers without histories.
        given: Other features that are known of these people, B rows each.
    """
    known: dict[str, np.ndarray | Ragged] = {**(given or {})}
    for table in history_features(pair) - known.keys():
        known[table] = histories
    times = pair.user_inputs.get(USER_SEQUENCE_TIMES)
    if isinstance(times, Ragged):
        known[USER_SEQUENCE_TIMES] = _usual_times(histories.offsets, times)
    count = len(histories.offsets) - 1
    inputs = {  # in the order of the tables
        name: known[name] if name in known else _unknown(column, count)
        for name, column in pair.user_inputs.items()
    }
    return replace(pair, user_inputs=inputs)


def history_features(pair: TowerPair) -> set[str]:
    """Return the names of a query tower's features that are the items of users: one at most."""
    return {USER_HISTORY, USER_SEQUENCE, HISTORY} & pair.user_inputs.keys()


def _query_of(pair: TowerPair, device: torch.device) -> torch.Tensor:
    """Return the query vectors of all of a pair's users."""
    column = next(iter(pair.user_inputs.values()))
    count = len(column.offsets) - 1 if isinstance(column, Ragged) else len(column)
    return query_vectors([pair], np.arange(count), device)


def _usual_times(offsets: np.ndarray, known: Ragged) -> Ragged:
    """Return times for histories without any: one item after another, at the gap usual in known histories."""
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    return Ragged(offsets, np.round(places * usual_gap(known)).astype(np.int64))


def _unknown(column: np.ndarray | Ragged, count: int) -> np.ndarray | Ragged:
    """Repeat the last row, that of unknown users, `count` times."""
    if not isinstance(column, Ragged):
        return np.repeat(column[-1:], count, axis=0)
    lengths, values = column.take(np.full(count, len(column.offsets) - 2))
    return Ragged(np.concatenate([[0], np.cumsum(lengths)]), values)
