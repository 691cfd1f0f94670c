"""What real ranks exchange through shared memory, and what is left of it when one is lost."""

import errno
import gc
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.distributed.ranks import outcomes_on_ranks, run_on_ranks
from trainer.distributed import shared_memory
from trainer.distributed.lost_ranks import lost_reason
from trainer.distributed.shared_memory import GrowingBuffers, make_shared_buffers
from trainer.distributed.world import World
from trainer.errors import LostRanksError

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(not Path(shared_memory.FOLDER).is_dir(), reason="no files in memory"),
]

SIZE = 1000


def values(rank: int, call: int) -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(100 * call + rank))


def exchanged(world: World) -> list[list[list[float]]] | None:
    buffers = make_shared_buffers(SIZE, None)
    if buffers is None:
        return None
    return [buffers.exchange(values(world.rank, call)).tolist() for call in range(5)]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_rank_has_what_all_have_given_in_every_call(ranks: int) -> None:
    for found in run_on_ranks(ranks, exchanged):
        assert found == [[values(rank, call).tolist() for rank in range(ranks)] for call in range(5)]


def exchanged_elsewhere(world: World, difference: str) -> list[list[list[float]]] | None:
    """As `exchanged`, where the last rank cannot use what the first one offers."""
    if world.rank == world.size - 1 and difference == "host":
        shared_memory._namespaces = lambda: ("another host", "its processes", "its sockets")
    if world.rank == world.size - 1 and difference == "memory":
        shared_memory._map = lambda *_: None
    if world.rank == 0 and difference == "room":
        shared_memory._create = lambda _: None
    return exchanged(world)


@pytest.mark.parametrize("difference", ["host", "memory", "room"])
def test_ranks_without_memory_in_common_have_no_buffers(difference: str) -> None:
    assert run_on_ranks(3, exchanged_elsewhere, difference) == [None] * 3


def test_there_is_no_memory_where_it_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    handles = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert shared_memory._create(64) is None
    monkeypatch.setattr(shared_memory, "FOLDER", "/missing")
    assert shared_memory._create(64) is None
    assert len(os.listdir("/proc/self/fd")) == handles


def test_memory_that_does_not_begin_with_the_token_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(64))
    assert shared_memory._map(str(tmp_path / "other"), 64, b"1" * shared_memory.TOKEN_BYTES) is None
    assert shared_memory._map(str(tmp_path / "none"), 64, b"1" * shared_memory.TOKEN_BYTES) is None


def fill(world: World) -> list[bool]:
    """Whether there is room for a half, another half, one more value, and a half once one is released."""
    half = shared_memory.MOST_BYTES // (2 * world.size * 4) // 2
    halves = [make_shared_buffers(half, None) for _ in range(2)]
    more = make_shared_buffers(4, None)
    found = [each is not None for each in (*halves, more)]
    del halves[0]
    gc.collect()
    return [*found, make_shared_buffers(half, None) is not None]


def test_all_buffers_of_a_process_together_stay_below_the_most_bytes() -> None:
    assert run_on_ranks(2, fill) == [[True, True, False, True]] * 2


def grow(world: World) -> list[bool]:
    buffers = GrowingBuffers()
    first, same = buffers.of(8), buffers.of(12)
    larger = buffers.of(13)
    assert first is not None
    assert larger is not None
    found = larger.exchange(torch.full((13,), float(world.rank)))[:, :13].tolist()
    too_many, again = buffers.of(shared_memory.MOST_BYTES), buffers.of(13)
    given = found == [[0.0] * 13, [1.0] * 13]
    outcome = [first is same, larger is not first, given, too_many is None, again is larger]
    del first, same, larger, again
    most = shared_memory.MOST_BYTES // (2 * world.size * 4)
    largest = buffers.of(most)
    assert largest is not None
    return [*outcome, largest.size == most]


def test_buffers_grow_by_half_but_not_without_end() -> None:
    assert run_on_ranks(2, grow) == [[True] * 6] * 2


def grow_beside_others(world: World) -> list[int | None]:
    """Sizes of growing buffers beside others that take most of the room."""
    most = shared_memory.MOST_BYTES // (2 * world.size * 4)
    others = make_shared_buffers(most - 15, None)
    assert others is not None
    growing = GrowingBuffers()
    found = [growing.of(size) for size in (10, 12, 16)]
    return [each and each.size for each in found]


def test_buffers_without_room_to_grow_by_half_grow_by_what_is_needed() -> None:
    assert run_on_ranks(2, grow_beside_others) == [[15, 15, None]] * 2


def left_alone(world: World) -> str:
    buffers = make_shared_buffers(SIZE, None)
    assert buffers is not None
    buffers.exchange(torch.zeros(1))
    if world.rank == 1:
        return "left"
    try:
        buffers.exchange(torch.zeros(1))
    except RuntimeError as error:
        return str(lost_reason(error))
    return "waited for nobody"


def test_a_rank_that_has_ended_is_an_error_that_names_it() -> None:
    first, second = run_on_ranks(2, left_alone)
    assert second == "left"
    assert first.startswith("rank 1: ")


def stop_before_connecting(world: World, seconds: float) -> None:
    """Make buffers, where the last rank falls silent once memory is shared."""
    shared_memory._timeout = lambda _: shared_memory.timedelta(seconds=seconds)
    if world.rank == world.size - 1:
        dist.barrier = lambda _: time.sleep(3 * seconds)
    else:
        dist.barrier = lambda _: None
    make_shared_buffers(SIZE, None)


def test_a_rank_that_does_not_connect_is_not_waited_for_for_ever() -> None:
    first, _ = outcomes_on_ranks(2, stop_before_connecting, 1.0)
    assert isinstance(first, LostRanksError)
    assert str(first) == "rank 0 has lost the others (rank 1: timed out)"
    assert first.silent


def die_at(world: World, place: str, folder: str) -> None:
    """Make buffers, where rank 0 is killed at a place on the way."""
    shared_memory.FOLDER = folder

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    module, name = {
        "created": (dist, "broadcast_object_list"),
        "mapped": (shared_memory, "_all"),
        "listening": (dist, "barrier"),
        "connected": (shared_memory.SharedBuffers, "__init__"),
    }[place]
    if world.rank == 0:
        setattr(module, name, die)
    make_shared_buffers(SIZE, None)


@pytest.mark.parametrize("place", ["created", "mapped", "listening", "connected"])
def test_a_rank_that_is_killed_leaves_no_file_behind(place: str) -> None:
    with tempfile.TemporaryDirectory(dir=shared_memory.FOLDER) as folder:
        first, _ = outcomes_on_ranks(2, die_at, place, folder)
        assert str(first) == "died without a word"
        assert list(Path(folder).iterdir()) == []


def test_a_stranger_is_not_taken_for_a_rank() -> None:
    assert run_on_ranks(2, exchanged_beside_a_stranger) == [True, True]


def exchanged_beside_a_stranger(world: World) -> bool:
    """Make buffers where somebody else connects first, without the token."""
    barrier, strangers = dist.barrier, []

    def connect_first(group: object) -> None:
        barrier(group)
        if world.rank == 1:
            for line in Path("/proc/net/unix").read_text().splitlines():
                if "@shardtower-" in line and line.endswith("-0"):
                    strangers.append(socket.socket(socket.AF_UNIX))
                    strangers[-1].connect("\0" + line.rpartition("@")[2])
                    strangers[-1].sendall(bytes(shared_memory.TOKEN_BYTES + 1))

    dist.barrier = connect_first
    return exchanged(world) is not None
