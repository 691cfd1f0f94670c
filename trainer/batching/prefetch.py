"""Prefetching: a thread makes batches, and copies them to the GPU, while earlier steps compute."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import torch

from trainer.batching.batch import Batch

DEFAULT_ON_CUDA = 2
"""Default number of batches made in advance; a CPU's cores are busy with the step itself."""

Made: TypeAlias = tuple[Batch, torch.cuda.Event | None]
"""A batch on its device, and on a GPU the event that its copy ends with."""


def in_advance(batches: Iterator[Batch], count: int | None, device: torch.device) -> Generator[Batch]:
    """Yield the same batches in the same order, on their device.

    Close the generator if the loop may end early; its thread has ended by then.

    Args:
        batches: Batches on the CPU, which only the thread may use from now on.
        count: Number of batches to make in advance; 0: no thread; None: `DEFAULT_ON_CUDA` on CUDA, else 0.
        device: Device of this rank.

    Raises:
        Exception: Whatever `batches` raises, in place of the batch.
    """
    on_gpu = device.type == "cuda"
    if count is None:
        count = DEFAULT_ON_CUDA if on_gpu else 0
    if count == 0:
        yield from (batch.to(device) for batch in batches)
        return
    stream = torch.cuda.Stream(device) if on_gpu else None
    # A new thread is on the first GPU, and would allocate memory there.
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
    """Return the next batch; None after the last."""
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
    """Return the batch after making the caller's stream wait for its copy."""
    batch, copied = made
    if copied is not None:
        stream = torch.cuda.current_stream(batch.weights.device)
        stream.wait_event(copied)
        batch.record_stream(stream)
    return batch


def _cancel(waiting: deque[Future[Made | None]]) -> None:
    for each in waiting:
        each.cancel()
