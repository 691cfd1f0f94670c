"""Two plans side by side; what has to be moved is counted by hand."""

from dataclasses import replace

from tests.plans import by_columns, by_rows, copied, plan_of, shard, table, whole
from trainer.inspection.plan_diff import TableChange, compare_plans, comparison_text
from trainer.planning.plan import Table


def change(before: Table, after: Table, world_size: int = 4) -> TableChange:
    (found,) = compare_plans(plan_of([before], world_size), plan_of([after], world_size)).changes
    return found


def test_rows_that_go_to_another_rank_are_moved() -> None:
    # 8 x 4 values; rows 4 to 7 go from rank 0 to rank 1: 4 rows x 4 columns x 4 bytes.
    moved = change(whole("user", 8, 4, 0), by_rows("user", 8, 4, [0, 1]))
    assert moved.moved_bytes == 4 * 4 * 4
    assert (moved.before.sharding, moved.after.sharding) == ("table_wise", "row_wise")
    assert (moved.before.ranks, moved.after.ranks) == ((0,), (0, 1))


def test_optimizer_state_moves_with_its_rows() -> None:
    # 8 bytes of state a row beside 16 of weights.
    assert change(whole("user", 8, 4, 0, 8), by_rows("user", 8, 4, [0, 1], 8)).moved_bytes == 4 * (16 + 8)


def test_columns_that_go_to_other_ranks_are_moved() -> None:
    # Columns 0 stay on rank 0; 3 of 4 columns of 8 rows go.
    assert change(whole("user", 8, 4, 0), by_columns("user", 8, 4, [0, 1, 2, 3])).moved_bytes == 3 * 8 * 4


def test_rows_become_columns_where_rectangles_overlap() -> None:
    # Each rank has 4 of the 8 rows of its 2 new columns, and needs the other 4 x 2 values.
    moved = change(by_rows("user", 8, 4, [0, 1]), by_columns("user", 8, 4, [0, 1]))
    assert moved.moved_bytes == 2 * (4 * 2 * 4)


def test_a_copy_is_moved_to_each_rank_that_has_none() -> None:
    assert change(whole("user", 8, 4, 1), copied("user", 8, 4, 4)).moved_bytes == 3 * 8 * 4 * 4


def test_from_copies_nothing_is_moved() -> None:
    assert change(copied("user", 8, 4, 4), whole("user", 8, 4, 3)).moved_bytes == 0


def test_blocks_that_swap_ranks_are_moved_though_the_ranks_are_the_same() -> None:
    moved = change(by_rows("user", 8, 4, [0, 1]), by_rows("user", 8, 4, [1, 0]))
    assert moved.before == moved.after
    assert moved.moved_bytes == 8 * 4 * 4


def test_several_shards_on_a_rank_count_together() -> None:
    cuts = [shard(0, 2, 4), shard(1, 2, 4, row=2), shard(0, 2, 4, row=4), shard(1, 2, 4, row=6)]
    before = table("user", 8, 4, "row_partitioned", cuts)
    # Rank 0 has rows 0, 1, 4, 5 and needs all: 4 rows are missing.
    assert change(before, whole("user", 8, 4, 0)).moved_bytes == 4 * 4 * 4


def test_rows_that_are_new_are_not_moved() -> None:
    # 8 rows become 10; rank 1 needs all 10, of which 8 exist.
    moved = change(whole("user", 8, 4, 0), whole("user", 10, 4, 1))
    assert moved.moved_bytes == 8 * 4 * 4
    assert (moved.before.rows, moved.after.rows) == (8, 10)


def test_plans_of_different_world_sizes_are_compared() -> None:
    before = plan_of([by_rows("user", 8, 4, [0, 1]), whole("item", 5, 4, 0)], 2)
    after = plan_of([by_rows("user", 8, 4, [0, 1, 2, 3]), whole("item", 5, 4, 0)], 4)
    found = compare_plans(before, after)
    # Rank 0 keeps rows 0-1; rank 1 needs 2-3, rank 2 needs 4-5, rank 3 needs 6-7 and none of them has these.
    assert [(each.name, each.moved_bytes) for each in found.changes] == [("user", 3 * 2 * 4 * 4)]
    assert found.moved_bytes == 96
    assert (found.before.ranks, found.after.ranks) == (2, 4)


def test_totals_are_sums_over_ranks() -> None:
    found = compare_plans(plan_of([whole("user", 8, 4, 0)], 4, moving=10), plan_of([], 1)).before
    assert (found.bytes, found.fullest_bytes, found.idle_ranks) == (8 * 4 * 4 + 4 * 10, 8 * 4 * 4 + 10, 3)
    assert found.bytes_sent == 4 * 2000
    assert found.imbalance == (128 + 10) * 4 / (128 + 40)
    assert found.estimated_step_ms == 2.0


def test_tables_of_one_plan_alone_are_named() -> None:
    found = compare_plans(
        plan_of([whole("user", 8, 4, 0), whole("old", 1, 4, 0)], 1),
        plan_of([whole("new", 2, 4, 0), whole("user", 8, 4, 0)], 1),
    )
    assert (found.only_before, found.only_after, found.changes) == (("old",), ("new",), ())


def test_a_kernel_alone_is_a_change_that_moves_nothing() -> None:
    before = whole("user", 8, 4, 0)
    moved = change(before, replace(before, kernel="dense"))
    assert (moved.before.kernel, moved.after.kernel, moved.moved_bytes) == ("fused", "dense", 0)


def test_the_text_is_aligned_and_says_what_moves() -> None:
    before = plan_of([whole("user", 8, 4, 0), whole("old", 2, 4, 0)], 2)
    after = plan_of([replace(by_rows("user", 8, 4, [0, 1]), kernel="dense")], 2)
    assert comparison_text(compare_plans(before, after)).splitlines() == [
        "                                          before             after        change",
        "ranks                                          2                 2          same",
        "idle ranks                                     1                 0            -1",
        "bytes on all ranks                         160 B             128 B        -20.0%",
        "bytes on the fullest rank                  160 B              64 B        -60.0%",
        "fullest rank over the mean                  2.00              1.00         -1.00",
        "bytes sent in a step                        4 kB              4 kB          same",
        "step, estimated                             2 ms              2 ms          same",
        "",
        "table                 before                   after                       moved",
        "user                  table_wise 0             row_wise 0-1                 64 B",
        "                      fused                    dense",
        "",
        "1 table changed; 64 B of weights and optimizer state would move to ranks that do",
        "  not have them.",
        "Only before: old.",
    ]


def test_no_line_is_wider_than_80_columns() -> None:
    name = "a_table_with_a_name_that_no_column_has_room_for"
    ranks = range(0, 2048, 2)
    before = plan_of(
        [table(name, 10**10, 10**6, "table_column_wise", [shard(3, 1, 1)]), whole("x" * 90, 1, 4, 0)], 8
    )
    after = plan_of([by_rows(name, 4096, 128, ranks)], 2048)
    text = comparison_text(compare_plans(before, after), ("runs/" + "long/" * 30 + "plan.json", "b"))
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("before: runs/long/")
    assert "a_table_w..._room_for" in text


def test_equal_plans_are_said_to_be_equal() -> None:
    plan = plan_of([whole("user", 8, 4, 0)], 2)
    text = comparison_text(compare_plans(plan, plan))
    assert text.endswith("Every table of both plans lies in the same place.")
    assert text.count("same") == 7 + 1


def test_of_many_tables_those_that_move_most_are_listed() -> None:
    before = plan_of([whole(f"table_{rows}", rows, 4, 0) for rows in range(1, 31)], 2)
    after = plan_of([whole(f"table_{rows}", rows, 4, 1) for rows in range(1, 31)], 2)
    text = comparison_text(compare_plans(before, after))
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("table_")]
    assert listed == [f"table_{rows}" for rows in range(30, 10, -1)]
    assert "and 10 more tables" in text
