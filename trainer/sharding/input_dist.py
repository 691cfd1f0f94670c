"""Ids sent to the ranks that hold their tables before the step that looks them up.

A step of TorchRec's begins by waiting twice: for how many ids the others send, and for the ids. Both need
nothing of the step before. Its own pipelines trace the model and run the step; here the loop stays as it is.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torchrec import KeyedJaggedTensor
from torchrec.distributed.types import Awaitable

from trainer.batching.batch import Batch
from trainer.model.towers import Tower, TwoTowers
from trainer.sharding.private_api import (
    EmbeddingBagCollectionContext,
    KJTList,
    ShardedEmbeddingBagCollection,
)


class InputDistCollection(ShardedEmbeddingBagCollection):
    """A sharded collection whose ids may have arrived before it is called.

    Attributes:
        arrived: stride, ids and context of the next call alone; None: the call sends its own.
        all_here: every rank has all tables.
    """

    all_here = False
    arrived: tuple[int, KJTList, EmbeddingBagCollectionContext] | None = None

    def forward(self, *input: KeyedJaggedTensor, **_: Any) -> Any:
        """Pooled embeddings of each feature as an awaitable `KeyedTensor`, (stride, sum of widths)."""
        (features,) = input
        if self.arrived is None:
            return super().forward(features)
        (stride, ids, context), self.arrived = self.arrived, None
        assert stride == features.stride(), "what has arrived is of this very batch"
        return self.compute_and_output_dist(context, ids)


def exchanged_ahead(batches: Iterator[Batch], towers: TwoTowers, device: torch.device) -> Iterator[Batch]:
    """The same batches, the ids of each having arrived when it is yielded; on every rank alike.

    While a step computes, the ids of the next are on their way, and how many the one after that has: nobody
    waits. Each batch is to be looked up, once, before the next is asked for; in between, collections may be
    called with anything else. Where a rank has all tables and looks up directly, nothing is sent.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    asked = (_Exchange(batch, towers, stream) for batch in batches)
    under_way = deque(islice(asked, 2))
    for first in islice(under_way, 1):
        first.send()
    while under_way:
        for following in islice(under_way, 1, 2):
            following.send()
        under_way.extend(islice(asked, 1))
        exchange = under_way.popleft()
        exchange.arrive()
        yield exchange.batch


class _Exchange:
    """The ids of one batch on their way.

    On a GPU they are exchanged on a stream of their own: the CPU waits for counts, and on the stream of the
    steps it would wait for the step under way.
    """

    def __init__(self, batch: Batch, towers: TwoTowers, stream: torch.cuda.Stream | None) -> None:
        """Tell the others how many ids they will be sent."""
        self.batch, self._stream = batch, stream
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            sides = (
                (towers.query, batch.queries, batch.query_partition),
                (towers.candidate, batch.candidates, batch.candidate_partition),
            )
            self._lookups = [
                _Lookup(side, inputs, stream) for side, inputs, part in sides if _exchanges(side, part)
            ]

    def send(self) -> None:
        """Send the ids, as soon as it is known how many come back."""
        with torch.cuda.stream(self._stream):
            for lookup in self._lookups:
                lookup.send()

    def arrive(self) -> None:
        """Wait for the ids of this rank's tables and leave them there."""
        with torch.cuda.stream(self._stream):
            arrived = [lookup.wait() for lookup in self._lookups]
        if self._stream is not None:
            current = torch.cuda.current_stream(self._stream.device)
            current.wait_stream(self._stream)
            self.batch.record_stream(current)  # offsets, which are counted when they are first asked for
            for ids, context in arrived:
                ids.record_stream(current)
                context.record_stream(current)
        for lookup, (ids, context) in zip(self._lookups, arrived, strict=True):
            lookup.collection.arrived = (lookup.stride, ids, context)


def _exchanges(tower: Tower, part: int | None) -> bool:
    """Whether a batch whose ids are in one partition, or None, has rows of other ranks."""
    collection: Any = tower.embeddings
    return part is None and isinstance(collection, InputDistCollection) and not collection.all_here


class _Lookup:
    """The same of one tower."""

    def __init__(self, tower: Tower, inputs: KeyedJaggedTensor, stream: torch.cuda.Stream | None) -> None:
        collection: Any = tower.embeddings
        self.collection: InputDistCollection = collection
        self.stride, self._context = inputs.stride(), self.collection.create_context()
        if stream is not None:
            inputs.record_stream(stream)
        self._counts = self.collection.input_dist(self._context, tower.lookups(inputs))
        self._ids: Awaitable[KJTList] | None = None

    def send(self) -> None:
        self._ids = self._counts.wait()

    def wait(self) -> tuple[KJTList, EmbeddingBagCollectionContext]:
        assert self._ids is not None, "sent before"
        return self._ids.wait(), self._context
