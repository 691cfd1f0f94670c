"""Batches made in advance: by a thread, while the step before computes, and on a GPU copied by then."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import torch

from trainer.batching.batch import Batch

DEFAULT_ON_CUDA = 2
"""Batches made in advance where nothing else is asked for; a CPU's cores are busy with the step itself."""

Made: TypeAlias = tuple[Batch, torch.cuda.Event | None]
"""A batch on its device, and on a GPU the event after which its copy is whole."""


def in_advance(batches: Iterator[Batch], count: int | None, device: torch.device) -> Generator[Batch]:
    """The same batches in the same order, on their device.

    Close it where the loop may end early: the thread has ended once it is closed.

    Args:
        batches: on the CPU; from now on used by the thread alone.
        count: made in advance by a thread; 0: each when it is asked for; None: `DEFAULT_ON_CUDA` on a GPU,
            otherwise 0.
    Raises: whatever `batches` raises, where the batch would have come.
    """
    on_gpu = device.type == "cuda"
    if count is None:
        count = DEFAULT_ON_CUDA if on_gpu else 0
    if count == 0:
        yield from (batch.to(device) for batch in batches)
        return
    stream = torch.cuda.Stream(device) if on_gpu else None
    # A thread begins on the first GPU, and would take memory there.
    begin = partial(torch.cuda.set_device, device) if on_gpu else None
    with ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=begin) as thread:
        waiting = deque(thread.submit(_make, batches, stream) for _ in range(count))
        try:
            while (made := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(_make, batches, stream))
                yield _arrived(made)
        finally:
            _cancel(waiting)


def _make(batches: Iterator[Batch], stream: torch.cuda.Stream | None) -> Made | None:
    """The next batch; None after the last."""
    if stream is None:
        batch = next(batches, None)
        return None if batch is None else (batch, None)
    with torch.cuda.stream(stream):
        batch = next(batches, None)
        if batch is None:
            return None
        batch, copied = batch.pin_memory().to(stream.device), torch.cuda.Event()
        copied.record(stream)
        return batch, copied


def _arrived(made: Made) -> Batch:
    """The batch, once the stream of the caller waits for its copy."""
    batch, copied = made
    if copied is not None:
        stream = torch.cuda.current_stream(batch.weights.device)
        stream.wait_event(copied)
        batch.record_stream(stream)
    return batch


def _cancel(waiting: deque[Future[Made | None]]) -> None:
    for each in waiting:
        each.cancel()
