"""One rank's batch of one step: what it looks up and scores."""

from dataclasses import dataclass
from typing import Any

import torch
from torchrec import KeyedJaggedTensor

from trainer.histories.slots import Slots


@dataclass(frozen=True)
class Batch:
    """One rank's share of one step: b rows and c candidates are looked up, B rows and C candidates scored.

    Attributes:
        queries: Query features, stride b.
        candidates: Candidate features, stride c: this rank's share of the candidate set or, for pointwise
            losses whose candidates are not gathered, the item of each row (c = b).
        positives: (2, P) int64: row indices, then candidate indices; row < B and candidate < C.
        positive_counts: Positives of each row on all ranks, (B,) int64, at least 1 unless the loss is
            pointwise; with weights or explicit negatives the sum of the weights of both, float32.
        seen: (2, K) int64 (row, candidate) pairs that are not negatives; includes all positives.
        log_q: Natural log of the chance that a candidate is in the set, (C,) float32, or None.
        weights: Weight of each row's loss, (B,) float32; 1 on average over all rows of an epoch.
        values: Value of each row's interaction, (b,) float32, or None.
        query_counts: b of every rank if the rows of all ranks are scored, rank by rank; otherwise empty, and
            B is b.
        candidate_counts: c of every rank if the candidates of all ranks are scored; otherwise empty, and C
            is c.
        rows: Rows of the step over all ranks.
        interactions: Interactions that the step learns from, over all ranks.
        query_partition: Partition of row-partitioned tables that has all ids of the queries; None: any.
        candidate_partition: The same of the candidates.
        positive_weights: Weights of the positives, (P,) float32, or None: all weigh 1.
        negatives: (2, M) int64 explicit negatives as (row, candidate), or None.
        negative_weights: Their weights, (M,) float32, or None.
        query_values: Attributes of the queries that are numbers or vectors, side by side, (b, sum of their
            widths) float32 with NaN where missing; None without any.
        candidate_values: Those of the candidates, (c, sum of their widths).
        slots: Ordered histories of the rows, whose items are among the candidates of all ranks; then queries
            have the stride of its stretches, and b is still the number of rows. None without any.
    """

    queries: KeyedJaggedTensor
    candidates: KeyedJaggedTensor
    positives: torch.Tensor
    positive_counts: torch.Tensor
    seen: torch.Tensor
    log_q: torch.Tensor | None
    weights: torch.Tensor
    values: torch.Tensor | None
    query_counts: list[int]
    candidate_counts: list[int]
    rows: int
    interactions: int
    query_partition: int | None = None
    candidate_partition: int | None = None
    positive_weights: torch.Tensor | None = None
    negatives: torch.Tensor | None = None
    negative_weights: torch.Tensor | None = None
    query_values: torch.Tensor | None = None
    candidate_values: torch.Tensor | None = None
    slots: Slots | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        if device.type == "cpu":
            return self
        return self._with(
            {name: value.to(device, non_blocking=True) for name, value in self._tensors().items()}
        )

    def pin_memory(self) -> "Batch":
        """Return the batch in pinned memory, from which copies to a GPU run in the background."""
        return self._with({name: value.pin_memory() for name, value in self._tensors().items()})

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until work queued on another stream than the one that made the batch is done."""
        for value in self._tensors().values():
            value.record_stream(stream)

    def _tensors(self) -> dict[str, torch.Tensor | KeyedJaggedTensor | Slots]:
        return {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor | KeyedJaggedTensor | Slots)
        }

    def _with(self, values: dict[str, Any]) -> "Batch":
        return Batch(**(vars(self) | values))
