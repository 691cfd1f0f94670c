"""What each item of one user's past has given to the query vector, where that is a sum over the past."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from trainer.batching.tower_inputs import USER_SEQUENCE, USER_SEQUENCE_TIMES, dense_values, keyed_jagged
from trainer.histories.slots import make_slots
from trainer.histories.stretches import last_of
from trainer.model.retriever import TowerPair, history_features
from trainer.storage.attributes import Ragged

Parts = tuple[np.ndarray, np.ndarray]
"""Item rows, (n,), and what each has given to the query vector, (n, width of the towers)."""


def query_parts(tower_pairs: Sequence[TowerPair], past: np.ndarray) -> np.ndarray:
    """Return what the items of the past of one user have given to the query vector.

    Towers with dense layers or with attention make no sum of a history: all their parts are zero, as are
    those of towers without histories.

    Args:
        tower_pairs: Whole towers with the features of one user, as `one_user` and `someone_new` return them.
        past: (n,) item rows, each once, all of the histories' among them.

    Returns:
        (n, sum of the towers' widths) float32.
    """
    found = []
    place = {item: number for number, item in enumerate(past.tolist())}
    with torch.no_grad():
        for pair in tower_pairs:
            parts = np.zeros((len(past), pair.towers.output_dim), np.float32)
            for items, own in _parts(pair):
                np.add.at(parts[:, : own.shape[1]], [place[item] for item in items.tolist()], own)
            found.append(parts)
    return np.concatenate(found, axis=1)


def known_items(tower_pairs: Sequence[TowerPair]) -> np.ndarray:
    """Return the rows of the items in the histories of one user, each once, ascending."""
    histories = [np.empty(0, np.int64)]
    for pair in tower_pairs:
        for name in history_features(pair):
            column = pair.user_inputs[name]
            assert isinstance(column, Ragged)
            histories.append(column.values.astype(np.int64))
    return np.unique(np.concatenate(histories))


def _parts(pair: TowerPair) -> list[Parts]:
    """Return the parts of one tower's history; none where it makes no sum of it."""
    names, towers = history_features(pair), pair.towers
    if not names or towers.query.dense is not None:
        return []
    encoder = towers.encoder
    if encoder is not None and encoder.attention is not None:
        return []
    column = pair.user_inputs[names.pop()]
    assert isinstance(column, Ragged)
    if not len(column.values):
        return []
    items, with_each, without, whole = _of_bag(pair) if encoder is None else _of_sequence(pair)
    # All that the vectors have in common falls out of the difference.
    parts = with_each - without
    if towers.unit:
        parts = parts / torch.linalg.vector_norm(whole, dim=1, keepdim=True).clamp(min=1e-12)
    return [(items, parts.numpy())]


def _of_bag(pair: TowerPair) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return items, and unscaled vectors: of each item alone with its weight, of none, and of all."""
    (name,) = history_features(pair)
    column = pair.user_inputs[name]
    assert isinstance(column, Ragged)
    items = np.asarray(column.values)

    def vectors(bags: Ragged) -> torch.Tensor:
        count = len(bags.offsets) - 1
        inputs = {**pair.user_inputs, name: bags}
        own = {key: _repeated(each, count) if key != name else each for key, each in inputs.items()}
        values, rows = dense_values(own, np.arange(count)), np.arange(count)
        return pair.towers.query(keyed_jagged(own, rows), values=values).vectors

    none = vectors(Ragged(np.zeros(2, np.int64), items[:0]))
    each = vectors(Ragged(np.arange(len(items) + 1), items))
    # A bag of n is the sum of its rows over the root of n.
    return items, none + (each - none) / len(items) ** 0.5, none, vectors(column)


def _of_sequence(pair: TowerPair) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the same of an ordered history, whose state is linear in the vectors of its items."""
    towers, encoder = pair.towers, pair.towers.encoder
    assert encoder is not None
    sequence, times = pair.user_inputs[USER_SEQUENCE], pair.user_inputs.get(USER_SEQUENCE_TIMES)
    assert isinstance(sequence, Ragged)
    _, places = last_of(sequence, np.array([0]), encoder.length)
    items, count = np.asarray(sequence.values[places]), len(places)
    unscaled = towers.unscaled_candidates(
        keyed_jagged(pair.item_inputs, items), values=dense_values(pair.item_inputs, items)
    )
    context = towers.context(unscaled)
    # One stretch for each item, in which it alone has a value; then one of none and one of all.
    chosen = np.concatenate([np.eye(count), np.zeros((1, count)), np.ones((1, count))])
    stretches = len(chosen)
    moments = np.tile(times.values[places], stretches) if isinstance(times, Ragged) else None
    slots = make_slots(np.full(stretches, count), np.tile(np.arange(count), stretches), moments)
    factors = torch.from_numpy(chosen.astype(np.float32)).unsqueeze(2)
    states = encoder(context, replace(slots, factors=factors))
    rows = np.zeros(1, np.int64)
    vectors = towers.query(
        keyed_jagged(pair.user_inputs, rows),
        values=dense_values(pair.user_inputs, rows),
        states=states,
        rows=torch.zeros(stretches, dtype=torch.int64),
    ).vectors
    return items, vectors[:count], vectors[count : count + 1], vectors[count + 1 :]


def _repeated(column: np.ndarray | Ragged, count: int) -> np.ndarray | Ragged:
    """Return the only row of a feature `count` times."""
    if not isinstance(column, Ragged):
        return np.repeat(column, count, axis=0)
    lengths, values = column.take(np.zeros(count, np.int64))
    return Ragged(np.append(0, np.cumsum(lengths)), values)
