"""Bytes that a step moves between ranks, counted by hand."""

import json

import pytest

from trainer.cli import main
from trainer.planning.traffic import Lookups, Traffic, add_gathered, add_table


def traffic(sharding, shards, world_size, local_world_size=None, bags=10, pooling_factor=2.0) -> Traffic:
    found = Traffic.none(world_size)
    add_table(found, sharding, shards, Lookups(bags, pooling_factor), local_world_size or world_size)
    return found


def test_a_rank_alone_moves_nothing():
    for sharding in ("table_wise", "row_wise", "data_parallel"):
        found = traffic(sharding, [(0, 100, 8)], 1)
        assert (found.sent.tolist(), found.received.tolist()) == ([0], [0])


def test_table_wise_ids_go_to_the_table_and_vectors_come_back_as_gradients_do():
    found = traffic("table_wise", [(1, 100, 8)], 3)
    # Of 10 bags a rank: lengths 10 x 4, ids 10 x 2 x 8, together 200; vectors 10 x 8 x 4 = 320.
    ids, vectors = 200, 320
    assert found.sent.tolist() == [ids + vectors, 2 * vectors, ids + vectors]
    assert found.received.tolist() == [vectors, 2 * (ids + vectors), vectors]


def test_vectors_of_two_bytes_a_value_take_half_and_ids_what_they_took():
    found = Traffic.none(3)
    add_table(found, "table_wise", [(1, 100, 8)], Lookups(10, 2.0, value_bytes=2), 3)
    ids, vectors = 200, 160
    assert found.sent.tolist() == [ids + vectors, 2 * vectors, ids + vectors]
    found = Traffic.none(2)
    add_table(found, "row_wise", [(0, 50, 8), (1, 50, 8)], Lookups(10, 2.0, value_bytes=2), 2)
    assert found.sent.tolist() == [120 + 320, 120 + 320]


def test_copies_are_summed_up_in_four_bytes_a_value_in_any_case():
    found = Traffic.none(2)
    add_table(found, "data_parallel", [(0, 100, 8), (1, 100, 8)], Lookups(10, 2.0, value_bytes=2), 2)
    assert found.sent.tolist() == [3200, 3200]


def test_column_wise_every_shard_is_asked_for_its_columns():
    found = traffic("column_wise", [(0, 100, 4), (1, 100, 4)], 2)
    # Each rank asks the other: ids 200, and gradients of 10 x 4 x 4 = 160; it answers with 160.
    assert found.sent.tolist() == found.received.tolist() == [520, 520]


def test_row_wise_partial_sums_meet():
    found = traffic("row_wise", [(0, 50, 8), (1, 50, 8)], 2)
    # Lengths 40 and half of the ids, 80, to the other rank. Sums for 2 x 10 bags of 8 x 4 bytes, of which
    # each rank passes half on, forward and backward: 2 x 320.
    assert found.sent.tolist() == found.received.tolist() == [120 + 640, 120 + 640]


def test_table_row_wise_sums_meet_on_one_host_and_go_to_the_others():
    found = traffic("table_row_wise", [(2, 50, 8), (3, 50, 8)], 4, local_world_size=2)
    # Ranks 0 and 1 send lengths and half of the ids to both of the host's ranks, 120 each, and each gets its
    # 10 bags of 32 bytes once from its peer there, gradients going back.
    assert found.sent.tolist()[:2] == [240 + 320, 240 + 320]
    assert found.received.tolist()[:2] == [320, 320]
    # A rank of the host also asks its neighbour, 120; sums for 40 bags, half of 1280 passed on, there and
    # back; then 10 bags to its peer on the other host, and their gradients from it.
    assert found.sent.tolist()[2:] == [120 + 1280 + 320] * 2
    assert found.received.tolist()[2:] == [3 * 120 + 1280 + 320] * 2


def test_data_parallel_gradients_of_all_rows_are_summed_in_a_ring():
    found = traffic("data_parallel", [(0, 100, 8), (1, 100, 8)], 2)
    # 100 x 8 x 4 bytes, half passed on twice.
    assert found.sent.tolist() == found.received.tolist() == [3200, 3200]


def test_vectors_are_gathered_and_their_gradients_summed():
    found = Traffic.none(4)
    add_gathered(found, 1000)
    # Three quarters pass a rank once in the gather and twice in the sum.
    assert found.sent.tolist() == found.received.tolist() == [2250] * 4


def test_table_wise_counts_each_table_of_a_rank_for_itself():
    found = Traffic.none(4)
    for rank in (0, 0, 3):
        add_table(found, "table_wise", [(rank, 100, 8)], Lookups(10, 2.0), 4)
    # A table takes 200 bytes of ids and 320 of gradients from each of three ranks and gives 320 to each.
    ids, vectors = 200, 320
    assert found.sent.tolist() == [
        2 * 3 * vectors + ids + vectors,  # for its two tables, and what it asks of rank 3
        *[3 * (ids + vectors)] * 2,
        3 * vectors + 2 * (ids + vectors),
    ]
    assert found.received.tolist() == [
        2 * 3 * (ids + vectors) + vectors,
        *[3 * vectors] * 2,
        3 * (ids + vectors) + 2 * vectors,
    ]


def test_row_wise_on_four_ranks():
    found = traffic("row_wise", [(rank, 25, 8) for rank in range(4)], 4)
    # Lengths 40 and a quarter of the ids, 40, to each of three ranks: 240. Sums for 40 bags of 32 bytes, of
    # which three quarters are passed on, forward and backward: 2 x 960.
    assert found.sent.tolist() == found.received.tolist() == [240 + 1920] * 4


def test_table_row_wise_on_a_host_alone_is_row_wise():
    shards = [(rank, 25, 8) for rank in range(4)]
    one, other = (traffic(kind, shards, 4) for kind in ("table_row_wise", "row_wise"))
    assert one.sent.tolist() == other.sent.tolist()
    assert one.received.tolist() == other.received.tolist()


def test_data_parallel_on_four_ranks():
    found = traffic("data_parallel", [(rank, 100, 8) for rank in range(4)], 4)
    # 3,200 bytes of gradients, three quarters passed on twice; ids stay where they are.
    assert found.sent.tolist() == found.received.tolist() == [4800] * 4


def test_what_is_gathered_costs_a_rank_alone_nothing():
    found = Traffic.none(1)
    add_gathered(found, 1000)
    assert (found.sent.tolist(), found.received.tolist()) == ([0], [0])


BALANCED = [
    *((kind, [rank], 4, 4) for kind in ("table_wise", "column_wise") for rank in (0, 3)),
    *(
        (kind, [0, 1, 2, 3], 4, 4)
        for kind in ("column_wise", "table_column_wise", "row_wise", "data_parallel")
    ),
    ("column_wise", [1, 1, 2], 4, 4),  # two shards on one rank
    ("table_row_wise", [0, 1], 4, 2),
    ("table_row_wise", [2, 3], 6, 2),
    ("table_row_wise", [4, 5, 6, 7], 16, 4),
    ("table_row_wise", [2], 3, 1),
]


@pytest.mark.parametrize(("sharding", "ranks", "world_size", "local"), BALANCED)
@pytest.mark.parametrize("pooling_factor", [0.0, 1.0, 7.5])
def test_what_is_sent_is_received(sharding, ranks, world_size, local, pooling_factor):
    shards = [(rank, 9, 4) for rank in ranks]
    found = traffic(sharding, shards, world_size, local, pooling_factor=pooling_factor)
    assert found.sent.sum() == pytest.approx(found.received.sum())
    assert found.sent.sum() > 0
    assert min(*found.sent, *found.received) >= 0


# A vector has 33 columns of 4 bytes, the bias among them; half of them pass a rank once in the gather and
# twice in the sum.
VECTOR = 33 * 4 * 3 / 2


@pytest.mark.parametrize(("loss", "vectors"), [("softmax", 64), ("bpr", 499), ("mse", 0)])
def test_copies_move_gradients_and_the_vectors_that_their_loss_gathers(capsys, loss, vectors):
    words = (
        "plan --json --world-size 2 --rows user=1000 --rows movie=499 --dim 32 --sharding.kind data_parallel "
        f"--model.low_rank=0 --batches.rows interaction --batches.size 64 --loss.name {loss}"
    )
    assert main(words.split()) == 0
    plan = json.loads(capsys.readouterr().out)
    # At two ranks all-reduce sends each gradient once.
    gradients = sum(table["rows"] * table["dim"] * 4 for table in plan["tables"])
    lookups = {table["tower"]: table["lookups"] for table in plan["tables"]}
    assert plan["ranks"][0]["lookups"] == lookups["query"] // 2 + lookups["candidate"]  # of ids and of biases
    assert plan["ranks"][0]["bytes_sent"] == pytest.approx(gradients + vectors * VECTOR, rel=0.01)
