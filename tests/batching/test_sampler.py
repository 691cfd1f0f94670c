"""Batches: what a step contains, however it is shared among ranks."""

import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests import worlds
from trainer.batching.batch import Batch
from trainer.batching.row_order import RowOrder
from trainer.batching.sampler import Batches, BatchPlan, batches
from trainer.batching.tower_inputs import item_inputs, user_inputs
from trainer.dataset.dataset import Dataset

# User 0 has items 0 to 3, user 1 items 0 and 1, user 2 item 4, user 3 items 0 to 4, user 4 only a test item.
OWNED = {0: [0, 1, 2, 3], 1: [0, 1], 2: [4], 3: [0, 1, 2, 3, 4]}
TRAIN = [(user, item) for user, items in OWNED.items() for item in items]
HELD_OUT = [(4, 5), (0, 5)]


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return worlds.dataset(tmp_path, TRAIN, HELD_OUT, [float(number) for number in range(len(TRAIN))])


PLAIN = {"rows": "user", "size": 3, "seed": 5, "candidates": "catalogue", "samples": 2}


def steps_of(data: Dataset, **plan) -> Batches:
    return Batches(data, BatchPlan(**PLAIN | plan), user_inputs(data, []), item_inputs(data, [], True))


def looked_up(batch: Batch) -> tuple[list[int], list[int]]:
    return batch.queries["user"].values().tolist(), batch.candidates["item"].values().tolist()


def pairs(batch: Batch, chosen: torch.Tensor, items: list[int]) -> set[tuple[int, int]]:
    """Chosen (row, candidate) pairs as (user, item)."""
    return set(of_pairs(chosen, looked_up(batch)[0], items))


PLANS = [
    {"rows": rows, "candidates": candidates, "mask_known": mask}
    for rows in ("user", "interaction")
    for candidates in ("catalogue", "in_batch", "sampled", "own")
    for mask in (True, False)
    if rows == "interaction" or (mask and candidates != "own")
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "-".join(map(str, plan.values())))
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_batches_of_all_ranks_together_are_the_batch_of_a_world_of_one(data, plan, world_size) -> None:
    source = steps_of(data, **plan)
    for step in range(2 * source.steps_per_epoch):  # the last of an epoch has fewer rows than 4 ranks
        whole, parts = source.make(step), [source.make(step, rank, world_size) for rank in range(world_size)]
        for side in (0, 1):
            assert [id_ for part in parts for id_ in looked_up(part)[side]] == looked_up(whole)[side]
        for name in ("positives", "seen"):
            first_row, shifted = 0, []
            for part in parts:
                shifted.append(getattr(part, name) + torch.tensor([[first_row], [0]]))
                first_row += part.queries.stride()
            assert torch.equal(torch.cat(shifted, 1), getattr(whole, name)), name
        assert torch.equal(torch.cat([part.weights for part in parts]), whole.weights)
        if whole.values is not None:
            assert torch.equal(torch.cat([part.values for part in parts]), whole.values)
        for part in parts:
            assert (part.rows, part.interactions) == (whole.rows, whole.interactions)
            assert sum(part.candidate_counts) == sum(whole.candidate_counts)
            assert part.queries.stride() == len(part.weights)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "-".join(map(str, plan.values())))
@pytest.mark.parametrize(("user_block", "item_block"), [(3, 4), (3, 0), (0, 4), (6, 7)], ids=str)
def test_ranks_take_the_rows_of_their_users_and_look_up_their_items(
    data, plan, user_block, item_block
) -> None:
    # Ranks 0 and 1 have users 0 to 2 and 3 to 5, items 0 to 3 and 4 to 6; in the last case rank 0 has all.
    alone = steps_of(data, **plan)
    source = steps_of(data, **plan, user_block=user_block, item_block=item_block)
    for step in range(2 * source.steps_per_epoch):
        whole, parts = alone.make(step), [source.make(step, rank, 2) for rank in range(2)]
        gathered = [item for part in parts for item in looked_up(part)[1]]
        found = [row for part in parts for row in observed(part, gathered)]
        assert sorted(found) == sorted(observed(whole, looked_up(whole)[1]))
        for rank, part in enumerate(parts):
            users, items = looked_up(part)
            assert part.query_partition == (rank if user_block else None)
            assert part.candidate_partition == (rank if item_block else None)
            assert {user // user_block for user in users if user_block} <= {rank}
            assert {item // item_block for item in items if item_block} <= {rank}
            assert (part.rows, part.interactions) == (whole.rows, whole.interactions)
            if part.candidate_counts:
                assert part.candidate_counts == [len(looked_up(other)[1]) for other in parts]


RANKING = [plan for plan in PLANS if plan["candidates"] != "own"]


@pytest.mark.parametrize("plan", RANKING, ids=lambda plan: "-".join(map(str, plan.values())))
@pytest.mark.parametrize(
    ("user_block", "item_block", "history"),
    [(0, 0, False), (3, 4, False), (6, 7, False), (0, 0, True)],
    ids=["contiguous", "by table rows", "all on one rank", "histories"],
)
def test_ranks_that_gather_rows_score_their_candidates_for_all_of_them(
    data, plan, user_block, item_block, history
) -> None:
    cut = {"rows_gathered": True, "user_block": user_block, "item_block": item_block}
    users = user_inputs(data, [], history=history)
    alone, source = (
        Batches(data, BatchPlan(**PLAIN | plan | extra), users, item_inputs(data, [], True))
        for extra in ({}, cut)
    )
    for step in range(2 * source.steps_per_epoch):
        whole, parts = alone.make(step), [source.make(step, rank, 2) for rank in range(2)]
        order = [user for part in parts for user in looked_up(part)[0]]
        for name in ("positives", "seen"):
            expected = of_pairs(getattr(whole, name), *looked_up(whole))
            found = [
                pair for part in parts for pair in of_pairs(getattr(part, name), order, looked_up(part)[1])
            ]
            assert sorted(found) == sorted(expected), name
        items = [item for part in parts for item in looked_up(part)[1]]
        assert sorted(items) == sorted(looked_up(whole)[1])
        counts = torch.bincount(torch.cat([part.positives[0] for part in parts]), minlength=len(order))
        if history:  # whose rows keep their order
            assert [shown for part in parts for shown in histories(part)] == histories(whole)
        for part in parts:
            assert torch.equal(part.positive_counts, counts)
            assert part.query_counts == [other.queries.stride() for other in parts]
            assert dict(zip(order, part.weights.tolist(), strict=True)) == dict(
                zip(looked_up(whole)[0], whole.weights.tolist(), strict=True)
            )


def of_pairs(chosen: torch.Tensor, users: list[int], items: list[int]) -> list[tuple[int, int]]:
    """The same, one after another, of rows whose users are given."""
    return [(users[row], items[column]) for row, column in chosen.T.tolist()]


def histories(batch: Batch) -> list[tuple[int, list[int]]]:
    """What each row's user is shown to have."""
    bags = batch.queries["user_history"]
    parts = bags.values().split(bags.lengths().tolist())
    return list(zip(looked_up(batch)[0], [part.tolist() for part in parts], strict=True))


def observed(batch: Batch, candidates: list[int]) -> list[tuple[int, int, float]]:
    """User, item and value of what a batch learns from."""
    users, items = looked_up(batch)
    if batch.values is None:
        return [(users[row], candidates[column], 0.0) for row, column in batch.positives.T.tolist()]
    if batch.candidate_counts:
        items = [candidates[column] for column in batch.positives[1].tolist()]
    return list(zip(users, items, batch.values.tolist(), strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_rank_takes_the_same_number_of_steps_even_without_rows(data, world_size) -> None:
    source = steps_of(data)  # 4 rows in steps of 3: the second step has one row
    taken = [list(batches(source, 4, rank, world_size)) for rank in range(world_size)]
    assert [len(steps) for steps in taken] == [4] * world_size
    rows = [[steps[step].queries.stride() for steps in taken] for step in range(4)]
    assert [sum(counts) for counts in rows] == [3, 1, 3, 1]
    assert [taken[0][step].rows for step in range(4)] == [3, 1, 3, 1]


@pytest.mark.parametrize(("rows", "count"), [("user", 4), ("interaction", len(TRAIN))])
@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_an_epoch_visits_every_row_once(data, rows, count, size) -> None:
    source = steps_of(data, rows=rows, size=size)
    for epoch in range(2):
        steps = range(epoch * source.steps_per_epoch, (epoch + 1) * source.steps_per_epoch)
        visited = np.concatenate([source.rows_of_step(step) for step in steps])
        assert sorted(visited.tolist()) == list(range(count))
        positives = [
            pair for step in steps for pair in pairs(source.make(step), source.make(step).positives, range(6))
        ]
        assert sorted(positives) == sorted((user, item) for user, item in TRAIN)


def test_the_order_of_an_epoch_takes_four_bytes_a_row_and_goes_with_the_epoch(data) -> None:
    source = steps_of(data, rows="interaction")
    order = weakref.ref(source.rows_of_step(0).base)
    assert order().nbytes == 4 * len(TRAIN)
    assert source.rows_of_step(1).base is order()  # the same epoch
    source.rows_of_step(source.steps_per_epoch)
    assert order() is None


def test_orders_differ_between_epochs_and_seeds_but_not_between_runs(data) -> None:
    plan = {"rows": "interaction", "size": 12}  # an epoch is one step
    orders = [steps_of(data, **plan, seed=seed).rows_of_step(epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    again = [steps_of(data, **plan, seed=seed).rows_of_step(epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert np.array_equal(orders, again)


def test_starting_late_gives_the_very_batches_of_an_unbroken_run(data) -> None:
    source = steps_of(data, candidates="sampled")
    unbroken = list(batches(source, 6, 0, 1))[4:]
    for late, expected in zip(
        batches(steps_of(data, candidates="sampled"), 6, 0, 1, 4), unbroken, strict=True
    ):
        assert looked_up(late) == looked_up(expected)
        assert torch.equal(late.positives, expected.positives)
        assert torch.equal(late.log_q, expected.log_q)


def test_a_user_row_has_all_of_its_positives_and_nothing_else_is_seen(data) -> None:
    batch = steps_of(data, size=4).make(0)
    assert pairs(batch, batch.positives, range(6)) == set(TRAIN)
    assert torch.equal(batch.seen, batch.positives)
    assert (batch.rows, batch.interactions) == (4, len(TRAIN))


def test_an_interaction_row_masks_what_else_its_user_has(data) -> None:
    for step in range(4):
        batch = steps_of(data, rows="interaction").make(step)
        users = looked_up(batch)[0]
        assert batch.positives.shape == (2, 3)
        assert pairs(batch, batch.positives, range(6)) <= set(TRAIN)
        found = sorted(batch.seen.T.tolist())
        assert found == sorted([row, item] for row, user in enumerate(users) for item in OWNED[user])


def test_without_masking_only_the_positive_itself_is_seen(data) -> None:
    batch = steps_of(data, rows="interaction", mask_known=False).make(0)
    assert torch.equal(batch.seen, batch.positives)
    assert batch.seen.shape == (2, 3)


@pytest.mark.parametrize("candidates", ["in_batch", "sampled"])
def test_seen_pairs_are_only_those_in_the_candidate_set(data, candidates) -> None:
    source = steps_of(data, rows="interaction", candidates=candidates, size=2)
    for step in range(12):
        batch = source.make(step)
        users, items = looked_up(batch)
        expected = {(user, item) for user in users for item in OWNED[user] if item in items}
        assert pairs(batch, batch.seen, items) == expected
        assert pairs(batch, batch.positives, items) <= expected


@pytest.mark.parametrize("power", [0.0, 0.4, 1.0])
def test_user_weights_grow_with_the_number_of_positives_and_average_to_one(data, power) -> None:
    batch = steps_of(data, size=4, user_weight_power=power).make(0)
    users = looked_up(batch)[0]
    found = dict(zip(users, batch.weights.tolist(), strict=True))
    mean = (4**power + 2**power + 1 + 5**power) / 4
    expected = {0: 4**power / mean, 1: 2**power / mean, 2: 1 / mean, 3: 5**power / mean}
    assert found == pytest.approx(expected)
    assert float(batch.weights.mean()) == pytest.approx(1)


def test_interactions_weigh_alike(data) -> None:
    assert steps_of(data, rows="interaction", user_weight_power=1.0).make(0).weights.tolist() == [1, 1, 1]


def test_pointwise_losses_get_each_rows_item_and_value(data) -> None:
    batch = steps_of(data, rows="interaction", candidates="own", size=12).make(0)
    users, items = looked_up(batch)
    value_of = {pair: float(number) for number, pair in enumerate(TRAIN)}
    assert batch.values.tolist() == [value_of[pair] for pair in zip(users, items, strict=True)]
    assert sorted(batch.values.tolist()) == [float(number) for number in range(len(TRAIN))]
    assert batch.candidate_counts == []


def test_data_without_values_give_none(tmp_path: Path) -> None:
    data = worlds.dataset(tmp_path, TRAIN, HELD_OUT)
    assert steps_of(data, rows="interaction", candidates="own").make(0).values is None


def test_a_user_without_training_items_makes_no_row(data) -> None:
    source = steps_of(data)
    users = [user for step in range(source.steps_per_epoch) for user in looked_up(source.make(step))[0]]
    assert sorted(users) == [0, 1, 2, 3]


def test_raw_ids_and_the_order_of_the_file_do_not_enter(tmp_path: Path) -> None:
    named = [(f"u{user}", f"i{item}") for user, item in TRAIN]
    one = worlds.dataset(tmp_path / "one", TRAIN, HELD_OUT)
    two = worlds.dataset(tmp_path / "two", named, [("u4", "i5"), ("u0", "i5")])
    assert pa.types.is_string(two.user_ids.type)
    for step in range(4):
        first, second = steps_of(one).make(step), steps_of(two).make(step)
        assert looked_up(first) == looked_up(second)
        assert torch.equal(first.positives, second.positives)


def test_a_row_without_a_positive_is_refused(data) -> None:
    source = steps_of(data, size=5)
    # As if user 4, who has no training item, made a row.
    source.row_users, source.row_order = np.arange(5), RowOrder(5, size=5, seed=0)
    with pytest.raises(ValueError, match="step 0: user row 4 has no positive"):
        source.make(0)
