import time
from dataclasses import replace

import pytest
import torch

from tests.distributed.ranks import outcomes_on_ranks, run_on_ranks
from trainer.distributed.world import World
from trainer.errors import DataError, LostRanksError

pytestmark = pytest.mark.distributed


def gather_with_gradient(world, parts):
    rows = parts[world.rank].clone().requires_grad_()
    gathered = world.gather_rows(rows, [len(part) for part in parts])
    # Each rank weighs the rows in its own way, so that a gradient that misses a rank is another number.
    weights = torch.arange(1.0, gathered.numel() + 1).view_as(gathered) * (world.rank + 1)
    (gathered * weights).sum().backward()
    return gathered.detach(), rows.grad


@pytest.mark.parametrize("counts", [(2, 2), (3, 0, 1), (0, 0, 0, 2)], ids=str)
def test_gathered_rows_and_their_gradient_are_those_of_a_plain_cat(counts):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(count, 3, generator=generator) for count in counts]
    whole = torch.cat(parts).requires_grad_()
    ranks = len(counts)
    # The sum of the ranks' losses weighs element n by (1 + 2 + ... + ranks) * n.
    weights = torch.arange(1.0, whole.numel() + 1).view_as(whole) * (ranks * (ranks + 1) / 2)
    (whole * weights).sum().backward()
    results = run_on_ranks(ranks, gather_with_gradient, parts)
    for gathered, _ in results:
        assert torch.equal(gathered, whole)
    assert torch.equal(torch.cat([gradient for _, gradient in results]), whole.grad)


def gather_often(world, dtype, in_memory):
    world = world if in_memory else replace(world, buffers=None)
    values = torch.arange(6, dtype=dtype).view(2, 3) + 10 * world.rank
    return [world.all_gather(values * sign) for sign in (1, -1, 2, -2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("in_memory", [True, False], ids=["shared memory", "gloo"])
def test_every_rank_has_the_values_of_all_one_after_another(dtype, in_memory):
    values = torch.arange(6, dtype=dtype).view(2, 3)
    expected = torch.stack([values, values + 10, values + 20])
    for gathered in run_on_ranks(3, gather_often, dtype, in_memory):
        for sign, values in zip((1, -1, 2, -2), gathered, strict=True):
            assert torch.equal(values, expected * sign)


def gather_first(world, parts):
    return world.gather_to_first(parts[world.rank], [len(part) for part in parts])


@pytest.mark.parametrize("counts", [(2, 2), (3, 0, 1), (0, 0, 0, 2)], ids=str)
def test_the_first_rank_receives_the_rows_of_all_and_the_others_nothing(counts):
    parts = [torch.randint(9, (count, 5), dtype=torch.int64) for count in counts]
    first, *others = run_on_ranks(len(counts), gather_first, parts)
    assert torch.equal(first, torch.cat(parts))
    assert first.dtype == torch.int64
    assert others == [None] * len(others)


def test_shares_are_contiguous_whole_and_even():
    for size in (1, 2, 3, 4):
        for count in (0, 1, 3, 10):
            ranks = [World(rank, size, rank, size, torch.device("cpu")) for rank in range(size)]
            rows = [list(range(count))[world.share(count)] for world in ranks]
            assert [row for part in rows for row in part] == list(range(count))
            assert ranks[0].shares(count) == [len(part) for part in rows]
            assert max(ranks[0].shares(count)) - min(ranks[0].shares(count)) <= 1


def sum_of_ranks(world):
    mine = torch.tensor([1.0, 10.0]) * (world.rank + 1)
    return world.sum(mine), mine


def test_a_sum_is_known_to_every_rank_and_leaves_its_parts_alone():
    for rank, (total, mine) in enumerate(run_on_ranks(3, sum_of_ranks)):
        assert total.tolist() == [6, 60]  # 1 + 2 + 3 times 1 and 10
        assert mine.tolist() == [rank + 1, 10 * (rank + 1)]


def refuse_on(world, together, broken):
    def work():
        if world.rank in broken:
            raise DataError(f"ratings.dat:{world.rank}: broken")
        return f"done by {world.rank}"

    world = place(world)
    return (world.on_first if together == "first" else world.on_each_host)(work)


def place(world):
    """The same rank on hosts of two ranks each."""
    return World(world.rank, world.size, world.rank % 2, 2, world.device)


def test_what_one_process_of_a_host_finds_its_neighbours_get():
    assert run_on_ranks(4, refuse_on, "each host", ()) == ["done by 0"] * 2 + ["done by 2"] * 2
    assert run_on_ranks(4, refuse_on, "first", (2,)) == ["done by 0"] * 4


@pytest.mark.parametrize(
    ("together", "broken", "teller"), [("first", (0,), 0), ("each host", (2,), 2), ("each host", (0, 2), 0)]
)
def test_one_rank_at_fault_stops_all_ranks_with_its_words(together, broken, teller):
    outcomes = outcomes_on_ranks(4, refuse_on, together, broken)
    assert [type(outcome) for outcome in outcomes] == [DataError] * 4
    assert [str(outcome) for outcome in outcomes] == [f"ratings.dat:{teller}: broken"] * 4


def hang_on_the_last(world):
    if world.rank == world.size - 1:
        time.sleep(60)
    return world.rank


def fail_on_the_last(world):
    if world.rank == world.size - 1:
        raise KeyError("lost")
    world.sum(torch.zeros(1))


def test_a_hanging_rank_is_named_and_ended():
    with pytest.raises(TimeoutError, match=r"ranks \[2\] of 3 hang in hang_on_the_last"):
        run_on_ranks(3, hang_on_the_last, timeout=10)


def test_a_failing_rank_ends_the_others_that_wait_for_it():
    outcomes = outcomes_on_ranks(2, fail_on_the_last)
    assert isinstance(outcomes[1], KeyError)
    assert isinstance(outcomes[0], LostRanksError)
