"""Rows that are positions of ordered histories: what they look up, what they predict, and what is masked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import worlds
from trainer.batching.batch import Batch
from trainer.batching.next_rows import MASKED_PLACES, NextBatches
from trainer.batching.sampler import BatchPlan
from trainer.batching.tower_inputs import item_inputs, user_inputs
from trainer.dataset.dataset import Dataset

# The last item of each user is the test split's: users train on 4, 2 and 1 items, in this order.
HISTORIES = {
    100: [13, 11, 14, 12, 10],
    101: [10, 14, 15],
    102: [12, 11],
    103: [15],
}  # who has one item keeps it
PLAIN = {"rows": "next", "size": 2, "seed": 5, "candidates": "catalogue", "samples": 2, "history_length": 2}


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return worlds.ordered_dataset(tmp_path, HISTORIES)


def steps_of(data: Dataset, **plan) -> NextBatches:
    return NextBatches(data, BatchPlan(**PLAIN | plan), user_inputs(data, []), item_inputs(data, [], True))


def rows_of(batches: list[Batch], data: Dataset, items: list[int]) -> list[tuple]:
    """Every row as (user, items before it, item that it predicts, items that are no negatives), as raw ids.

    Args:
        batches: Of all ranks.
        data: Of which they are.
        items: Rows of the step's candidates.
    """
    users, names = data.user_ids.to_pylist(), data.item_ids.to_pylist()
    raw, found = [names[item] for item in items], []
    for batch in batches:
        assert batch.slots is not None
        width = batch.slots.items.shape[1]
        for row, state in enumerate(batch.slots.rows.tolist()):
            stretch, before = divmod(state, width + 1)
            shown = batch.slots.items[stretch, :before].tolist()
            found.append(
                (
                    users[int(batch.queries["user"].values()[stretch])],
                    tuple(raw[item] for item in shown),
                    *[raw[item] for item in batch.positives[1][batch.positives[0] == row].tolist()],
                    tuple(sorted(raw[item] for item in batch.seen[1][batch.seen[0] == row].tolist())),
                )
            )
    return found


def step_of(source: NextBatches, data: Dataset, step: int, world_size: int = 1) -> list[tuple]:
    """The rows of a step over all ranks."""
    parts = [source.make(step, rank, world_size) for rank in range(world_size)]
    return rows_of(parts, data, [int(item) for part in parts for item in part.candidates["item"].values()])


def epoch_of(source: NextBatches, data: Dataset) -> list[tuple]:
    return sorted(row for step in range(source.steps_per_epoch) for row in step_of(source, data, step))


def test_a_row_predicts_each_training_item_from_those_before_it_and_leaves_the_users_others_out(data) -> None:
    assert epoch_of(steps_of(data), data) == [
        (100, (), 13, (11, 12, 13, 14)),
        (100, (13,), 11, (11, 12, 13, 14)),
        # A second stretch begins here: with a length of 2, it shows the two items before it.
        (100, (13, 11), 14, (11, 12, 13, 14)),
        (100, (13, 11, 14), 12, (11, 12, 13, 14)),
        (101, (), 10, (10, 14)),
        (101, (10,), 14, (10, 14)),
        (102, (), 12, (12,)),
        (103, (), 15, (15,)),
    ]


def test_where_known_items_are_not_masked_only_the_positive_is_no_negative(data) -> None:
    assert [row[3] for row in epoch_of(steps_of(data, mask_known=False), data)] == [
        *((13,), (11,), (14,), (12,)),
        *((10,), (14,)),
        (12,),
        (15,),
    ]


@pytest.mark.parametrize("candidates", ["catalogue", "in_batch", "sampled"])
@pytest.mark.parametrize("mask_known", [True, False])
def test_a_row_never_has_its_target_among_its_negatives_but_always_as_a_positive(
    candidates: str, mask_known: bool, data
) -> None:
    source = steps_of(data, candidates=candidates, mask_known=mask_known)
    for step in range(3 * source.steps_per_epoch):
        for _, _, target, masked in step_of(source, data, step):
            assert target in masked
            assert mask_known or masked == (target,)


@pytest.mark.parametrize("candidates", ["catalogue", "in_batch", "sampled"])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_batches_of_all_ranks_together_are_the_batch_of_a_world_of_one(
    candidates: str, world_size: int, data
) -> None:
    source = steps_of(data, candidates=candidates, vector_dropout=0.5)
    for step in range(3 * source.steps_per_epoch):
        assert step_of(source, data, step, world_size) == step_of(source, data, step)
        alone, parts = source.make(step), [source.make(step, rank, world_size) for rank in range(world_size)]
        assert all(part.rows == alone.rows for part in parts)
        for name in ("log_q", "weights"):
            whole, shares = getattr(alone, name), [getattr(part, name) for part in parts]
            if whole is not None and name == "weights":
                assert torch.equal(torch.cat(shares), whole)
            elif whole is not None:
                assert all(torch.equal(share, whole) for share in shares)
        kept = [part.slots.factors[slots_of(part)] for part in parts]
        assert torch.equal(torch.cat(kept), alone.slots.factors[slots_of(alone)])


def slots_of(batch: Batch) -> torch.Tensor:
    """Which slots are filled, as far as rows look at them."""
    assert batch.slots is not None
    width = batch.slots.items.shape[1]
    filled = torch.zeros(batch.slots.items.shape, dtype=torch.bool)
    for state in batch.slots.rows.tolist():
        stretch, before = divmod(state, width + 1)
        filled[stretch, :before] = True
    return filled


def test_users_in_blocks_go_to_the_rank_of_their_block(data) -> None:
    source = steps_of(data, user_block=2)
    for step in range(source.steps_per_epoch):
        for rank in (0, 1):
            users = source.make(step, rank, 2).queries["user"].values()
            assert (users // 2 == rank).all()


def test_candidates_have_the_chance_that_their_stretches_give_them(data) -> None:
    # Stretches 13 11 | 13 11 14 12 | 10 14 | 12 | 15, two of them a step: 10 of 1 stretch is in 2 steps of 5,
    # and 14 of 2 is in all but those that take two of the other three. The last step of an epoch has one.
    source = steps_of(data, candidates="in_batch")
    stretches = {10: 1, 15: 1} | dict.fromkeys((11, 12, 13, 14), 2)
    of_two = {1: 2 / 5, 2: 1 - 3 / 5 * 2 / 4}
    for step in range(2 * source.steps_per_epoch):
        batch = source.make(step)
        is_last = step % source.steps_per_epoch == source.steps_per_epoch - 1
        names = [data.item_ids[int(item)].as_py() for item in batch.candidates["item"].values()]
        for name, log_q in zip(names, batch.log_q.tolist(), strict=True):
            chance = stretches[name] / 5 if is_last else of_two[stretches[name]]
            # All factors are taken at the middle one, see `_log_absent_from_rows`.
            assert np.exp(log_q) == pytest.approx(chance, abs=0.03)


@pytest.mark.parametrize("candidates", ["catalogue", "sampled"])
def test_a_batch_of_a_very_long_history_is_as_large_as_that_of_a_short_one(
    candidates: str, tmp_path: Path
) -> None:
    def elements(items: int) -> int:
        folder = tmp_path / str(items)
        data = worlds.ordered_dataset(folder, {1: range(items), 2: range(items, items + 500)})
        source = steps_of(data, size=2, candidates=candidates, samples=20, history_length=5)
        largest = 0
        for step in range(0, source.steps_per_epoch, max(1, source.steps_per_epoch // 20)):
            batch = source.make(step)
            assert batch.slots is not None
            counts = [batch.slots.items.numel(), batch.slots.rows.numel(), batch.seen.numel()]
            largest = max(largest, sum(counts) + batch.positives.numel() + batch.queries.values().numel())
        return largest

    # Two stretches of 5 rows: 9 slots each, 2 x 201 pairs of no negatives a row, and some numbers a row.
    assert elements(3_000) <= elements(500) <= 2 * (9 + 5 * (2 * (2 * MASKED_PLACES + 1) + 4))


def test_a_row_leaves_out_what_lies_so_many_places_around_it_and_no_more(tmp_path: Path) -> None:
    items = list(range(1000, 1000 + 4 * MASKED_PLACES))
    data = worlds.ordered_dataset(tmp_path, {1: [*items, 5]})
    rows = epoch_of(steps_of(data, size=100), data)
    assert [row[2] for row in rows] == items
    for place, (_, _, target, masked) in enumerate(rows):
        around = items[max(place - MASKED_PLACES, 0) : place + MASKED_PLACES + 1]
        assert masked == tuple(around), target


def test_a_row_weighs_what_the_interaction_that_it_predicts_does(tmp_path: Path) -> None:
    data = worlds.ordered_dataset(tmp_path, HISTORIES, weight=lambda user, item: user % 10 + item)
    source = steps_of(data, size=100)
    names, users = data.item_ids.to_pylist(), data.user_ids.to_pylist()
    batch = source.make(0)
    assert batch.slots is not None
    items = [int(item) for item in batch.candidates["item"].values()]
    expected = [
        users[int(batch.queries["user"].values()[stretch])] % 10 + names[items[target]]
        for stretch, target in zip(batch.slots.stretches.tolist(), batch.positives[1].tolist(), strict=True)
    ]
    weights = np.array(expected) / np.mean(expected)  # 1 on average
    assert batch.weights.tolist() == pytest.approx(weights.tolist(), rel=1e-5)
