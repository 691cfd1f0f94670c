"""What real ranks give each other through shared memory."""

from pathlib import Path

import pytest
import torch

from tests.distributed.ranks import run_on_ranks
from trainer.distributed import shared_memory
from trainer.distributed.shared_memory import GrowingBuffers, make_shared_buffers
from trainer.distributed.world import World, _lost

SIZE = 1000


def values(rank: int, call: int) -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(100 * call + rank))


def exchanged(world: World, folder: str) -> list[list[list[float]]] | None:
    shared_memory.FOLDER = Path(folder)
    places = make_shared_buffers(SIZE, None)
    if places is None:
        return None
    return [places.exchange(values(world.rank, call)).tolist() for call in range(5)]


@pytest.mark.skipif(not shared_memory.FOLDER.is_dir(), reason="no files in memory")
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_rank_has_what_all_have_given_in_every_call(ranks: int) -> None:
    before = set(shared_memory.FOLDER.iterdir())
    for found in run_on_ranks(ranks, exchanged, str(shared_memory.FOLDER)):
        assert found == [[values(rank, call).tolist() for rank in range(ranks)] for call in range(5)]
    assert not {path for path in shared_memory.FOLDER.iterdir() if "shardtower" in path.name} - before


def test_ranks_without_common_memory_have_none(tmp_path: Path) -> None:
    assert run_on_ranks(2, exchanged, str(tmp_path / "missing")) == [None, None]


def large(world: World) -> bool:
    return make_shared_buffers(shared_memory.MOST_BYTES // (2 * world.size * 4) + 1, None) is None


def test_there_are_none_for_more_than_the_most_bytes() -> None:
    assert run_on_ranks(2, large) == [True, True]


def grown(world: World) -> list[bool]:
    places = GrowingBuffers()
    first, same = places.of(8), places.of(12)
    larger = places.of(13)
    assert first is not None
    assert larger is not None
    found = larger.exchange(torch.full((13,), float(world.rank)))[:, :13].tolist()
    too_many, again = places.of(shared_memory.MOST_BYTES), places.of(13)
    given = found == [[0.0] * 13, [1.0] * 13]
    return [first is same, larger is not first, given, too_many is None, again is larger]


@pytest.mark.skipif(not shared_memory.FOLDER.is_dir(), reason="no files in memory")
def test_places_grow_by_half_but_not_without_end() -> None:
    assert run_on_ranks(2, grown) == [[True] * 5] * 2


def left_alone(world: World) -> str:
    places = make_shared_buffers(SIZE, None)
    assert places is not None
    places.exchange(torch.zeros(1))
    if world.rank == 1:
        return "left"
    try:
        places.exchange(torch.zeros(1))
    except RuntimeError as error:
        return str(_lost(error))
    return "waited for nobody"


@pytest.mark.skipif(not shared_memory.FOLDER.is_dir(), reason="no files in memory")
def test_a_rank_that_is_gone_is_an_error_and_no_wait() -> None:
    first, second = run_on_ranks(2, left_alone)
    assert second == "left"
    assert first.startswith("another rank")


def test_there_is_none_where_a_file_would_not_fit() -> None:
    assert shared_memory._made(2**62) is None
