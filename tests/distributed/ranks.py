"""Functions run on real gloo ranks, one process each, quickly enough for a test.

A fork server imports the libraries once (3.5 s); every rank is forked from it.
"""

import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any
from unittest import mock

from torch.distributed import TCPStore

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torchrec", "trainer.sharding.shard", "trainer.training.train", "pytest"])
GRACE_SECONDS = 10
"""How long the other ranks may take to end once one has failed."""


def run_on_ranks(size: int, work: Callable[..., Any], *arguments: Any, timeout: float = 60) -> list[Any]:
    """What `work(world, *arguments)` returns on each of `size` ranks.

    Args:
        work: a function at the top of a module, so that it can be found in another process.
    Raises: what the first failing rank raised, with its traceback as a note; TimeoutError naming the ranks
        that hang.
    """
    outcomes = outcomes_on_ranks(size, work, *arguments, timeout=timeout)
    for rank, outcome in enumerate(outcomes):
        if isinstance(outcome, BaseException) and not isinstance(outcome, TimeoutError):
            outcome.add_note(f"on rank {rank} of {size}")
            raise outcome
    hanging = [rank for rank, outcome in enumerate(outcomes) if isinstance(outcome, TimeoutError)]
    if hanging:
        raise TimeoutError(f"ranks {hanging} of {size} hang in {work.__name__}")
    return outcomes


def outcomes_on_ranks(size: int, work: Callable[..., Any], *arguments: Any, timeout: float = 60) -> list[Any]:
    """What `work` returned or raised on each rank; a TimeoutError where it did neither in time."""
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        forkserver.ensure_running()
    # The parent holds the store, so that no port has to be guessed.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    ranks = [
        CONTEXT.Process(target=_be_rank, args=(rank, size, store.port, sender, work, arguments))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for rank, (_, sender) in zip(ranks, pipes, strict=True):
        rank.start()
        sender.close()
    try:
        return _collect([receiver for receiver, _ in pipes], timeout)
    finally:
        for rank in ranks:
            rank.join(timeout=1)
            rank.kill()
            rank.join()


def _collect(receivers: Sequence[Connection], timeout: float) -> list[Any]:
    outcomes: list[Any] = [TimeoutError("hangs")] * len(receivers)
    waiting, deadline = set(receivers), time.monotonic() + timeout
    while waiting and (ready := wait(waiting, max(deadline - time.monotonic(), 0))):
        for receiver in ready:
            try:
                outcome = pickle.loads(receiver.recv_bytes())
            except EOFError:
                outcome = RuntimeError("died without a word")
            if isinstance(outcome, BaseException):
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            outcomes[receivers.index(receiver)] = outcome
            waiting.discard(receiver)
    return outcomes


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What a launcher tells one of `size` ranks of this host, of which the parent holds the store."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def _be_rank(rank: int, size: int, port: int, sender: Connection, work: Any, arguments: tuple) -> None:
    import torch

    from trainer.distributed.world import join_world
    from trainer.installation import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    os.environ |= environment(rank, size, port)
    try:
        with join_world("cpu", timeout_seconds=60) as world:
            outcome = work(world, *arguments)
    except BaseException as error:
        error.add_note(traceback.format_exc())
        outcome = error
    # Plain pickling copies tensors; multiprocessing's own would share memory of a process that is ending.
    try:
        sender.send_bytes(pickle.dumps(outcome))
    except Exception as error:
        sender.send_bytes(pickle.dumps(RuntimeError(f"{type(outcome).__name__} {outcome}: {error}")))
