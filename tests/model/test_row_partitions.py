"""Tables whose rows are cut into several: sizes, names, ids, and the same vectors as whole tables."""

import random

import pytest
import torch
from torchrec import KeyedJaggedTensor

from tests import layouts
from trainer.distributed.world import join_world
from trainer.model.row_partitions import (
    partition_names,
    partition_number,
    partition_sizes,
    split_by_rows,
    whole_table,
    within_partition,
)
from trainer.model.towers import TwoTowers
from trainer.sharding.model_state import whole_state
from trainer.sharding.table_values import INITIAL_BLOCK_ROWS, fill_tables, normal_block

DIM, ROWS = 8, {"user": 7, "user_tags": 5, "item": 6, "item_bias": 6}
RATES = dict.fromkeys(ROWS, 0.1)


@pytest.mark.parametrize(
    ("rows", "partitions", "sizes"),
    [(7, 3, [3, 3, 1]), (5, 4, [2, 2, 1]), (4, 4, [1, 1, 1, 1]), (2, 8, [1, 1]), (9, 1, [9])],
)
def test_partitions_are_equal_but_for_the_last_and_none_is_empty(rows, partitions, sizes):
    assert partition_sizes(rows, partitions) == sizes


def test_a_partition_is_named_after_its_table_and_number():
    assert partition_names("user_age", 5, 2) == {"user_age:0": 3, "user_age:1": 2}
    assert (whole_table("user_age:1"), partition_number("user_age:1")) == ("user_age", 1)
    assert (whole_table("user_age"), partition_number("user_age")) == ("user_age", 0)


def test_each_id_is_in_the_bag_of_its_partition_and_in_no_other():
    bags = {"a": [[6, 0, 3], [], [2]], "b": [[1], [9], [4]], "c": [[5], [1, 1], [0]]}
    split = split_by_rows(jagged(bags), {"a": (3, 3), "c": (2, 4)})
    assert split.keys() == ["a:0", "a:1", "a:2", "b", "c:0", "c:1"]
    found = {key: [bag.tolist() for bag in split[key].to_dense()] for key in split.keys()}  # noqa: SIM118
    expected = {
        # Rows 0 to 2, 3 to 5 and 6 of `a`, each from 0.
        "a:0": [[0], [], [2]],
        "a:1": [[0], [], []],
        "a:2": [[0], [], []],
        "b": bags["b"],
        "c:0": [[], [1, 1], [0]],
        "c:1": [[1], [], []],
    }
    assert found == expected


def test_the_ids_of_one_partition_are_those_of_the_split_into_all():
    bags = {"a": [[5], [3]], "b": [[1, 9], []], "c": [[7], [4]]}
    blocks = {"a": (3, 3), "c": (2, 4)}
    found, split = within_partition(jagged(bags), blocks, 1), split_by_rows(jagged(bags), blocks)
    assert found.keys() == ["a:1", "b", "c:1"]
    for key in found.keys():  # noqa: SIM118
        assert [bag.tolist() for bag in found[key].to_dense()] == [
            bag.tolist() for bag in split[key].to_dense()
        ]


@pytest.mark.parametrize("lengths", [[1], [0, 1, 5], [0]])
@pytest.mark.parametrize(("rows", "partitions"), [(7, 3), (5, 4), (12, 12), (9, 1)])
def test_any_bags_are_split_as_one_by_one(rows: int, partitions: int, lengths: list[int]) -> None:
    draw = random.Random(rows * partitions + sum(lengths))
    bags = {
        name: [[draw.randrange(rows) for _ in range(draw.choice(lengths))] for _ in range(6)]
        for name in ("before", "cut", "after")
    }
    block = -(-rows // partitions)
    count = -(-rows // block)  # of partitions that have a row
    split = split_by_rows(jagged(bags), {"cut": (count, block)})
    expected = {
        "before": bags["before"],
        **{
            f"cut:{partition}": [
                [row % block for row in bag if row // block == partition] for bag in bags["cut"]
            ]
            for partition in range(count)
        },
        "after": bags["after"],
    }
    assert {key: [bag.tolist() for bag in split[key].to_dense()] for key in split.keys()} == expected  # noqa: SIM118
    assert list(split.keys()) == list(expected)
    assert split.stride() == 6


@pytest.mark.parametrize("cut", [{"user": 3}, {"user_tags": 5}, {"item_bias": 4}, dict.fromkeys(ROWS, 2)])
def test_a_partitioned_model_has_the_vectors_of_a_whole_one(cut: dict[str, int]) -> None:
    with join_world("cpu"):
        found = []
        for partitions in ({}, cut):
            model, _ = layouts.sharded(towers(partitions), "table_wise", "sgd", RATES)
            fill_tables(model, values)
            found.append([vectors.detach() for vectors in model(*step_inputs())])
    (query, candidate), others = found[0], found[1]
    assert (query.shape, candidate.shape) == ((3, DIM + 1), (3, DIM + 1))  # the bias is the last column
    bias = values("item_bias", slice(0, INITIAL_BLOCK_ROWS)).mean(1)[[5, 0, 2]]
    torch.testing.assert_close(candidate[:, -1], bias)
    for whole, other in zip((query, candidate), others, strict=True):
        torch.testing.assert_close(other, whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd", "adam"])
def test_a_partitioned_model_trains_like_a_whole_one(optimizer):
    with join_world("cpu"):
        whole, cut = (trained(optimizer, cut) for cut in ({}, {"user": 3, "user_tags": 2, "item_bias": 6}))
    assert whole.keys() == cut.keys()
    for key, values in whole.items():
        torch.testing.assert_close(cut[key], values, rtol=1e-6, atol=1e-7)


def test_the_state_of_a_partitioned_table_is_one_entry_that_shares_its_memory():
    with join_world("cpu"):
        model, _ = layouts.sharded(towers({"user": 3}), "table_wise", "sgd", RATES)
        fill_tables(model, values)
        entry = whole_state(model)["query.embeddings.embedding_bags.user.weight"]
        assert tuple(entry.metadata().size) == (7, DIM)
        offsets = [tuple(shard.metadata.shard_offsets) for shard in entry.local_shards()]
        assert offsets == [(0, 0), (3, 0), (6, 0)]
        entry.local_shards()[2].tensor.fill_(5.0)
        partition = model.state_dict()["query.embeddings.embedding_bags.user:2.weight"]
        assert partition.local_shards()[0].tensor.tolist() == [[5.0] * DIM]


def towers(cut: dict[str, int]) -> TwoTowers:
    users, items = (
        {name: rows for name, rows in ROWS.items() if name.startswith(side)} for side in ("user", "item")
    )
    return TwoTowers(users, items, DIM, item_bias="item_bias", partitions=cut)


def trained(optimizer: str, cut: dict[str, int]) -> dict[str, torch.Tensor]:
    """All tables after three steps."""
    model, combined = layouts.sharded(towers(cut), "table_wise", optimizer, RATES)
    fill_tables(model, values)
    queries, candidates = step_inputs()
    for _ in range(3):
        combined.zero_grad()
        query, candidate = model(queries, candidates)
        (query * candidate).sum().backward()
        combined.step()
    return {
        key: torch.cat([shard.tensor for shard in value.local_shards()]).clone()
        for key, value in whole_state(model).items()
        if "embedding_bags" in key
    }


def step_inputs() -> tuple[KeyedJaggedTensor, KeyedJaggedTensor]:
    """Bags of one, of several and of none, of every partition."""
    queries = jagged({"user": [[0], [6], [3]], "user_tags": [[4, 0], [], [2, 3, 1]]})
    return queries, jagged({"item": [[5], [0], [2]], "item_bias": [[5], [0], [2]]})


def values(table: str, rows: slice) -> torch.Tensor:
    return normal_block(3, table, rows, 4 if table == "item_bias" else DIM, 1.0)


def jagged(bags: dict[str, list[list[int]]]) -> KeyedJaggedTensor:
    lengths = [len(bag) for column in bags.values() for bag in column]
    ids = [number for column in bags.values() for bag in column for number in bag]
    stride = len(next(iter(bags.values())))
    return KeyedJaggedTensor(
        list(bags),
        torch.tensor(ids, dtype=torch.int64),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        stride=stride,
    )
