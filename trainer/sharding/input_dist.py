"""Sends ids to the ranks of their tables ahead of the step that looks them up.

A TorchRec step begins by waiting twice: for the number of ids that each rank sends, and for the ids. Neither
depends on the step before. TorchRec's pipelines overlap them too, but trace the model and run the step
themselves; here the training loop stays as it is.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torchrec import KeyedJaggedTensor
from torchrec.distributed.types import Awaitable

from trainer.batching.batch import Batch
from trainer.model.tower import Tower
from trainer.model.towers import TwoTowers
from trainer.sharding.private_api import (
    EmbeddingBagCollectionContext,
    KJTList,
    ShardedEmbeddingBagCollection,
)


class InputDistCollection(ShardedEmbeddingBagCollection):
    """A sharded collection whose ids may have arrived before it is called.

    Attributes:
        arrived: Stride, ids and context of the next call; None: the call sends its ids itself.
        all_here: Whether every rank has all tables.
    """

    all_here = False
    arrived: tuple[int, KJTList, EmbeddingBagCollectionContext] | None = None

    def forward(self, *input: KeyedJaggedTensor, **_: Any) -> Any:
        """Return each feature's pooled embeddings as an awaitable `KeyedTensor` (stride, sum of widths)."""
        (features,) = input
        if self.arrived is None:
            return super().forward(features)
        (stride, ids, context), self.arrived = self.arrived, None
        assert stride == features.stride(), "ids have arrived for another batch"
        return self.compute_and_output_dist(context, ids)


def exchanged_ahead(batches: Iterator[Batch], towers: TwoTowers, device: torch.device) -> Iterator[Batch]:
    """Yield the same batches, each once its ids have arrived; called on every rank alike.

    While a step computes, the ids of the next step and the id counts of the one after it are under way. Look
    each batch up exactly once before asking for the next; other lookups may come in between. Where a rank
    has all tables and looks them up directly, nothing is sent.

    Args:
        batches: This rank's batches.
        towers: Sharded towers that look them up.
        device: Device of this rank.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    exchanges = (_Exchange(batch, towers, stream) for batch in batches)
    under_way = deque(islice(exchanges, 2))
    for first in islice(under_way, 1):
        first.send()
    while under_way:
        for following in islice(under_way, 1, 2):
            following.send()
        under_way.extend(islice(exchanges, 1))
        exchange = under_way.popleft()
        exchange.arrive()
        yield exchange.batch


class _Exchange:
    """The exchange of one batch's ids.

    On a GPU it has a stream of its own: the CPU waits for the counts, and on the training stream it would
    wait for the current step too.
    """

    def __init__(self, batch: Batch, towers: TwoTowers, stream: torch.cuda.Stream | None) -> None:
        """Send the other ranks the number of ids that they will get."""
        self.batch, self._stream = batch, stream
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            sides = (
                (towers.query, batch.queries, batch.query_partition),
                (towers.candidate, batch.candidates, batch.candidate_partition),
            )
            self._lookups = [
                _Lookup(tower, inputs, stream)
                for tower, inputs, partition in sides
                if _exchanges(tower, partition)
            ]

    def send(self) -> None:
        """Send the ids, once it is known how many will come in."""
        with torch.cuda.stream(self._stream):
            for lookup in self._lookups:
                lookup.send()

    def arrive(self) -> None:
        """Wait for the ids of this rank's tables and hand them to the collections."""
        with torch.cuda.stream(self._stream):
            arrived = [lookup.wait() for lookup in self._lookups]
        if self._stream is not None:
            current = torch.cuda.current_stream(self._stream.device)
            current.wait_stream(self._stream)
            self.batch.record_stream(current)  # including offsets, which are computed when first used
            for ids, context in arrived:
                ids.record_stream(current)
                context.record_stream(current)
        for lookup, (ids, context) in zip(self._lookups, arrived, strict=True):
            lookup.collection.arrived = (lookup.stride, ids, context)


def _exchanges(tower: Tower, partition: int | None) -> bool:
    """Tell whether a lookup of one partition, or of any (None), needs rows of other ranks."""
    collection: Any = tower.embeddings
    return partition is None and isinstance(collection, InputDistCollection) and not collection.all_here


class _Lookup:
    """The exchange of one tower's ids."""

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
        assert self._ids is not None, "call `send` first"
        return self._ids.wait(), self._context
