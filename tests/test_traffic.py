"""Bytes that a step moves between ranks, counted by hand."""

import pytest

from trainer.parallel.traffic import Traffic, add_candidates, add_table


def traffic(sharding, shards, world_size, local_world_size=None, bags=10, pooling_factor=2.0) -> Traffic:
    found = Traffic.none(world_size)
    add_table(found, sharding, shards, bags, pooling_factor, local_world_size or world_size)
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


def test_candidates_are_gathered_and_their_gradients_summed():
    found = Traffic.none(4)
    add_candidates(found, 1000)
    # Three quarters pass a rank once in the gather and twice in the sum.
    assert found.sent.tolist() == found.received.tolist() == [2250] * 4


@pytest.mark.parametrize("ranks", [[0], [3], [0, 1, 2, 3]])
@pytest.mark.parametrize("sharding", ["table_wise", "column_wise"])
def test_what_is_sent_is_received(sharding, ranks):
    found = traffic(sharding, [(rank, 9, 4) for rank in ranks], 4)
    assert found.sent.sum() == pytest.approx(found.received.sum())
    assert min(*found.sent, *found.received) >= 0
