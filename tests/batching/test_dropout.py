"""A learned history: what a step hides of it, and what the towers look up when nothing is hidden."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import worlds
from trainer.batching.batch import Batch
from trainer.batching.dropout import split_history
from trainer.batching.sampler import Batches, BatchPlan
from trainer.batching.tower_inputs import item_inputs, user_inputs
from trainer.dataset.dataset import Dataset
from trainer.model.retriever import query_vectors
from trainer.runs.run_folder import open_run

# User 0 has items 0 to 3, user 1 items 0 and 1, user 2 item 4, user 3 items 0 to 4, user 4 only a test item.
OWNED = {0: [0, 1, 2, 3], 1: [0, 1], 2: [4], 3: [0, 1, 2, 3, 4]}
TRAIN = [(user, item) for user, items in OWNED.items() for item in items]
HELD_OUT = [(4, 5), (0, 5)]

KINDS = [
    {"rows": "user"},
    {"rows": "user", "candidates": "in_batch"},
    {"rows": "interaction", "candidates": "sampled"},
    {"rows": "interaction", "candidates": "own"},
]


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return worlds.dataset(tmp_path, TRAIN, HELD_OUT, [float(number) for number in range(len(TRAIN))])


def steps_of(data: Dataset, **plan) -> Batches:
    settings = {"rows": "user", "size": 3, "seed": 5, "candidates": "catalogue", "samples": 2} | plan
    return Batches(
        data, BatchPlan(**settings), user_inputs(data, [], history=True), item_inputs(data, [], True)
    )


def shown(batch: Batch) -> list[list[int]]:
    """Items that each row looks up."""
    return [bag.tolist() for bag in batch.queries["user_history"].to_dense()]


def by_row(batch: Batch, pairs: torch.Tensor) -> list[list[int]]:
    """Items of (row, candidate) pairs, by row; without dropout an item's own id is looked up."""
    items = batch.candidates["item"].values()
    found: list[list[int]] = [[] for _ in range(batch.queries.stride())]
    for row, column in pairs.T.tolist():
        found[row].append(int(items[column]))
    return found


def test_an_item_is_hidden_by_its_draw_and_one_of_each_row_in_any_case() -> None:
    history = np.array([3, 0, 2]), np.array([10, 11, 12, 20, 21])
    draws = np.array([0.1, 0.6, 0.4, 0.9, 0.8])
    found = split_history(history, 0.5, draws)
    assert [part.tolist() for part in found.shown] == [[1, 0, 1], [11, 20]]
    assert [part.tolist() for part in found.hidden] == [
        [2, 0, 1],
        [10, 12, 21],
    ]  # 0.8 is the third row's least
    own = split_history(history, 0.5, draws, own=np.array([11, 0, 20]))
    assert [part.tolist() for part in own.shown] == [[0, 0, 1], [21]]
    assert [part.tolist() for part in own.hidden] == [[3, 0, 1], [10, 11, 12, 20]]


@pytest.mark.parametrize("candidates", ["catalogue", "in_batch", "sampled"])
def test_a_user_rows_positives_are_the_hidden_items_and_all_its_items_are_seen(
    data: Dataset, candidates: str
) -> None:
    source = steps_of(data, candidates=candidates)
    for step in range(20):
        batch = source.make(step)
        users = batch.queries["user"].values().tolist()
        for user, visible, wanted, seen in zip(
            users, shown(batch), by_row(batch, batch.positives), by_row(batch, batch.seen), strict=True
        ):
            assert len(wanted) >= 1
            assert sorted(visible + wanted) == OWNED[user]  # each item once, on one side
            assert sorted(seen) == OWNED[user]


@pytest.mark.parametrize("candidates", ["catalogue", "own"])
def test_an_interaction_row_never_sees_its_own_item(data: Dataset, candidates: str) -> None:
    source, whole = steps_of(data, rows="interaction", candidates=candidates), 0
    for step in range(40):
        batch = source.make(step)
        users, rows = batch.queries["user"].values().tolist(), source.rows_of_step(step)
        for user, visible, own in zip(users, shown(batch), data.train.items[rows].tolist(), strict=True):
            assert set(visible) <= set(OWNED[user]) - {own}
            whole += set(visible) == set(OWNED[user]) - {own}
    assert 0 < whole < 40 * 3  # others are hidden too, but not always


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_items_are_hidden_with_the_given_chance(data: Dataset, share: float) -> None:
    source, hidden = steps_of(data, size=4, history_dropout=share), np.zeros(5)
    steps = 2000
    for step in range(steps):
        batch = source.make(step)
        row = batch.queries["user"].values().tolist().index(3)
        hidden[by_row(batch, batch.positives)[row]] += 1
    # Each of 5 items by chance `share`, or, where none is, one of them.
    expected = share + (1 - share) ** 5 / 5
    tolerance = 5 * np.sqrt(expected * (1 - expected) / steps)
    assert hidden / steps == pytest.approx(np.full(5, expected), abs=tolerance)


@pytest.mark.parametrize("plan", KINDS, ids=lambda plan: "-".join(plan.values()))
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_all_ranks_together_hide_what_one_rank_would(data: Dataset, plan: dict, world_size: int) -> None:
    source = steps_of(data, **plan, item_id_dropout=0.5)
    for step in range(2 * source.steps_per_epoch):
        whole, parts = source.make(step), [source.make(step, rank, world_size) for rank in range(world_size)]
        assert [bag for part in parts for bag in shown(part)] == shown(whole)
        positions = [column for part in parts for column in part.positives[1].tolist()]
        assert positions == whole.positives[1].tolist()
        ids = [part.candidates["item"].values() for part in parts]
        assert torch.equal(torch.cat(ids), whole.candidates["item"].values())


def test_steps_and_seeds_hide_different_items_and_a_repeated_run_the_same(data: Dataset) -> None:
    def hidden(seed: int) -> list:
        source = steps_of(data, size=4, seed=seed)
        return [sorted(shown(source.make(step))) for step in range(6)]

    assert hidden(1) == hidden(1) != hidden(2)
    assert len({str(bags) for bags in hidden(1)}) > 1


def test_weights_count_hidden_and_shown_items_alike(data: Dataset) -> None:
    batch = steps_of(data, size=4, user_weight_power=1.0).make(0)
    users = batch.queries["user"].values().tolist()
    # 4, 2, 1 and 5 items, 3 on average.
    expected = {0: 4 / 3, 1: 2 / 3, 2: 1 / 3, 3: 5 / 3}
    assert dict(zip(users, batch.weights.tolist(), strict=True)) == pytest.approx(expected)


def test_a_finished_run_looks_up_the_whole_history(tmp_path: Path) -> None:
    train, withheld = worlds.checkerboard()
    arguments = ["--model.history", "true", "--model.user_id", "false"]
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, train, [*withheld, (7, 51)]), *arguments)
    opened = open_run(run)
    table = opened.tower_pairs[0].towers.query.embeddings.embedding_bags["user_history"].weight.detach()
    assert table.shape == (8, 8)
    rows = np.array([opened.vocabulary.user_row(user) for user in (1001, 1002, 7)])
    found = query_vectors(opened.tower_pairs, rows, torch.device("cpu"))[:, :8]
    items = {user: [item for owner, item in train if owner == user] for user in (1001, 1002)}
    for vector, owned in zip(found, items.values(), strict=False):
        bag = torch.stack([table[opened.vocabulary.item_row(item)] for item in owned])
        torch.testing.assert_close(vector, torch.nn.functional.normalize(bag.sum(0), dim=0))
    assert found[2].tolist() == [0] * 8  # nothing in the training part: ranked for by bias alone
