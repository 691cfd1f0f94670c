"""Means through shared memory, on real ranks."""

from pathlib import Path

import pytest
import torch

from tests.distributed.ranks import run_on_ranks
from trainer.parallel import shared_memory
from trainer.parallel.shared_memory import shared_mean
from trainer.parallel.world import World

SIZE = 1000


def values(rank: int, call: int) -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(100 * call + rank))


def means(world: World, folder: str) -> list[list[float]] | None:
    shared_memory.FOLDER = Path(folder)
    mean = shared_mean(SIZE, None)
    if mean is None:
        return None
    found = [values(world.rank, call) for call in range(5)]
    for each in found:
        mean(each)
    return [each.tolist() for each in found]


@pytest.mark.skipif(not shared_memory.FOLDER.is_dir(), reason="no files in memory")
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_rank_has_the_mean_of_every_call(ranks: int) -> None:
    before = set(shared_memory.FOLDER.iterdir())
    first, *others = run_on_ranks(ranks, means, str(shared_memory.FOLDER))
    for call, found in enumerate(first):
        expected = torch.stack([values(rank, call) for rank in range(ranks)]).mean(0)
        torch.testing.assert_close(torch.tensor(found), expected)
    assert all(other == first for other in others)
    assert not {path for path in shared_memory.FOLDER.iterdir() if "shardtower" in path.name} - before


def test_ranks_without_common_memory_have_none(tmp_path: Path) -> None:
    assert run_on_ranks(2, means, str(tmp_path / "missing")) == [None, None]


def large(world: World) -> bool:
    return shared_mean(shared_memory.MOST_BYTES // (2 * world.size * 4) + 1, None) is None


def test_large_tables_have_none() -> None:
    assert run_on_ranks(2, large) == [True, True]


def test_there_is_none_where_a_file_would_not_fit() -> None:
    assert shared_memory._made(2**62) is None
